// Large images tile by tile, with the rules and results of Python's inference/tiles.py and mosaic.py.
import { postprocess } from "./merge.js";
import { scaledSize } from "./preprocess.js";
const AGREE = 0.5, SLACK = 8;

/** The tiles of an image, row by row: { window, core }, each { top, bottom, left, right }; null for one that fits.
 * @param tiles of the site's model.json */
export function tilesOf([height, width], tiles) {
  if (!tiles || Math.max(height, width) <= tiles.tile) return null;
  const [rows, columns] = [spans(height, tiles), spans(width, tiles)], found = [];
  for (const [top, bottom, above, below] of rows)
    for (const [left, right, west, east] of columns)
      found.push({ window: { top, bottom, left, right }, core: { top: above, bottom: below, left: west, right: east } });
  return found;
}

/** The network's input for the tiles of an image: no more of it than they need. */
export function canvasFor(found, { fixed, canvas, multiple }, input) {
  if (fixed) return canvas;
  const { bottom, right } = found[0].window;
  return scaledSize([bottom, right], input).map((side, i) => Math.min(canvas[i], Math.ceil(side / multiple) * multiple));
}

/** How many windows an axis needs. */
const count = (length, tile, { overlap, align }) =>
  Math.max(Math.ceil((length - tile) / (Math.floor((tile - overlap) / align) * align)), 0) + 1;

/** The least side, a multiple of `align`, of which an axis needs no more windows than of the tile. */
function least(length, tiles) {
  const { tile, overlap, align } = tiles, most = count(length, tile, tiles);
  let side = (Math.ceil(overlap / align) + 1) * align;
  while (side < tile && count(length, side, tiles) > most) side += align;
  return Math.min(side, tile);
}

/** Along one axis: where windows start and stop, and their cores. */
function spans(length, tiles) {
  const { overlap, align, fixed } = tiles, tile = fixed ? tiles.tile : least(length, tiles);
  const step = Math.floor((tile - overlap) / align) * align, starts = [];
  const last = Math.max(Math.ceil((length - tile) / align) * align, 0);
  for (let start = 0; start < last; start += step) starts.push(start);
  starts.push(last);
  const stops = starts.map((start) => Math.min(start + tile, length));
  const borders = [0, ...starts.slice(1).map((start, i) => Math.floor((start + stops[i]) / 2)), length];
  return starts.map((start, i) => [start, stops[i], borders[i], borders[i + 1]]);
}

/** The thresholds for a window: smallest areas of the same number of pixels in each. */
function tileConfig(config, tiles, size) {
  const share = (tiles.side / Math.max(...size)) ** 2, ofWindow = (area) => Math.min(area * share, 1);
  const stuff = config.stuff_min_area;
  return { ...config, min_area: ofWindow(config.min_area), stuff_min_area: stuff == null ? null : ofWindow(stuff) };
}

/** Bytes of a window of an image whose pixels have some channels side by side. */
export function cut(pixels, width, channels, { top, bottom, left, right }) {
  const line = (right - left) * channels, part = new Uint8Array((bottom - top) * line);
  for (let y = top; y < bottom; y++)
    part.set(pixels.subarray((y * width + left) * channels, (y * width + right) * channels), (y - top) * line);
  return part;
}

/** The results of tiles joined to one. While it grows, ids 1…C are the stuff of each label, larger ones things. */
class Mosaic {
  constructor(size, overlap, isThing) {
    this.size = size;
    this.slack = overlap / SLACK;
    this.isThing = isThing;
    this.stuff = isThing.length;
    this.ids = new Int32Array(size[0] * size[1]);
    this.labels = [0, ...isThing.keys()];
    this.scores = this.labels.map(() => 0);
    this.whole = this.labels.map(() => false); // seen by one tile from end to end
    this.parents = [...this.labels.keys()];
  }

  root(number) {
    while (this.parents[number] !== number) number = this.parents[number] = this.parents[this.parents[number]];
    return number;
  }

  /** Calls for each pixel of a window: its place in the image, and whether it lies in the core. */
  each({ window, core }, call) {
    for (let y = window.top, at = 0; y < window.bottom; y++) {
      const inside = y >= core.top && y < core.bottom, line = y * this.size[1];
      for (let x = window.left; x < window.right; x++, at++) call(at, line + x, inside && x >= core.left && x < core.right);
    }
  }

  /** Takes over what a tile gives; `result` as of `postprocess`, tiles in the order of `tilesOf`. */
  add({ ids, size, labels, scores }, tile) {
    if (!labels.length) return;
    const { window } = tile, segments = this.measured(ids, size, tile, labels.length), agreeing = this.agreeing(ids, tile, labels.length);
    const [whole, part, stuff] = [0, 1, 2].map(() => new Int32Array(labels.length + 1)), replaced = [];
    labels.forEach((label, i) => {
      const segment = segments[i + 1], score = scores[i];
      if (!this.isThing[label]) {
        stuff[i + 1] = label + 1;
        this.scores[label + 1] = Math.max(this.scores[label + 1], score);
        return;
      }
      const isCut = this.isCut(segment, window), side = this.sideOf(segment, tile);
      if (isCut ? !segment.inCore : side === null) return;
      const found = agreeing[i + 1], own = segment.area;
      const given = ({ id, shared, area }) => this.whole[id] && shared >= AGREE * (isCut ? own : Math.min(own, area));
      if (found.some(given)) return;
      const joined = found.filter(({ id, shared, area }) =>
        shared >= AGREE * area && this.labels[id] === label && (isCut || !this.whole[id])).map(({ id }) => id);
      // Another tile gives it: one that comes later, or one that has been there.
      if (!joined.length && !isCut && (side === "after" || (side === "before" && found.length))) return;
      const number = this.join(joined, label, score, !isCut);
      (isCut ? part : whole)[i + 1] = number;
      if (!isCut) replaced.push(...joined);
    });
    this.paint(ids, tile, { whole, part, stuff }, new Set(replaced));
  }

