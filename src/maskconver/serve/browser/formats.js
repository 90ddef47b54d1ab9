// A result as the files that `maskconver serve` gives: panoptic PNG and JSON, CSV, GeoJSON.
import { polygonsOf } from "./polygons.js";

/** Areas and boxes of the segments 1, 2, … of an id map, as rows of the page. */
export function rowsOf({ ids, size: [height, width], labels, scores }, categories) {
  const boxes = labels.map(() => ({ area: 0, left: width, top: height, right: 0, bottom: 0 }));
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++, i++) {
      if (!ids[i]) continue;
      const box = boxes[ids[i] - 1];
      box.area++;
      if (x < box.left) box.left = x;
      if (x >= box.right) box.right = x + 1;
      if (y < box.top) box.top = y;
      box.bottom = y + 1;
    }
  return labels.map((label, i) => {
    const { area, left, top, right, bottom } = boxes[i], { id, name, isthing } = categories[label];
    const bbox = area ? [left, top, right - left, bottom - top] : [0, 0, 0, 0];
    return { id: i + 1, category: name, category_id: id, thing: Boolean(isthing), score: scores[i], area, bbox };
  });
}

const rounded = (value, digits) => Math.round(value * 10 ** digits) / 10 ** digits;

export const FORMATS = {
  png: ({ ids, size }) => encodePng(ids, size),
  coco: ({ size: [height, width], rows }, categories) => json({
    images: [{ id: 0, file_name: "image", height, width }],
    annotations: [{ image_id: 0, file_name: "image.png", segments_info: rows.map(({ id, category_id, area, bbox, score }) =>
      ({ id, category_id, area, bbox, iscrowd: 0, score: rounded(score, 5) })) }],
    categories,
  }, "application/json"),
  csv: ({ rows }) => {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = rows.map((s) => [s.id, quoted(s.category), Number(s.thing), s.score.toFixed(4), s.area, ...s.bbox]);
    const head = ["id", "category", "thing", "score", "area", "x", "y", "width", "height"];
    return new Blob([[head, ...lines].map((line) => line.join() + "\r\n").join("")], { type: "text/csv" });
  },
  geojson: (result, categories) => json({ type: "FeatureCollection", features: features(result, categories) }, "application/geo+json"),
};

const json = (content, type) => new Blob([JSON.stringify(content)], { type });

/** GeoJSON features as QuPath reads them, one for each segment with pixels. */
export function features({ ids, size: [height, width], rows }, categories) {
  const polygons = polygonsOf({ data: ids, width, height });
  const sums = rows.map(() => [0, 0]);
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++, i++)
      if (ids[i]) { sums[ids[i] - 1][0] += x + 0.5; sums[ids[i] - 1][1] += y + 0.5; }
  return rows.filter((s) => s.area).map((s) => {
    const parts = polygons.get(s.id).map((rings) => rings.map((ring) => [...ring, ring[0]]));
    const [centroid_x, centroid_y] = sums[s.id - 1].map((sum) => rounded(sum / s.area, 5));
    return {
      type: "Feature",
      geometry: parts.length === 1 ? { type: "Polygon", coordinates: parts[0] } : { type: "MultiPolygon", coordinates: parts },
      properties: {
        objectType: s.thing ? "detection" : "annotation",
        classification: { name: s.category, color: categories.find((c) => c.id === s.category_id).color },
        measurements: { id: s.id, score: rounded(s.score, 5), area: s.area, centroid_x, centroid_y },
      },
    };
  });
}

/** A panoptic PNG: id = R + 256 · G + 65536 · B. */
export async function encodePng(ids, [height, width]) {
  const lines = new Uint8Array(height * (1 + 3 * width)); // each begins with its filter, 0 = none
  for (let i = 0; i < ids.length; i++) {
    const at = 3 * i + Math.floor(i / width) + 1;
    lines[at] = ids[i];
    lines[at + 1] = ids[i] >> 8;
    lines[at + 2] = ids[i] >> 16;
  }
  const packed = await new Response(new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0802); // 8 bits, RGB
  const parts = [["IHDR", header.buffer], ["IDAT", packed], ["IEND", new ArrayBuffer(0)]].map(chunk);
  return new Blob([new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]), ...parts], { type: "image/png" });
}

function chunk([kind, body]) {
  const bytes = new Uint8Array(12 + body.byteLength), view = new DataView(bytes.buffer);
  view.setUint32(0, body.byteLength);
  for (let i = 0; i < 4; i++) bytes[4 + i] = kind.charCodeAt(i);
  bytes.set(new Uint8Array(body), 8);
  let crc = -1;
  for (const byte of bytes.subarray(4, -4)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  view.setInt32(8 + body.byteLength, ~crc);
  return bytes;
}
