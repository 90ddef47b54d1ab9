// The page: images in, coloured masks out. No library, nothing from elsewhere.
import * as backend from "./backend.js";
import { colours, paint } from "./paint.js";
const $ = (id) => document.getElementById(id);
const stage = $("stage"), photo = $("photo"), masks = $("masks"), tip = $("tip");
const MAX_SIDE = 2048; // of what is drawn; results keep the image's own size
let model = { categories: [], thresholds: {} };
const images = []; // { blob, name, bitmap, answer, ids, width, height }, and what the backend adds
let current = null, picked = 0, hidden = new Set(), stream = null;

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

const settings = () => {
  const changed = {};
  for (const name of Object.keys(model.thresholds)) {
    const input = $(name);
    if (input && input.dataset.changed) changed[name] = Number(input.value);
  }
  return changed;
};

function drawPhoto(image) {
  photo.width = image.width;
  photo.height = image.height;
  // Small images are enlarged up to four times, large ones fit the window.
  $("frame").style.width = `min(100%, ${4 * image.width}px, calc((100vh - 200px) * ${image.width / image.height}))`;
  const context = photo.getContext("2d");
  if (image.bitmap) context.drawImage(image.bitmap, 0, 0, image.width, image.height);
  else { context.fillStyle = "#222"; context.fillRect(0, 0, image.width, image.height); }
}

function drawMasks() {
  const image = current;
  if (!image || !image.ids) return;
  const { ids, width, height } = image;
  masks.width = width;
  masks.height = height;
  const table = new Map(image.colours);
  for (const segment of image.answer.segments) if (hidden.has(segment.category_id)) table.delete(segment.id);
  const context = masks.getContext("2d"), pixels = context.createImageData(width, height);
  const from = Math.round(width * $("compare").value / 100), alpha = Math.round(255 * $("opacity").value);
  paint(pixels.data, { data: ids, width, height }, table, { alpha, from, picked });
  context.putImageData(pixels, 0, 0);
}

function list() {
  const box = $("classes");
  box.replaceChildren();
  if (!current || !current.answer) return;
  const groups = new Map();
  for (const segment of current.answer.segments) {
    if (!groups.has(segment.category_id)) groups.set(segment.category_id, []);
    groups.get(segment.category_id).push(segment);
  }
  $("count").textContent = `${current.answer.segments.length} segments`;
  const named = [...groups].sort((a, b) => a[1][0].category.localeCompare(b[1][0].category));
  for (const [number, segments] of named) {
    const row = document.createElement("label"), tick = document.createElement("input");
    row.className = "class";
    tick.type = "checkbox";
    tick.checked = !hidden.has(number);
    tick.addEventListener("change", () => { tick.checked ? hidden.delete(number) : hidden.add(number); drawMasks(); });
    const swatch = document.createElement("i"), name = document.createElement("span"), count = document.createElement("small");
    swatch.style.background = `rgb(${current.colours.get(segments[0].id).join(",")})`;
    name.textContent = segments[0].category;
    count.textContent = segments.length;
    row.append(tick, swatch, name, count);
    box.append(row);
    if (!segments[0].thing) continue;
    for (const segment of segments.slice(0, 200)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "segment";
      button.dataset.id = segment.id;
      const left = document.createElement("span"), right = document.createElement("span");
      left.textContent = `${Math.round(100 * segment.score)} %`;
      right.textContent = `${segment.area.toLocaleString()} px`;
      button.append(left, right);
      button.setAttribute("aria-label", `${segment.category}, score ${segment.score.toFixed(2)}, ${segment.area} pixels`);
      for (const kind of ["pointerenter", "focus"]) button.addEventListener(kind, () => pick(segment.id));
      button.addEventListener("pointerleave", () => pick(0));
      box.append(button);
    }
  }
}

function pick(id) {
  if (id === picked) return;
  picked = id;
  for (const button of document.querySelectorAll(".segment")) button.classList.toggle("on", Number(button.dataset.id) === id);
  drawMasks();
}