  /** Area, box and pixels in the core of each segment of a tile. */
  measured(ids, [, width], tile, count) {
    const found = Array.from({ length: count + 1 }, () => ({ area: 0, inCore: 0, left: Infinity, right: 0, top: Infinity, bottom: 0 }));
    this.each(tile, (at, _, inCore) => {
      const one = found[ids[at]], x = at % width, y = (at - x) / width;
      one.area++;
      if (inCore) one.inCore++;
      if (x < one.left) one.left = x;
      if (x >= one.right) one.right = x + 1;
      if (y < one.top) one.top = y;
      one.bottom = y + 1;
    });
    return found;
  }

  /** For each segment of a tile the things given there already: id, shared pixels, and its pixels here. */
  agreeing(ids, tile, count) {
    const areas = new Map(), shared = Array.from({ length: count + 1 }, () => new Map());
    this.each(tile, (at, place) => {
      if (this.ids[place] <= this.stuff) return;
      const id = this.root(this.ids[place]), own = shared[ids[at]];
      areas.set(id, (areas.get(id) || 0) + 1);
      own.set(id, (own.get(id) || 0) + 1);
    });
    return shared.map((own) => [...own].map(([id, pixels]) => ({ id, shared: pixels, area: areas.get(id) })));
  }

  /** Whether a segment reaches a side of the window that is none of the image. */
  isCut({ top, bottom, left, right }, window) {
    const [height, width] = this.size, low = window.top + bottom, east = window.left + right;
    return (top === 0 && window.top > 0) || (left === 0 && window.left > 0) ||
      (low === window.bottom && low < height) || (east === window.right && east < width);
  }

  /** Where its centre lies: in the core, before or after it in the order of tiles; null for far away. */
  sideOf({ top, bottom, left, right }, { window, core }) {
    const y = window.top + top + (bottom - top) / 2, x = window.left + left + (right - left) / 2;
    const axes = [[y, core.top, core.bottom], [x, core.left, core.right]];
    if (axes.some(([at, low, high]) => at < low - this.slack || at >= high + this.slack)) return null;
    const outside = axes.find(([at, low, high]) => at < low || at >= high);
    return outside ? (outside[0] < outside[1] ? "before" : "after") : "core";
  }

  /** The id of a segment: that of the first of the things it continues, or a new one. */
  join(numbers, label, score, whole) {
    if (!numbers.length) {
      this.labels.push(label);
      this.scores.push(score);
      this.whole.push(whole);
      return this.parents.push(this.parents.length) - 1;
    }
    const first = Math.min(...numbers);
    for (const number of numbers) this.parents[number] = first;
    this.scores[first] = Math.max(score, ...numbers.map((number) => this.scores[number]));
    this.whole[first] = whole || numbers.some((number) => this.whole[number]);
    return first;
  }

  /** Things over stuff and void, whole ones everywhere, all others in the core. */
  paint(ids, tile, { whole, part, stuff }, replaced) {
    this.each(tile, (at, place, inCore) => {
      const own = ids[at];
      let now = this.ids[place];
      if (replaced.size && now > this.stuff && replaced.has(this.root(now))) now = 0; // parts of what this tile sees whole
      if (whole[own] && now <= this.stuff) now = whole[own];
      if (inCore && part[own] && now <= this.stuff) now = part[own];
      if (inCore && stuff[own] && now === 0) now = stuff[own];
      this.ids[place] = now;
    });
  }

  /** The whole image's, as of `postprocess`: ids by score, then from top to bottom. The mosaic is used up. */
  result() {
    const { ids, size } = this, first = new Float64Array(this.labels.length).fill(-1), left = new Float64Array(first.length).fill(Infinity);
    for (let i = 0; i < ids.length; i++) {
      if (!ids[i]) continue;
      const number = ids[i] = this.root(ids[i]), x = i % size[1];
      if (first[number] < 0) first[number] = (i - x) / size[1];
      if (x < left[number]) left[number] = x;
    }
    const kept = [...first.keys()].filter((number) => first[number] >= 0);
    kept.sort((a, b) => this.scores[b] - this.scores[a] || first[a] - first[b] || left[a] - left[b] || a - b);
    const numbers = new Int32Array(first.length);
    kept.forEach((number, i) => { numbers[number] = i + 1; });
    for (let i = 0; i < ids.length; i++) ids[i] = numbers[ids[i]];
    return { ids, size, labels: kept.map((number) => this.labels[number]), scores: kept.map((number) => this.scores[number]) };
  }
}

/** The segments of an image in tiles. `propose(i, tile)` gives the proposals of each, in the order of `tilesOf`. */
export async function segmentTiles(size, tiles, propose, config, isThing) {
  const mosaic = new Mosaic(size, tiles.overlap, isThing);
  for (const [i, tile] of tilesOf(size, tiles).entries()) {
    const proposals = await propose(i, tile);
    mosaic.add(postprocess(proposals, tileConfig(config, tiles, proposals.geometry.image), isThing), tile);
  }
  return mosaic.result();
}

/** The same from a list of proposals. */
export const joined = (size, tiles, all, ...rest) => segmentTiles(size, tiles, (i) => all[i], ...rest);
