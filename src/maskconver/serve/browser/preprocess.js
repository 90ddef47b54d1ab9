// From an image to the network's input, as `prepare` in Python's core/preprocess.py.
import { lerp, resizeTaps, roundEven } from "./resize.js";
const f = Math.fround;

/** The [height, width] that an image has on the network's input, padding left out. */
export function scaledSize([height, width], input) {
  if (input.mode === "native")
    return [height, width].map((n) => Math.max(roundEven(n * input.scale), 1));
  const spare = [input.size[0] - height, input.size[1] - width];
  if (spare.every((n) => n >= 0 && n <= 1)) return [height, width];
  const k = Math.min(f(input.size[0] / height), f(input.size[1] / width));
  return [height, width].map((n) => Math.max(roundEven(f(n * k)), 1));
}

/** The values of an image that become black and white. */
export function stretchLevels(pixels, input) {
  if (input.stretch !== "percentile") return [0, 255];
  const counts = new Float64Array(256);
  for (const value of pixels) counts[value]++;
  const upTo = counts.map((_, i) => counts.subarray(0, i + 1).reduce((a, b) => a + b, 0));
  const valueAt = (position) => upTo.findIndex((n) => n > position);
  let [low, high] = input.percentiles.map((percent) => {
    const position = (percent / 100) * (pixels.length - 1), below = Math.floor(position);
    const first = valueAt(below);
    return first + (position - below) * (valueAt(Math.ceil(position)) - first);
  });
  if (high <= low) {
    low = counts.findIndex((n) => n > 0);
    high = counts.findLastIndex((n) => n > 0);
  }
  return high > low ? [low, high] : [0, 255];
}

/** RGBA bytes to the model's channels: RGB, or grey as Pillow computes it. */
export function channelsOf(rgba, channels) {
  const count = rgba.length / 4, out = new Uint8Array(count * channels);
  for (let i = 0, j = 0; i < count; i++, j += 4) {
    if (channels === 1) out[i] = (rgba[j] * 19595 + rgba[j + 1] * 38470 + rgba[j + 2] * 7471 + 0x8000) >> 16;
    else for (let c = 0; c < 3; c++) out[3 * i + c] = rgba[j + c];
  }
  return out;
}

/** Stretched, resized, normalised, and padded right and below with zeros.
 * @param pixels height · width · channels bytes, the channels of a pixel side by side
 * @param input the model's input, as its file describes it
 * @param canvas height and width of the network's input where it should be another one
 * @returns data (channels · h · w float32), dims, and geometry: how it lies on the image */
export function prepare(pixels, [height, width], input, levels = stretchLevels(pixels, input), canvas = null) {
  const channels = input.mean.length, scaled = scaledSize([height, width], input);
  canvas ||= input.mode === "fit" ? input.size : scaled.map((n) => Math.ceil(n / input.multiple) * input.multiple);
  const [rows, columns] = [resizeTaps(height, scaled[0]), resizeTaps(width, scaled[1])];
  const [low, high] = levels, span = f(high - low), start = f(low);
  const table = Float32Array.from({ length: 256 }, (_, v) =>
    low === 0 && high === 255 ? v : Math.min(Math.max(f(v - start), 0), span));
  const data = new Float32Array(channels * canvas[0] * canvas[1]);
  for (let c = 0; c < channels; c++) {
    const factor = f(1 / ((high - low) * input.std[c])), summand = f(-input.mean[c] / input.std[c]);
    for (let y = 0; y < scaled[0]; y++) {
      const above = rows.low[y] * width, below = rows.high[y] * width, down = rows.weight[y];
      const column = (x) => lerp(table[pixels[(above + x) * channels + c]], table[pixels[(below + x) * channels + c]], down);
      for (let x = 0, at = (c * canvas[0] + y) * canvas[1]; x < scaled[1]; x++, at++)
        data[at] = f(lerp(column(columns.low[x]), column(columns.high[x]), columns.weight[x]) * factor) + summand;
    }
  }
  const scale = [scaled[0] / height, scaled[1] / width];
  return { data, dims: [1, channels, ...canvas], geometry: { image: [height, width], canvas, scale } };
}