stage.addEventListener("pointermove", (event) => {
  if (!current || !current.ids) return;
  const box = photo.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * current.width);
  const y = Math.floor((event.clientY - box.top) / box.height * current.height);
  const inside = x >= 0 && y >= 0 && x < current.width && y < current.height;
  const id = inside ? current.ids[y * current.width + x] : 0;
  const segment = id && current.answer.segments.find((s) => s.id === id);
  tip.hidden = !segment || hidden.has(segment.category_id);
  if (segment) {
    tip.textContent = `${segment.category} · ${Math.round(100 * segment.score)} % · ${segment.area.toLocaleString()} px`;
    tip.style.left = `${Math.min(event.clientX - box.left + 12, Math.max(box.width - tip.offsetWidth, 0))}px`;
    tip.style.top = `${Math.max(event.clientY - box.top - 34, 0)}px`;
  }
  pick(tip.hidden ? 0 : id);
});
stage.addEventListener("pointerleave", () => { tip.hidden = true; pick(0); });

function take(image, answer) {
  const { data: ids, width, height } = answer.ids;
  Object.assign(image, { answer, ids, width, height, colours: colours(answer.segments, model.categories) });
}

let running = null; // the request whose answer will be shown
async function update(image, { quiet = false } = {}) {
  if (running) running.abort();
  const control = running = new AbortController();
  stage.setAttribute("aria-busy", "true");
  if (!quiet) say(`Segmenting ${image.name}…`);
  const start = performance.now();
  try {
    const tell = (done, count) => control.signal.aborted || performance.now() - start < 300 || say(`Segmenting ${image.name}: ${done} of ${count} tiles…`);
    const answer = await backend.segment(image, settings(), { side: MAX_SIDE, signal: control.signal, tell });
    if (control.signal.aborted) return;
    take(image, answer);
    if (image === current) show(image);
    say(`${image.name}: ${answer.width} × ${answer.height} pixels, ${answer.segments.length} segments, ${Math.round(performance.now() - start)} ms`);
  } catch (error) {
    if (error.name === "AbortError") return;
    say(`${image.name}: ${error.message}`, true);
    if (!image.answer && !image.bitmap) forget(image); // nothing to show of it
  } finally {
    if (running === control) { running = null; stage.removeAttribute("aria-busy"); }
  }
}

function show(image) {
  current = image;
  picked = 0;
  $("frame").hidden = !image.width;
  $("hint").hidden = true;
  stage.classList.add("full");
  if (image.width) drawPhoto(image);
  if (image.ids) drawMasks(); else masks.width = masks.height = 0;
  $("downloads").hidden = !image.answer;
  list();
  strip();
}

function strip() {
  const bar = $("strip");
  bar.replaceChildren();
  if (images.length < 2) return;
  images.forEach((image, index) => {
    const button = document.createElement("button"), small = document.createElement("canvas");
    button.type = "button";
    button.title = image.name;
    button.setAttribute("aria-label", image.name);
    button.setAttribute("aria-current", String(image === current));
    const scale = 64 / (image.height || 64);
    small.height = 64;
    small.width = Math.max(8, Math.min(200, Math.round((image.width || 64) * scale)));
    if (image.bitmap) small.getContext("2d").drawImage(image.bitmap, 0, 0, small.width, small.height);
    button.append(small);
    button.addEventListener("click", () => choose(index));
    bar.append(button);
  });
}

function forget(image) {
  images.splice(images.indexOf(image), 1);
  if (current !== image) return strip();
  current = null;
  if (images.length) return show(images[0]);
  $("frame").hidden = true;
  $("hint").hidden = false;
  $("downloads").hidden = true;
  stage.classList.remove("full");
  list();
  strip();
}

async function choose(index) {
  const image = images[index];
  show(image);
  if (!image.answer) await update(image);
}

async function add(files) {
  stopCamera();
  const first = images.length;
  for (const blob of files) {
    const image = { blob, name: blob.name || "pasted image" };
    try {
      image.bitmap = await createImageBitmap(blob); // upright, as the browser shows it
      const scale = Math.min(1, MAX_SIDE / Math.max(image.bitmap.width, image.bitmap.height));
      image.width = Math.round(image.bitmap.width * scale);
      image.height = Math.round(image.bitmap.height * scale);
    } catch {
      image.bitmap = null; // a format that only the server reads, such as TIFF
    }
    images.push(image);
  }
  if (images.length > first) await choose(first);
}

