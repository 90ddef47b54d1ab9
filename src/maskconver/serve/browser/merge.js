// From proposals to one segment a pixel: the rules of Python's merge/, with the same results.
import { lerp, outputTaps } from "./resize.js";
import { mergeKmax } from "./kmax.js";
const f = Math.fround;

const sigmoid = (x) => f(1 / f(1 + f(Math.exp(-x))));
const hardSigmoid = (x) => f(Math.min(Math.max(f(x + 3), 0), 6) * f(0.16667));

/** The segments of one image.
 * @param proposals scores (N), labels (N), masks (N · h · w logits), maskSize [h, w], and geometry or null
 * @param config the model's `postprocess`
 * @param isThing of each label
 * @returns ids (Int32Array, 0 = void), size [height, width], labels and scores of segments 1, 2, … */
export function postprocess(proposals, config, isThing, outputSize = null) {
  const rule = { maskconver: mergeMasks, kmax: mergeKmax }[config.rule];
  if (!rule) throw new Error(`this page does not know the rule "${config.rule}"; export the model again`);
  const fill = config.fill_label;
  if (config.fill_only)
    proposals = { ...proposals, scores: proposals.scores.map((score, i) => proposals.labels[i] === fill ? 0 : score) };
  const { ids, size, first, scores } = rule(proposals, config, isThing, outputSize);
  const found = { ids, size, labels: first.map((i) => proposals.labels[i]), scores: first.map((i) => scores[i]) };
  if (fill !== null && fill !== undefined && ids.includes(0)) {
    if (!found.labels.includes(fill)) { found.labels.push(fill); found.scores.push(0); }
    const number = found.labels.indexOf(fill) + 1;
    for (let i = 0; i < ids.length; i++) if (!ids[i]) ids[i] = number;
  }
  return found;
}

/** Whether a mask holds neither NaN nor infinite values. */
export function isFinite(mask) {
  let bad = 0;
  for (let i = 0; i < mask.length; i++) bad += mask[i] - mask[i];
  return bad === 0;
}

/** `min_area` in pixels of an answer; a segment must have more. */
export const smallestArea = (share, [height, width]) => Math.round(share * Math.max(height, width) ** 2 * 1e6) / 1e6;

/** The MaskConver rule: candidates compete for pixels by probability · score^class_exponent; those that win too few,
 * or too little of their own mask, are rejected. */
function mergeMasks(proposals, config, isThing, outputSize) {
  const { masks, maskSize, labels } = proposals, cells = maskSize[0] * maskSize[1];
  const maskOf = (i) => masks.subarray(i * cells, (i + 1) * cells);
  const scores = withMaskness(proposals, config, maskOf);
  if (!isFinite(scores)) throw new Error("the network's scores hold NaN or infinite values");
  let candidates = [...scores.keys()].filter((i) => scores[i] > f(config.score_threshold));
  candidates.sort((a, b) => scores[b] - scores[a] || a - b);
  for (const i of candidates)
    if (!isFinite(maskOf(i))) throw new Error("the network's mask logits hold NaN or infinite values");
  if (config.nms_iou < 1) candidates = distinct(candidates, maskOf, { labels, size: maskSize, iou: f(config.nms_iou) });

  const [rows, columns] = outputTaps(maskSize, proposals.geometry, outputSize);
  const size = [rows.low.length, columns.low.length];
  const winner = new Int32Array(size[0] * size[1]).fill(-1);
  if (!candidates.length) return { ids: winner.fill(0), size, first: [], scores };
  const competition = new Competition(config, rows, columns, maskSize[1]);
  const competitors = candidates.map((i) => ({ score: f(scores[i] ** config.class_exponent), mask: maskOf(i) }));
  const own = competition.run(competitors, winner);

  const visible = new Float64Array(candidates.length), smallest = smallestArea(config.min_area, size);
  for (let i = 0; i < winner.length; i++) if (winner[i] >= 0) visible[winner[i]]++;
  const kept = candidates.map((i, k) => visible[k] > smallest && labels[i] >= 0 && own[k] > 0 &&
    f(visible[k]) > f(f(config.overlap_threshold) * f(own[k])));
  if (config.reassign && kept.includes(true) && kept.includes(false))
    competition.reassign(competitors, winner, kept);

  // Every kept thing is a segment, all kept stuff of one class is one.
  const first = [], stuff = new Map(), numbers = new Int32Array(candidates.length);
  candidates.forEach((i, k) => {
    if (!kept[k]) return;
    const label = labels[i], known = isThing[label] ? undefined : stuff.get(label);
    numbers[k] = known || first.push(i);
    stuff.set(label, numbers[k]);
  });
  for (let i = 0; i < winner.length; i++) winner[i] = winner[i] < 0 ? 0 : numbers[winner[i]];
  return { ids: winner, size, first, scores };
}

