"""Segment ids that stay the same from frame to frame, by the overlap of masks; nothing is learned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..core.segmentation import Segmentation
from ..core.segments import Segment, lookup
from ..errors import ConfigError

PART = 0.9  # a thing with less than this share of its area before is partly hidden
Box = tuple[int, int, int, int]  # x, y, width, height


@dataclass(slots=True)
class _Track:
    """A thing as it was last seen whole: its mask within its box, and how far it moves in a frame."""

    id: int
    label: int
    box: Box
    mask: NDArray[np.bool_]
    area: int
    velocity: tuple[float, float] = (0.0, 0.0)  # (x, y) pixels a frame
    unseen: int = 0  # frames without it
    partly: int = 0  # frames in a row with a part of it

    def overlaps(self, ids: NDArray[np.int32], size: int) -> NDArray[np.int64]:
        """Pixels in common with each id below `size`, the mask being moved on as the thing moved before."""
        x, y, width, height = self.box
        x += round(self.velocity[0] * (self.unseen + 1))
        y += round(self.velocity[1] * (self.unseen + 1))
        left, top = max(-x, 0), max(-y, 0)
        window = ids[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
        mask = self.mask[top : top + window.shape[0], left : left + window.shape[1]]
        return np.bincount(window[mask], minlength=size)

    def seen(self, box: Box, mask: NDArray[np.bool_], area: int, patience: int) -> None:
        """Takes over where it is now. The box's middle gives the velocity, half of it being the old one.

        Where much of it vanishes at once, something is in front of it: for some frames it is then supposed to
        be as large as before, and to move as before.
        """
        if area < PART * self.area and self.partly < patience:
            shift = (round(v * (self.unseen + 1)) for v in self.velocity)
            self.box = (self.box[0] + next(shift), self.box[1] + next(shift), *self.box[2:])
            self.unseen, self.partly = 0, self.partly + 1
            return
        moved = (
            (new + new_side / 2 - old - old_side / 2) / (self.unseen + 1)
            for new, new_side, old, old_side in zip(box[:2], box[2:], self.box[:2], self.box[2:])
        )
        x, y = (0.5 * now + 0.5 * before for now, before in zip(moved, self.velocity))
        self.box, self.mask, self.area, self.velocity = box, mask, area, (x, y)
        self.unseen = self.partly = 0


class Tracker:
    """Gives the things of consecutive frames ids that stay.

    The mask of each thing of earlier frames is moved on by the thing's own velocity. Pairs of such a mask and
    a segment of the same class are joined by IoU, the best pair first; also a segment that lies within the
    mask, as a thing that is partly hidden does. What is left gets a new id. A thing
    that is not found is looked for in the next `memory` frames, and its id is never given to another one.
    Stuff has one id per class for the whole video.

    Args:
        min_iou: pairs with a lower IoU are not the same thing, 0…1, unless half of the segment lies in the
            mask.
        memory: for how many frames a thing may be hidden.

    Raises:
        ConfigError: a value out of range.
    """

    def __init__(self, *, min_iou: float = 0.2, memory: int = 15) -> None:
        if not 0 < min_iou <= 1:
            raise ConfigError(f"`min_iou={min_iou:g}` must be above 0 and at most 1")
        if memory < 0:
            raise ConfigError(f"`memory={memory}` must be a number of frames, 0 or more")
        self.min_iou, self.memory = min_iou, memory
        self._tracks: list[_Track] = []
        self._stuff: dict[int, int] = {}  # id by label
        self._size: tuple[int, ...] | None = None
        self._last = 0

    def update(self, frame: Segmentation) -> Segmentation:
        """The same frame with ids that stay; the order of its segments does not change.

        Args:
            frame: the next frame. If it has another size than the one before, all things are new.
        """
        if self._size != frame.ids.shape:
            self._tracks, self._size = [], frame.ids.shape
        things = [s for s in frame.segments if s.is_thing and s.area]
        found = self._matches(frame.ids, things)
        new: dict[int, int] = {}
        for segment in frame.segments:
            if not segment.is_thing:
                new[segment.id] = self._stuff_id(segment.label, new)
        for track in self._tracks:
            track.unseen += 1
        for segment in things:
            box = segment.bbox
            x, y, width, height = box
            mask = frame.ids[y : y + height, x : x + width] == segment.id
            own = found.get(segment.id)
            if own is None:
                own = _Track(self._next(), segment.label, box, mask, segment.area)
                self._tracks.append(own)
            else:
                own.unseen -= 1
                own.seen(box, mask, segment.area, self.memory)
            new[segment.id] = own.id
        for segment in frame.segments:  # without a pixel
            if segment.id not in new:
                new[segment.id] = self._next()
        self._tracks = [track for track in self._tracks if track.unseen <= self.memory]
        ids = lookup(frame.ids, list(new), list(new.values()), 0)
        return replace(frame, ids=ids, segments=[replace(s, id=new[s.id]) for s in frame.segments])

    def _matches(self, ids: NDArray[np.int32], things: list[Segment]) -> dict[int, _Track]:
        """The track of each thing that has one, by the thing's id."""
        size = int(ids.max(initial=0)) + 1
        by_id = {s.id: s for s in things}
        pairs = []
        for number, track in enumerate(self._tracks):
            common = track.overlaps(ids, size)
            for touched in np.flatnonzero(common).tolist():
                segment = by_id.get(touched)
                if segment is None or segment.label != track.label:
                    continue
                both = int(common[touched])
                iou = both / (track.area + segment.area - both)
                if iou >= self.min_iou or 2 * both >= segment.area:
                    pairs.append((iou, -track.unseen, -number, segment.id))
        found: dict[int, _Track] = {}
        taken: set[int] = set()
        for _, _, number, segment_id in sorted(pairs, reverse=True):
            if -number not in taken and segment_id not in found:
                found[segment_id] = self._tracks[-number]
                taken.add(-number)
        return found

    def _stuff_id(self, label: int, given: dict[int, int]) -> int:
        own = self._stuff.get(label)
        if own is None:
            own = self._stuff[label] = self._next()
        return own if own not in given.values() else self._next()

    def _next(self) -> int:
        self._last += 1
        return self._last
