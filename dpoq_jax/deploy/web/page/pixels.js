// Makes of any picture the pixels that the network takes, as the library does: Pillow's grey, and
// Pillow's bilinear filter to the last bit, rows first. A canvas would resize in a way of its own.

const MOST_PIXELS = 2 ** 26;
// Of fixed-point numbers, as in Pillow.
const BITS = 22;

// Returns the pixels of a Blob, or of an element that shows a picture, as a Uint8Array.
// `shape` is (height, width, channels), `shorterSide` as in network.json.
export async function pixelsOf(source, shape, shorterSide) {
  // The numbers in the file, whatever the screen makes of them; turned upright.
  const options = { colorSpaceConversion: 'none', premultiplyAlpha: 'none' };
  const bitmap = await createImageBitmap(source, options);
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    throw new Error(`${bitmap.width} x ${bitmap.height} pixels are too many.`);
  }
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  const channels = shape[2];
  return fitted({ data: opaque(data, channels), width, height, channels }, shape, shorterSide);
}

// Returns grey, or red, green and blue, of pixels that have four channels.
function opaque(data, channels) {
  const result = new Uint8Array((data.length / 4) * channels);
  for (let from = 0, to = 0; from < data.length; from += 4, to += channels) {
    const [red, green, blue] = [data[from], data[from + 1], data[from + 2]];
    if (channels === 1) {
      result[to] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    } else {
      result[to] = red;
      result[to + 1] = green;
      result[to + 2] = blue;
    }
  }
  return result;
}

// Resizes a picture to a shape, or by its shorter side before its centre is taken.
export function fitted(picture, [height, width], shorterSide) {
  if (!shorterSide) return resized(picture, width, height).data;
  const short = Math.min(picture.width, picture.height);
  const scaled = [picture.width, picture.height].map((side) =>
    Math.floor((shorterSide * side) / short));
  if (scaled[0] * scaled[1] > MOST_PIXELS) throw new Error('This picture is too long to resize.');
  return centre(resized(picture, ...scaled), width, height);
}

function centre({ data, width, height, channels }, newWidth, newHeight) {
  const [left, top] = [roundedToEven(width - newWidth), roundedToEven(height - newHeight)];
  const result = new Uint8Array(newWidth * newHeight * channels);
  for (let y = 0; y < newHeight; y++) {
    const start = ((top + y) * width + left) * channels;
    result.set(data.subarray(start, start + newWidth * channels), y * newWidth * channels);
  }
  return result;
}

// Returns half of a whole number, rounded as Python does.
function roundedToEven(twice) {
  const down = Math.floor(twice / 2);
  return twice % 2 ? down + (down % 2) : down;
}

function resized(picture, width, height) {
  const wide = picture.width === width ? picture : horizontally(picture, width);
  return wide.height === height ? wide : vertically(wide, height);
}

function horizontally({ data, width, height, channels }, newWidth) {
  const result = new Uint8Array(newWidth * height * channels);
  filters(width, newWidth).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < channels; c++) {
        const start = (y * width + first) * channels + c;
        result[(y * newWidth + x) * channels + c] = weighted(data, start, channels, weights);
      }
    }
  });
  return { data: result, width: newWidth, height, channels };
}

function vertically({ data, width, height, channels }, newHeight) {
  const row = width * channels;
  const result = new Uint8Array(newHeight * row);
  filters(height, newHeight).forEach(({ first, weights }, y) => {
    for (let x = 0; x < row; x++) {
      result[y * row + x] = weighted(data, first * row + x, row, weights);
    }
  });
  return { data: result, width, height: newHeight, channels };
}

function weighted(data, start, step, weights) {
  let sum = 2 ** (BITS - 1);
  for (let k = 0; k < weights.length; k++) sum += data[start + k * step] * weights[k];
  return Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));
}

// Returns, for each new pixel of a row, the first old one that it is made of, and their weights.
function filters(size, newSize) {
  const scale = size / newSize;
  const support = Math.max(scale, 1);
  return Array.from({ length: newSize }, (_, index) => {
    const middle = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - support + 0.5));
    const end = Math.min(size, Math.trunc(middle + support + 0.5));
    const weights = Array.from({ length: end - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((k + first - middle + 0.5) * (1 / support))));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((w) => Math.trunc(0.5 + (w / total) * 2 ** BITS)) };
  });
}