/** Scores times the mean probability of each mask where it is above 0.5, to the power `maskness`. */
function withMaskness({ scores }, config, maskOf) {
  if (!config.maskness) return scores;
  return scores.map((score, i) => {
    const mask = score > f(config.score_threshold) ? maskOf(i) : null;
    if (!mask || !isFinite(mask)) return score;
    let sum = 0, count = 0;
    for (let j = 0; j < mask.length; j++) if (mask[j] > 0) { sum += sigmoid(mask[j]); count++; }
    return score * f(f(count ? sum / count : 0) ** config.maskness);
  });
}

/** The candidates, best first, that overlap no better kept one of their label above an IoU. */
function distinct(candidates, maskOf, { labels, size: [height, width], iou }) {
  const kept = [];
  for (const i of candidates) {
    const mask = maskOf(i);
    let [area, top, bottom, left, right] = [0, height, -1, width, -1];
    for (let y = 0, at = 0; y < height; y++)
      for (let x = 0; x < width; x++, at++) {
        if (!(mask[at] > 0)) continue;
        area++;
        if (y < top) top = y;
        bottom = y;
        if (x < left) left = x;
        if (x > right) right = x;
      }
    const box = { index: i, mask, area, top, bottom, left, right };
    const clashes = (other) => {
      if (labels[other.index] !== labels[i]) return false;
      let shared = 0;
      const from = Math.max(left, other.left), to = Math.min(right, other.right);
      for (let y = Math.max(top, other.top); y <= Math.min(bottom, other.bottom); y++)
        for (let at = y * width + from; at <= y * width + to; at++)
          if (mask[at] > 0 && other.mask[at] > 0) shared++;
      return shared > f(iou * f(f(area + other.area) - shared));
    };
    if (!kept.some(clashes)) kept.push(box);
  }
  return kept.map((box) => box.index);
}

const STEP = 32, REACH = 32; // of the table of probabilities: entries for a logit's unit, and ±logits

/** Who wins each pixel. Bilinear interpolation is convex: between four neighbouring mask cells no logit leaves
 * the range of these corners. So most blocks of pixels have one possible winner, and need no exponential. */
class Competition {
  constructor(config, rows, columns, maskWidth) {
    Object.assign(this, { config, rows, columns, maskWidth });
    this.probability = config.hard_sigmoid ? hardSigmoid : sigmoid;
    this.half = this.logitAbove(0.5);
    this.least = config.mask_threshold ? this.logitAbove(f(config.mask_threshold)) : -Infinity;
    this.table = Float32Array.from({ length: 2 * REACH * STEP + 1 }, (_, i) => this.probability(i / STEP - REACH));
    this.width = columns.low.length;
    [this.rowBlocks, this.columnBlocks] = [blocks(rows), blocks(columns)];
  }

  /** The least float32 logit whose probability exceeds a value. */
  logitAbove(value) {
    let low = -200, high = 200;
    if (!(this.probability(high) > value)) return Infinity;
    for (;;) {
      const middle = f((low + high) / 2);
      if (middle === low || middle === high) return high;
      if (this.probability(middle) > value) high = middle; else low = middle;
    }
  }

  /** No less than the probability of a logit; and no more. */
  atMost(x) { return x >= REACH ? 1.0001 : this.table[x < -REACH ? 0 : Math.ceil((x + REACH) * STEP)]; }
  atLeast(x) { return x < -REACH ? 0 : this.table[x >= REACH ? 2 * REACH * STEP : Math.floor((x + REACH) * STEP)]; }

