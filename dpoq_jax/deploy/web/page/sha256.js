// Returns the SHA-256 digest of bytes in hexadecimal.
// Browsers have one of their own on https and localhost alone; a phone that opens the page of a
// computer in the same network has neither, and takes the one below.
export async function sha256(bytes) {
  const digest = crypto.subtle
    ? new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
    : plainSha256(bytes);
  return [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

// The same by FIPS 180-4.
export function plainSha256(bytes) {
  const padded = new Uint8Array(((bytes.length + 8 >> 6) + 1) << 6);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, (bytes.length * 8) >>> 0);
  const state = fractions(8, Math.sqrt);
  const constants = fractions(64, Math.cbrt);
  const words = new Int32Array(64);
  for (let start = 0; start < padded.length; start += 64) {
    for (let t = 0; t < 64; t++) {
      words[t] = t < 16 ? view.getInt32(start + 4 * t) : expanded(words, t);
    }
    addBlock(state, words, constants);
  }
  const result = new DataView(new ArrayBuffer(32));
  state.forEach((word, index) => result.setInt32(4 * index, word));
  return new Uint8Array(result.buffer);
}

const turned = (word, count) => (word >>> count) | (word << (32 - count));

// Returns the first 32 bits of the fractions of roots of the first primes.
function fractions(count, root) {
  const primes = [];
  for (let number = 2; primes.length < count; number++) {
    if (primes.every((prime) => number % prime)) primes.push(number);
  }
  return Int32Array.from(primes, (prime) => ((root(prime) % 1) * 2 ** 32) | 0);
}

function expanded(words, t) {
  const [a, b] = [words[t - 15], words[t - 2]];
  const first = turned(a, 7) ^ turned(a, 18) ^ (a >>> 3);
  const second = turned(b, 17) ^ turned(b, 19) ^ (b >>> 10);
  return (words[t - 16] + first + words[t - 7] + second) | 0;
}

function addBlock(state, words, constants) {
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t++) {
    const sum = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
    const first = (h + sum + ((e & f) ^ (~e & g)) + constants[t] + words[t]) | 0;
    const other = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22);
    const second = (other + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, index) => { state[index] += word; });
}
