"""Which image copy-paste puts on another one, and which of its segments may be pasted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from ..core.categories import Categories
from ..core.segments import SegmentTable
from ..data.dataset import Sample
from ..errors import ConfigError, nearest

SETTING = "`data.augment.copy_paste.classes`"


class Images(Protocol):
    """A data set, or a part of one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...
    def segments(self, index: int) -> SegmentTable:
        """As `PanopticDataset.segments`."""


class Partners:
    """Draws the second image of copy-paste.

    Args:
        images: what is trained on.
        categories: their classes.
        classes: names of those that are pasted; each is looked for equally often, whatever the number of its
            images, and nothing else is pasted. All of every image if None.

    Raises:
        ConfigError: an empty list, no such class, or no segment of it in any image.
    """

    def __init__(self, images: Images, categories: Categories, classes: Sequence[str] | None) -> None:
        if classes is not None and not classes:
            fix = "leave it out to paste every class"
            raise ConfigError("an empty list pastes nothing", where=SETTING, fix=fix)
        self.images = images
        self.labels = None if classes is None else [_label(name, categories) for name in classes]
        self._having: list[list[int]] = []
        if self.labels:
            tables = [images.segments(i) for i in range(len(images))]
            held = [set(t.labels[~t.crowd].tolist()) for t in tables]
            self._having = [[i for i, own in enumerate(held) if label in own] for label in self.labels]
            for label, having in zip(self.labels, self._having):
                if not having:
                    raise ConfigError(
                        f'no training image has the class "{categories[label].name}"', where=SETTING
                    )

    def draw(self, rng: np.random.Generator) -> Sample:
        """An image, with the segments of it that may be pasted."""
        if not self.labels:
            return self.images[int(rng.integers(len(self.images)))]
        having = self._having[int(rng.integers(len(self.labels)))]
        sample = self.images[having[int(rng.integers(len(having)))]]
        return replace(sample, segments=sample.segments[np.isin(sample.segments.labels, self.labels)])


def _label(name: str, categories: Categories) -> int:
    if name in categories.names:
        return categories.names.index(name)
    fix = nearest(name, categories.names)
    raise ConfigError(f'no class is called "{name}"', where=SETTING, fix=fix)
