// The exact polygons of segments, as Python's core/polygons.py: rings on pixel corners, outer ones clockwise.

/** @returns a Map from id to its polygons, each [outer ring, ...holes] of [x, y] corners */
export function polygonsOf({ data, width, height }) {
  const w = width + 2, ids = new Int32Array(w * (height + 2));
  for (let y = 0; y < height; y++) ids.set(data.subarray(y * width, (y + 1) * width), (y + 1) * w + 1);
  // An edge is pixel · 4 + side: top, right, bottom, left; each runs with its pixel on the right.
  const outward = [-w, 1, w, -1], forward = [1, w, -1, -w], ringOf = new Int32Array(4 * ids.length);
  const rings = [null];
  for (let edge = 4 * w; edge < ringOf.length - 4 * w; edge++) {
    const pixel = edge >> 2;
    if (!ids[pixel] || ringOf[edge] || ids[pixel + outward[edge & 3]] === ids[pixel]) continue;
    rings.push(trace(edge));
  }

  /** The corner where an edge begins. */
  function cornerOf(edge) {
    const pixel = edge >> 2, side = edge & 3;
    return [(pixel % w) - 1 + (side === 1 || side === 2), Math.floor(pixel / w) - 1 + (side >= 2)];
  }

  function trace(first) {
    const ring = { id: ids[first >> 2], corners: [], east: -1, parent: 0 };
    let edge = first;
    do {
      const pixel = edge >> 2, side = edge & 3;
      ringOf[edge] = rings.length;
      if (side === 1 && (ring.east < 0 || pixel % w < ring.east % w)) ring.east = pixel;
      const ahead = pixel + forward[side], on = ids[ahead] === ring.id;
      const left = on && ids[ahead + outward[side]] === ring.id;
      edge = 4 * (left ? ahead + outward[side] : on ? ahead : pixel) + ((side + (left ? 3 : on ? 0 : 1)) & 3);
      if (left || !on) ring.corners.push(cornerOf(edge));
    } while (edge !== first);
    ring.hole = area(ring.corners) < 0;
    return ring;
  }

  // Left of a hole lies its part; the run of pixels there begins at a ring of that part further left.
  function outerOf(number) {
    const ring = rings[number];
    if (!ring.hole) return number;
    let pixel = ring.east;
    while (ids[pixel - 1] === ring.id) pixel--;
    return (ring.parent ||= outerOf(ringOf[4 * pixel + 3]));
  }

  const found = new Map(), polygons = new Map(), holes = [];
  rings.forEach((ring, number) => {
    if (!ring) return;
    let parts = cut(ring.corners);
    if (!ring.hole) {
      const outer = parts.reduce((a, b) => (area(b) > area(a) ? b : a));
      parts = parts.filter((part) => part !== outer);
      polygons.set(number, [outer]);
      if (!found.has(ring.id)) found.set(ring.id, []);
      found.get(ring.id).push(polygons.get(number));
    }
    for (const part of parts) holes.push([number, part]);
  });
  for (const [number, part] of holes) polygons.get(outerOf(number)).push(part);
  return found;
}

/** Twice the signed area; negative for holes. */
const area = (ring) => ring.reduce((sum, [x, y], i) => {
  const [nextX, nextY] = ring[(i + 1) % ring.length];
  return sum + x * nextY - nextX * y;
}, 0);

/** A ring cut wherever it comes back to a corner, in rings that do not touch themselves. */
function cut(corners) {
  const parts = [], known = new Map();
  let way = [];
  for (const corner of corners) {
    const key = corner.join(), at = known.get(key);
    if (at !== undefined) {
      parts.push(way.slice(at));
      for (const gone of way.splice(at)) known.delete(gone.join());
    }
    known.set(key, way.length);
    way.push(corner);
  }
  return [way, ...parts];
}