let waiting = 0;
for (const name of ["score_threshold", "overlap_threshold"]) {
  $(name).addEventListener("input", () => {
    $(name).dataset.changed = "1";
    label($(name));
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      for (const image of images) if (image !== current) image.answer = null;
      if (current) update(current, { quiet: true });
    }, 40);
  });
}
function label(input) {
  const value = Number(input.value);
  input.parentElement.querySelector("output").textContent =
    input.id === "compare" ? `${value} %` : value.toFixed(2);
}
for (const name of ["opacity", "compare"]) {
  label($(name));
  $(name).addEventListener("input", () => { label($(name)); drawMasks(); });
}

$("open").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { add([...$("files").files]); $("files").value = ""; });
for (const kind of ["dragenter", "dragover"])
  document.addEventListener(kind, (event) => { event.preventDefault(); stage.classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) stage.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (files.length) add(files); else say("Drop image files, not links or text.", true);
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files || [])];
  if (files.length) add(files);
});
stage.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], at = images.indexOf(current);
  if (step && images[at + step]) choose(at + step);
  else if (event.key === "Enter" && !current) $("files").click();
});

$("downloads").addEventListener("click", async (event) => {
  const { format, name } = event.target.dataset;
  if (!format || !current) return;
  try {
    const blob = await backend.download(current, settings(), format);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${current.name.replace(/\.[^.]*$/, "")}_${name}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    say(`${current.name}: ${error.message}`, true);
  }
});

// The camera: one button takes a photograph, another segments what it sees.
function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  $("video").hidden = $("live").hidden = true;
  $("live").setAttribute("aria-pressed", "false");
  $("camera").textContent = "Camera";
}
$("camera").addEventListener("click", async () => {
  const video = $("video");
  if (!stream) {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch {
      say("The camera cannot be used: there is none, or the browser does not allow it.", true);
      return;
    }
    video.srcObject = stream;
    await video.play();
    video.hidden = false;
    $("frame").hidden = $("hint").hidden = true;
    $("camera").textContent = "Take photograph";
    $("live").hidden = false;
    return;
  }
  const blob = await frame().convertToBlob({ type: "image/png" });
  blob.name = "photograph.png";
  await add([blob]);
});
function frame(side = Infinity) {
  const { videoWidth: width, videoHeight: height } = $("video"), scale = Math.min(1, side / Math.max(width, height));
  const canvas = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
  canvas.getContext("2d").drawImage($("video"), 0, 0, canvas.width, canvas.height);
  return canvas;
}

// Live: frame after frame, as fast as the answers come.
$("live").addEventListener("click", async () => {
  const on = $("live").getAttribute("aria-pressed") !== "true";
  $("live").setAttribute("aria-pressed", String(on));
  $("video").hidden = on;
  let last = performance.now(), pace = 0;
  try {
    while (stream && on && $("live").getAttribute("aria-pressed") === "true") {
      const bitmap = frame(model.side || 640), { width, height } = bitmap;
      const image = { name: "camera.png", bitmap, width, height, blob: await bitmap.convertToBlob({ type: "image/jpeg", quality: 0.95 }) };
      take(image, await backend.segment(image, settings(), { side: MAX_SIDE }));
      if (!stream) break;
      const now = performance.now();
      pace = pace ? 0.8 * pace + 0.2 * (now - last) : now - last;
      last = now;
      show(image);
      say(`${image.answer.segments.length} segments, ${(1000 / pace).toPrecision(2)} frames/s`);
    }
  } catch (error) {
    stopCamera();
    say(error.message, true);
  }
  if (stream) { $("frame").hidden = true; $("video").hidden = false; }
});

try {
  model = await backend.open();
  $("model").textContent = model.name;
  $("model").title = model.runtime;
  if (model.note) say(model.note);
  $("thresholds").hidden = !Object.keys(model.thresholds).length;
  for (const button of $("downloads").querySelectorAll("button"))
    button.hidden = !(model.formats || [button.dataset.format]).includes(button.dataset.format);
  for (const [name, value] of Object.entries(model.thresholds)) {
    if ($(name)) { $(name).value = value; label($(name)); }
  }
} catch (error) {
  say(error.message, true);
}
