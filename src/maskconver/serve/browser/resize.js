// Bilinear resizing as in Python's core/resize.py, in float32: the same numbers to the last bit.
const f = Math.fround;

/** Python's round: halves go to the even neighbour. */
export function roundEven(value) {
  const low = Math.floor(value), rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
}

/** Where each output of one axis reads its source: two neighbours, the share of the second, and how many
 * outputs lie inside the image. */
function tapsAt(positions, length, inside = positions.length) {
  const n = positions.length;
  const low = new Int32Array(n), high = new Int32Array(n), weight = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    const at = Math.min(Math.max(positions[i], 0), length - 1);
    low[i] = Math.floor(at);
    high[i] = Math.min(low[i] + 1, length - 1);
    weight[i] = at - low[i];
  }
  return { low, high, weight, inside };
}

/** An axis of `length` cells resized to `target`. */
export function resizeTaps(length, target) {
  const step = f(length / target);
  return tapsAt(Float32Array.from({ length: target }, (_, i) => f(f(i + 0.5) * step) - 0.5), length);
}

/** The same with the corners of both aligned. */
export function alignedTaps(length, target) {
  const step = f((length - 1) / Math.max(target - 1, 1));
  return tapsAt(Float32Array.from({ length: target }, (_, i) => i * step), length);
}

/** How the rows and columns of the answer read the masks; padding is cut off, pixels beyond the image are
 * not `inside`. `geometry` is { image, canvas, scale }, each [y, x], or null. */
export function outputTaps(maskSize, geometry, outputSize = null) {
  return [0, 1].map((i) => {
    if (!geometry) return resizeTaps(maskSize[i], (outputSize || maskSize)[i]);
    const length = Math.ceil(geometry.canvas[i] / geometry.scale[i] - 1e-4);
    const step = maskSize[i] / length, target = (outputSize || geometry.image)[i];
    const positions = Float64Array.from({ length: target }, (_, k) => (k + 0.5) * step - 0.5);
    return tapsAt(positions, maskSize[i], Math.min(geometry.image[i], target));
  });
}

export const lerp = (low, high, weight) => f(low + f(weight * f(high - low)));
