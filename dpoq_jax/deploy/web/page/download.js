// Fetches what the export wrote, and checks that it is that.
import { sha256 } from './sha256.js';

// Returns the unpacked content of a file, and the milliseconds that it took.
// `entry` has its name, size and digest; `onProgress` is called with the bytes that are here.
export async function download(entry, onProgress = () => {}) {
  const started = performance.now();
  const bytes = await fetched(entry, onProgress);
  if (bytes.length !== entry.bytes || (await sha256(bytes)) !== entry.sha256) {
    throw new Error(`${entry.file} is damaged: it is not the file that was exported.`);
  }
  const content = await unpacked(bytes);
  return { content, milliseconds: performance.now() - started };
}

async function fetched(entry, onProgress) {
  const parts = [];
  let size = 0;
  try {
    // Asks the server whether a copy that the browser keeps is still the same.
    const response = await fetch(entry.file, { cache: 'no-cache' });
    if (!response.ok) throw new Error(`the server says ${response.status}`);
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts.push(part.value);
      size += part.value.length;
      onProgress(size);
    }
  } catch (error) {
    throw new Error(`${entry.file} could not be fetched (${error.message}).`);
  }
  const bytes = new Uint8Array(size);
  let place = 0;
  for (const part of parts) {
    bytes.set(part, place);
    place += part.length;
  }
  return bytes;
}

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
