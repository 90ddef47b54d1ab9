// Runs the network and the merge, away from the page. Messages are answered one after the other.
import { FORMATS, rowsOf } from "./formats.js";
import { postprocess } from "./merge.js";
import { canvasFor, cut, segmentTiles, tilesOf } from "./mosaic.js";
import { colours, paint } from "./paint.js";
import { channelsOf, prepare, stretchLevels } from "./preprocess.js";

const MOST_PIXELS = 64 << 20; // of an image: beyond, a browser's memory does not suffice
const LEAST_SCORE = 0.05; // proposals below are not kept, unless the model's own threshold lies lower
const GPU_SECONDS = 20; // for its first run; then WASM takes over
const MEMORY = 256 << 20; // bytes of proposals that are kept for new thresholds
const wanted = new URL(location).searchParams; // ?threads=1 and ?device=wasm, to compare

async function fetched(url) {
  const answer = await fetch(url).catch(() => { throw new Error(`${url} cannot be loaded; is there a network?`); });
  if (!answer.ok) throw new Error(`${url} is missing on this server (${answer.status}); export the site again`);
  return answer;
}

/** A file's bytes; where it is compressed, what is in it. */
async function bytesOf(url) {
  const bytes = new Uint8Array(await (await fetched(url)).arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

const zeros = (ort, { input, size }) => {
  const [height, width] = size || (input.mode === "fit" ? input.size : [input.multiple * 2, input.multiple * 2]);
  const dims = [1, input.mean.length, height, width];
  return new ort.Tensor("float32", new Float32Array(dims.reduce((a, b) => a * b)), dims);
};

/** A promise, or an error where it takes too long: some drivers never answer. */
const within = (seconds, promise) => Promise.race([promise,
  new Promise((_, reject) => setTimeout(() => reject(new Error(`no answer within ${seconds} s`)), 1000 * seconds))]);

async function start(kind, model, about) {
  const ort = await import(`./ort.${kind}.js`), { wasm } = ort.env;
  ort.env.logLevel = "error";
  wasm.wasmBinary = await bytesOf(`ort.${kind}.wasm.gz`);
  wasm.numThreads = crossOriginIsolated ? Number(wanted.get("threads")) || Math.min(navigator.hardwareConcurrency, 4) : 1;
  const open = async () => {
    const session = await ort.InferenceSession.create(model, { executionProviders: [kind] });
    await session.run({ images: zeros(ort, about) }); // what a device cannot do, it says here
    return session;
  };
  const session = await (kind === "webgpu" ? within(GPU_SECONDS, open()) : open());
  return { ort, session, device: kind === "webgpu" ? "WebGPU" : `WASM, ${wasm.numThreads} thread${wasm.numThreads > 1 ? "s" : ""}` };
}

/** Whether the browser reaches a real GPU; one computed by the CPU is slower than WASM. */
async function hasGpu() {
  if (wanted.get("device") === "wasm") return false;
  const adapter = await within(GPU_SECONDS, Promise.resolve(navigator.gpu?.requestAdapter())).catch(() => null);
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

async function load() {
  const about = await (await fetched("model.json")).json(), model = await bytesOf("model.onnx");
  if (await hasGpu()) {
    try {
      return { about, ...(await start("webgpu", model, about)) };
    } catch (error) {
      console.warn("WebGPU cannot run this model, WASM does:", error.message);
    }
  }
  return { about, ...(await start("wasm", model, about)) };
}

let loading = null;
const loaded = () => (loading ||= load().catch((error) => { loading = null; throw error; }));

async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("not an image that this browser can read (or a damaged one)");
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return { rgba: context.getImageData(0, 0, width, height).data, size: [height, width] };
}

/** The network's proposals for an image, or for a tile with the levels of its image. */
async function run(pixels, size, levels, canvas) {
  const { about, ort, session } = await loaded(), { data, dims, geometry } = prepare(pixels, size, about.input, levels, canvas);
  const found = await session.run({ images: new ort.Tensor("float32", data, dims) });
  const maskSize = found.mask_logits.dims.slice(2), cells = maskSize[0] * maskSize[1];
  let [scores, labels, masks] = [found.scores.data, Int32Array.from(found.labels.data, Number), found.mask_logits.data];
  if (about.postprocess.rule === "maskconver") { // the others need all of them
    let n = scores.length;
    const least = Math.min(LEAST_SCORE, about.postprocess.score_threshold);
    while (n && scores[n - 1] <= least) n--;
    [scores, labels, masks] = [scores.slice(0, n), labels.slice(0, n), masks.slice(0, n * cells)];
  }
  return { scores, labels, masks, maskSize, geometry };
}

const kept = new Map(); // by the image's key: its size, and the proposals of its tiles; the longest unused first

/** Keeps proposals while there is room; those of other images go first. */
function keep(key, i, proposals) {
  const own = kept.get(key), bytes = proposals.masks.byteLength;
  const total = () => bytes + [...kept.values()].reduce((sum, one) => sum + one.bytes, 0);
  for (const old of kept.keys()) if (old !== key && total() > MEMORY) kept.delete(old);
  if (i && total() > MEMORY) return;
  own.proposals[i] = proposals;
  own.bytes += bytes;
}

async function result({ key, blob, settings }, tell = () => {}) {
  const { about } = await loaded(), { input, tiles } = about, isThing = about.categories.map((c) => Boolean(c.isthing));
  const config = { ...about.postprocess, ...settings };
  if ("score_threshold" in settings) config.stuff_threshold = null;
  const own = kept.get(key) || { proposals: [], bytes: 0 };
  kept.delete(key);
  kept.set(key, own);
  let image = null;
  const read = async () => {
    const { rgba, size } = await decode(blob);
    if (size[0] * size[1] > MOST_PIXELS)
      throw new Error(`${size[1]} × ${size[0]} pixels are too many here (at most ${MOST_PIXELS >> 20} million); use maskconver predict`);
    const pixels = channelsOf(rgba, input.mean.length);
    own.size = size;
    return { pixels, levels: stretchLevels(pixels, input) };
  };
  const propose = async (i, tile, count = 1) => {
    if (tile) await tell(i, count);
    if (own.proposals[i]) return own.proposals[i];
    const { pixels, levels } = (image ||= await read());
    const found = tile
      ? await run(cut(pixels, own.size[1], input.mean.length, tile.window), sizeOf(tile), levels, canvasFor(parts, tiles, input))
      : await run(pixels, own.size, levels, input.mode === "native" ? about.size : null);
    keep(key, i, found);
    return found;
  };
  if (!own.size) image = await read();
  const parts = tilesOf(own.size, tiles);
  const found = parts
    ? await segmentTiles(own.size, tiles, (i, tile) => propose(i, tile, parts.length), config, isThing)
    : postprocess(await propose(0), config, isThing);
  return { ...found, rows: rowsOf(found, about.categories) };
}

const sizeOf = ({ window: { top, bottom, left, right } }) => [bottom - top, right - left];

/** An id map no larger than a side, each pixel that of the nearest one. */
function shrunk(ids, [height, width], side) {
  const scale = Math.min(1, side / Math.max(height, width));
  if (scale === 1) return { data: ids, width, height };
  const [h, w] = [height, width].map((n) => Math.max(1, Math.round(n * scale))), data = new Int32Array(h * w);
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) data[y * w + x] = ids[Math.floor(((y + 0.5) * height) / h) * width + Math.floor(((x + 0.5) * width) / w)];
  return { data, width: w, height: h };
}

async function overlay({ ids, size: [height, width], rows }, blob, categories) {
  const { rgba } = await decode(blob), canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  const layer = new Uint8ClampedArray(rgba.length);
  paint(layer, { data: ids, width, height }, colours(rows, categories), { alpha: 128 });
  for (let i = 0; i < rgba.length; i += 4)
    for (let c = 0; c < 3; c++) rgba[i + c] += ((layer[i + c] - rgba[i + c]) * layer[i + 3]) / 255;
  context.putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

const ANSWERS = {
  async open() {
    const { about, device } = await loaded(), { score_threshold, overlap_threshold } = about.postprocess;
    const { mode, size, scale } = about.input; // camera frames come no larger than the model's images in training
    return { name: about.name, categories: about.categories, runtime: device, side: Math.max(...size) / (mode === "native" ? scale : 1), thresholds: { score_threshold, overlap_threshold },
      note: `${device}. Images stay on this device. Drop an image here, paste one, or open one.` };
  },
  async segment(given, tell) {
    const { ids, size: [height, width], rows } = await result(given, tell);
    return { height, width, segments: rows, ids: shrunk(ids, [height, width], given.side) };
  },
  async download(given) {
    const found = await result(given), { about } = await loaded();
    if (given.format === "overlay") return overlay(found, given.blob, about.categories);
    return FORMATS[given.format](found, about.categories);
  },
};

const forgotten = new Set();
let last = Promise.resolve();
addEventListener("message", ({ data: { id, what, given, forget } }) => {
  if (forget) return forgotten.add(forget);
  last = last.then(async () => {
    const tell = async (done, count) => {
      await new Promise((resolve) => setTimeout(resolve)); // messages come in here
      if (forgotten.has(id)) throw new Error("aborted");
      postMessage({ id, done, count });
    };
    try {
      if (forgotten.has(id)) throw new Error("aborted");
      postMessage({ id, answer: await ANSWERS[what](given, tell) });
    } catch (error) {
      postMessage({ id, error: error.message || String(error) });
    }
    forgotten.delete(id);
  });
});
