// Colours of segments, and their masks as pixels.

/** The colour of each segment, [r, g, b], by its id. Things get colours near their class's, stuff gets the
 * colour itself, as in Python's overlays. */
export function colours(segments, categories) {
  const steps = new Map(), found = new Map();
  const spread = categories.filter((c) => c.isthing).length < 3 ? 1 : 0.25;
  for (const segment of segments) {
    const step = steps.get(segment.category_id) || 0;
    steps.set(segment.category_id, step + 1);
    found.set(segment.id, colourOf(segment, step, categories, spread));
  }
  return found;
}

function colourOf(segment, step, categories, spread) {
  const category = categories.find((c) => c.id === segment.category_id);
  const [r, g, b] = category ? category.color : [128, 128, 128];
  if (!segment.thing || step === 0) return [r, g, b];
  const turn = 0.6180339887 * step, light = 0.75 + 0.5 * ((turn * 0.618) % 1);
  return hueTurned([r, g, b], spread * ((turn + 0.5) % 1 - 0.5)).map((v) => Math.min(255, Math.round(v * light)));
}

function hueTurned([r, g, b], turn) {
  const high = Math.max(r, g, b), low = Math.max(Math.min(r, g, b), 0), range = Math.max(high - low, 110);
  const d = high - low || 1;
  let hue = high === r ? ((g - b) / d + 6) % 6 : high === g ? (b - r) / d + 2 : (r - g) / d + 4;
  hue = (hue + 6 * turn + 12) % 6;
  const x = range * (1 - Math.abs((hue % 2) - 1)), base = Math.max(high - range, 0);
  return [[range, x, 0], [x, range, 0], [0, range, x], [0, x, range], [x, 0, range], [range, 0, x]][Math.floor(hue)].map((v) => v + base);
}

/** Fills the RGBA pixels `out` with the masks of an id map; what has no colour in the table stays clear.
 * @param options alpha (0…255) of the fill, `from` which column, and the id of the segment to stress */
export function paint(out, { data: ids, width, height }, table, { alpha, from = 0, picked = 0 }) {
  let last = -1, colour = null;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const id = ids[i];
      if (id !== last) { last = id; colour = table.get(id); }
      if (!colour || x < from) continue;
      const edge = (x + 1 < width && ids[i + 1] !== id) || (x > 0 && ids[i - 1] !== id) ||
        (y + 1 < height && ids[i + width] !== id) || (y > 0 && ids[i - width] !== id);
      const j = 4 * i, light = edge || id === picked ? 60 : 0;
      for (let c = 0; c < 3; c++) out[j + c] = Math.min(255, colour[c] + light);
      out[j + 3] = edge ? 255 : id === picked ? Math.min(255, alpha + 80) : alpha;
    }
  }
}
