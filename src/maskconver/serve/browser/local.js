// Where the page's answers come from without a server: a worker of this page.
const worker = new Worker(new URL("worker.js" + location.search, import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0, keys = 0;

worker.addEventListener("message", ({ data: { id, answer, error, done, count } }) => {
  const { resolve, reject, tell } = waiting.get(id);
  if (count) return tell?.(done, count);
  waiting.delete(id);
  if (error) reject(new Error(error)); else resolve(answer);
});

function ask(what, given, { signal, tell } = {}) {
  const id = ++asked;
  signal?.addEventListener("abort", () => {
    worker.postMessage({ forget: id });
    waiting.get(id)?.reject(signal.reason);
  });
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject, tell });
    worker.postMessage({ id, what, given });
  });
}

/** The service worker keeps the files for later, offline, and adds the headers without which there is one
 * thread. It serves pages loaded after it, so the first visit loads twice. */
async function register() {
  if (!navigator.serviceWorker) return; // of a page that is neither https nor of this machine
  try {
    await navigator.serviceWorker.register("sw.js");
    await Promise.race([navigator.serviceWorker.ready, new Promise((resolve) => setTimeout(resolve, 5000))]);
    if (navigator.serviceWorker.controller || sessionStorage.getItem("reloaded")) return;
    sessionStorage.setItem("reloaded", "yes");
  } catch {
    return; // the browser does not allow it: one thread, online only
  }
  location.reload();
  await new Promise(() => {});
}

const ready = register();

/** As of server.js. */
export async function open() {
  await ready;
  return { ...(await ask("open", {})), formats: ["overlay", "png", "coco", "csv", "geojson"] };
}

export async function segment(image, settings, { side, ...more } = {}) {
  await ready;
  image.key ||= ++keys;
  return ask("segment", { key: image.key, blob: image.blob, settings, side }, more);
}

export const download = (image, settings, format) => ask("download", { key: image.key, blob: image.blob, settings, format });
