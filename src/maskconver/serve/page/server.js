// Where the page's answers come from under `maskconver serve`: the HTTP interface of the same address.
// A page without a server has another backend.js with the same functions.
async function checked(url, options) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer; is it still running?");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({ error: answer.statusText }));
    throw Object.assign(new Error(told.error || `error ${answer.status}`), { status: answer.status });
  }
  return answer;
}

/** The model: name, categories, thresholds. */
export const open = async () => (await checked("v1/model")).json();

// By the image's file or, where the server still has it, by its token.
async function request(image, settings, format, signal) {
  const query = new URLSearchParams({ ...settings, format });
  if (format === "labelme") query.set("name", image.name);
  if (image.token) {
    query.set("token", image.token);
    try {
      return await checked(`v1/segment?${query}`, { method: "POST", signal });
    } catch (error) {
      if (error.status !== 410) throw error;
      query.delete("token");
    }
  }
  return checked(`v1/segment?${query}`, { method: "POST", body: image.blob, signal });
}

/** The segments of an image ({ blob, name }) with thresholds that replace the model's own.
 * @returns height, width, segments, and the id map: { data: Int32Array, width, height }, at most `side` large */
export async function segment(image, settings, { side, signal }) {
  const answer = await (await request(image, settings, "json", signal)).json();
  image.token = answer.token;
  const bytes = Uint8Array.from(atob(answer.ids), (c) => c.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }),
    { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * scale)));
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data, data = new Int32Array(width * height);
  for (let i = 0, j = 0; i < data.length; i++, j += 4) data[i] = rgba[j] | (rgba[j + 1] << 8) | (rgba[j + 2] << 16);
  return { ...answer, ids: { data, width, height } };
}

/** The same as a file: overlay, png, coco, csv or geojson. */
export const download = async (image, settings, format) => (await request(image, settings, format)).blob();
