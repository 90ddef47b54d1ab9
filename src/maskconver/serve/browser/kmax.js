// The kMaX-DeepLab rule of Python's merge/kmax.py: masks, best first, take the free ones of their pixels.
import { alignedTaps, lerp, resizeTaps, roundEven } from "./resize.js";
import { isFinite, smallestArea } from "./merge.js";
const f = Math.fround;

export function mergeKmax(proposals, config, isThing) {
  const { scores, labels, masks, maskSize } = proposals;
  if (!isFinite(scores) || !isFinite(masks))
    throw new Error("the network's scores or mask logits hold NaN or infinite values");
  const thing = (i) => labels[i] >= 0 && isThing[labels[i]];
  const stuffThreshold = config.stuff_threshold ?? config.score_threshold;
  const candidates = [...scores.keys()].filter(
    (i) => labels[i] >= 0 && scores[i] > f(thing(i) ? config.score_threshold : stuffThreshold));
  const [rows, columns] = [0, 1].map((i) => steps(maskSize[i], i, proposals));
  const size = [rows[1].low.length, columns[1].low.length], pixels = size[0] * size[1];
  const found = candidates.map((i) => ({ index: i, bits: new Uint8Array(Math.ceil(pixels / 8)), area: 0, total: 0 }));
  if (found.length) fillMasks(found, { masks, maskSize, rows, columns, n: scores.length }, config);
  for (const one of found)
    one.rank = f(scores[one.index] ** config.class_exponent) * (one.total / Math.max(one.area, 1)) ** config.mask_exponent;
  found.sort((a, b) => b.rank - a.rank || a.index - b.index);

  const ids = new Int32Array(pixels), first = [], segmentOf = new Map();
  for (const { index, bits, area } of found) {
    const free = [];
    for (let i = 0; i < pixels; i++) if (bits[i >> 3] & (1 << (i & 7)) && !ids[i]) free.push(i);
    if (!(free.length > config.overlap_threshold * area)) continue;
    const label = labels[index];
    if (isThing[label] || !segmentOf.has(label)) segmentOf.set(label, first.push(index));
    for (const i of free) ids[i] = segmentOf.get(label);
  }
  return { ids, size, scores, first: largeEnough(ids, size, first, (i) => thing(i) ? config.min_area : config.stuff_min_area ?? config.min_area) };
}

/** The two resizes of an axis: masks to the padded canvas, and its image to the answer. */
function steps(length, i, { geometry, maskSize }) {
  const canvas = geometry ? geometry.canvas : maskSize;
  const taps = canvas[1] % 2 ? alignedTaps : resizeTaps;
  if (!geometry) return [taps(length, canvas[i]), taps(canvas[i], canvas[i])];
  const image = geometry.image[i];
  const valid = Math.min(Math.max(roundEven(image * geometry.scale[i]), 1), canvas[i]);
  return [taps(length, canvas[i]), taps(valid, image)];
}

/** Where each candidate's probability exceeds `mask_threshold`, and the sum of its probability there. */
function fillMasks(found, { masks, maskSize: [, maskWidth], rows, columns, n }, config) {
  const width = columns[1].low.length, cells = masks.length / n, ready = new Map();
  const softmax = config.mask_activation === "softmax", threshold = f(config.mask_threshold);
  const wanted = softmax ? [...Array(n).keys()] : found.map((one) => one.index);

  const canvasRow = (y) => { // all masks at a row of the canvas and the columns of the answer
    if (ready.has(y)) return ready.get(y);
    const out = new Float32Array(wanted.length * width), line = new Float32Array(columns[0].low.length);
    const [above, below, down] = [rows[0].low[y] * maskWidth, rows[0].high[y] * maskWidth, rows[0].weight[y]];
    wanted.forEach((query, q) => {
      const mask = masks.subarray(query * cells, (query + 1) * cells);
      const value = (x) => lerp(mask[above + x], mask[below + x], down);
      const [first, second] = columns;
      for (let x = 0; x < line.length; x++) line[x] = lerp(value(first.low[x]), value(first.high[x]), first.weight[x]);
      for (let x = 0; x < width; x++) out[q * width + x] = lerp(line[second.low[x]], line[second.high[x]], second.weight[x]);
    });
    if (ready.size > 2) ready.delete(ready.keys().next().value);
    ready.set(y, out);
    return out;
  };

  const values = new Float32Array(wanted.length * width), sum = new Float32Array(width), most = new Float32Array(width);
  for (let y = 0; y < rows[1].low.length; y++) {
    const above = canvasRow(rows[1].low[y]), below = canvasRow(rows[1].high[y]), down = rows[1].weight[y];
    most.fill(-Infinity);
    for (let i = 0; i < values.length; i++) {
      values[i] = lerp(above[i], below[i], down);
      if (values[i] > most[i % width]) most[i % width] = values[i];
    }
    sum.fill(softmax ? 0 : 1);
    for (let i = 0; i < values.length; i++) {
      values[i] = softmax ? Math.exp(f(values[i] - most[i % width])) : f(1 / f(1 + f(Math.exp(-values[i]))));
      if (softmax) sum[i % width] += values[i];
    }
    found.forEach((one, k) => {
      const start = (softmax ? one.index : k) * width;
      for (let x = 0; x < width; x++) {
        const probability = f(values[start + x] / sum[x]), at = y * width + x;
        if (!(probability > threshold)) continue;
        one.bits[at >> 3] |= 1 << (at & 7);
        one.area++;
        one.total += probability;
      }
    });
  }
}

/** Segments of too few pixels become void; the others are numbered anew. */
function largeEnough(ids, size, first, shareOf) {
  const areas = new Float64Array(first.length + 1), numbers = new Int32Array(first.length + 1), kept = [];
  for (const id of ids) areas[id]++;
  first.forEach((index, i) => {
    if (areas[i + 1] > smallestArea(shareOf(index), size)) numbers[i + 1] = kept.push(index);
  });
  for (let i = 0; i < ids.length; i++) ids[i] = numbers[ids[i]];
  return kept;
}