  /** Writes the winner of every pixel, -1 for nobody; of pixels that `skip` knows, leaves it.
   * @param competitors score and mask of each, best first
   * @returns how many pixels each mask covers with more than 0.5 */
  run(competitors, winner, skip = null) {
    const { rowBlocks, columnBlocks, maskWidth, least, half, config } = this;
    const n = competitors.length, across = columnBlocks.length, own = new Float64Array(n);
    let largest = 0;
    for (const { mask } of competitors)
      for (let i = 0; i < mask.length; i++) if (mask[i] > largest || -mask[i] > largest) largest = Math.abs(mask[i]);
    const slack = 1e-6 * (1 + largest); // what rounding may add to a logit, or to a probability, relative
    const highs = new Float32Array(n * across), floor = new Float64Array(across), alive = new Int32Array(n);
    const up = new Float32Array(maskWidth), down = new Float32Array(maskWidth);
    for (const row of rowBlocks) {
      floor.fill(0);
      for (let k = 0; k < n; k++) {
        const { score, mask } = competitors[k], above = row.low * maskWidth, below = row.high * maskWidth;
        for (let x = 0; x < maskWidth; x++) {
          const a = mask[above + x], b = mask[below + x];
          up[x] = a > b ? a : b;
          down[x] = a > b ? b : a;
        }
        for (let c = 0; c < across; c++) {
          const { low, high, start, end } = columnBlocks[c];
          const most = up[low] > up[high] ? up[low] : up[high], fewest = down[low] < down[high] ? down[low] : down[high];
          highs[k * across + c] = most;
          if (fewest >= least + slack) floor[c] = Math.max(floor[c], score * this.atLeast(fewest));
          if (skip) continue;
          if (fewest >= half + slack) own[k] += (row.end - row.start) * (end - start);
          else if (most >= half - slack) own[k] += this.count(mask, row, columnBlocks[c]);
        }
      }
      for (let c = 0; c < across; c++) {
        const column = columnBlocks[c], limit = floor[c] * (1 - 2 * slack);
        let count = 0;
        for (let k = 0; k < n && competitors[k].score * 1.0001 >= limit; k++) {
          const most = highs[k * across + c];
          if (most >= least - slack && competitors[k].score * this.atMost(most) >= limit) alive[count++] = k;
        }
        const sure = count === 0 || (count === 1 && (!config.mask_threshold || floor[c] > 0));
        for (let y = row.start; y < row.end; y++)
          for (let x = column.start, at = y * this.width + x; x < column.end; x++, at++) {
            if (skip && !skip[winner[at] + 1]) continue;
            winner[at] = sure ? (count ? alive[0] : -1) : this.best(competitors, alive, count, y, x);
          }
      }
    }
    this.beyond(competitors, winner, own, skip);
    return own;
  }

  /** The logit of a mask at a pixel. */
  logit(mask, y, x) {
    const { rows, columns, maskWidth } = this;
    const above = rows.low[y] * maskWidth, below = rows.high[y] * maskWidth, left = columns.low[x], right = columns.high[x];
    const down = rows.weight[y];
    return lerp(lerp(mask[above + left], mask[below + left], down), lerp(mask[above + right], mask[below + right], down), columns.weight[x]);
  }

  count(mask, row, column) {
    let count = 0;
    for (let y = row.start; y < row.end; y++)
      for (let x = column.start; x < column.end; x++) if (this.logit(mask, y, x) >= this.half) count++;
    return count;
  }

  /** The first of the largest bids for a pixel. */
  best(competitors, alive, count, y, x) {
    let best = this.config.mask_threshold ? 0 : -1, winner = -1;
    for (let j = 0; j < count; j++) {
      const { score, mask } = competitors[alive[j]];
      if (score * 1.0001 < best) break;
      const logit = this.logit(mask, y, x);
      if (logit < this.least || score * this.atMost(logit) < best) continue;
      const bid = f(this.probability(logit) * score);
      if (bid > best) { best = bid; winner = alive[j]; }
    }
    return winner;
  }

  /** Pixels beyond the image read a logit of 0. */
  beyond(competitors, winner, own, skip) {
    const { rows, columns, width } = this, height = rows.low.length;
    const count = width * height - columns.inside * rows.inside, whose = this.least > 0 ? -1 : 0;
    if (!count) return;
    for (let y = 0; y < height; y++)
      for (let x = y < rows.inside ? columns.inside : 0; x < width; x++)
        if (!skip || skip[winner[y * width + x] + 1]) winner[y * width + x] = whose;
    if (this.half <= 0) for (let k = 0; k < own.length; k++) own[k] += count;
  }

  /** The pixels of rejected competitors go to the best kept one. */
  reassign(competitors, winner, kept) {
    const better = [...kept.keys()].filter((k) => kept[k]), place = new Map(better.map((k, j) => [k, j]));
    const skip = Uint8Array.from([0, ...kept.map((own) => !own)]), open = winner.map((k) => skip[k + 1]);
    this.run(better.map((k) => competitors[k]), winner, skip);
    for (let i = 0; i < winner.length; i++)
      if (open[i] && winner[i] >= 0) winner[i] = better[winner[i]];
  }
}

/** Runs of outputs inside the image that read the same two cells. */
function blocks({ low, high, inside }) {
  const found = [];
  for (let i = 0; i < inside; i++) {
    const last = found[found.length - 1];
    if (last && last.low === low[i]) last.end = i + 1;
    else found.push({ low: low[i], high: high[i], start: i, end: i + 1 });
  }
  return found;
}
