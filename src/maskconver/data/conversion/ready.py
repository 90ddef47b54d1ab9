"""COCO panoptic JSON and PNGs inside data sets that name their images in another way."""

from __future__ import annotations

import posixpath

import numpy as np
from numpy.typing import NDArray

from ...core.panoptic_png import read_panoptic_png
from ...core.segments import lookup
from ...errors import DataError
from ...io.panoptic_json import read_panoptic_json
from ...io.panoptic_rows import Defect
from .annotation import Faults, IdSegment, SourceClass
from .files import Files


class PanopticPngs:
    """The PNGs that a panoptic JSON lists.

    Args:
        files: the source.
        json: the JSON's name.
        folder: where its PNGs lie, relative to the source.
        faults: takes what is wrong with the JSON, and ids that it does not list.

    Attributes:
        names: of the PNGs in the source.
        classes: those of the JSON.

    Raises:
        DataError: it is no COCO panoptic JSON.
    """

    def __init__(self, files: Files, json: str, folder: str, faults: Faults) -> None:
        self.files, self.faults = files, faults
        defects: list[Defect] = []
        self.file = read_panoptic_json(files.path(json), defects=defects)
        for defect in defects:
            if defect.severity == "error":
                faults.add(defect.kind, files.where(json), defect.message)
        self.names = [f"{folder}/{name}" for name in self.file.png_names]
        own = self.file.own_categories
        self.classes = [SourceClass(c.name, c.is_thing, c.color, c.id) for c in own]

    def read(self, index: int) -> tuple[NDArray[np.int32], list[IdSegment]]:
        """The id map and the segments of one PNG.

        Raises:
            DataError: there is no such PNG, or it cannot be read.
        """
        name = self.names[index]
        if not self.files.has(posixpath.normpath(name)):  # nor outside the source
            raise DataError("there is no such PNG", where=self.files.where(name), kind="missing-png")
        table = self.file.table(index)
        table = table[table.labels >= 0]
        ids = read_panoptic_png(self.files.path(name), self.files.where(name))
        known = lookup(ids, table.ids, table.ids, 0)
        if strange := len(np.unique(ids[ids != known])):
            text = f"{strange} ids are not in the JSON; their pixels are void"
            self.faults.add("unlisted-id", self.files.where(name), text)
        categories = self.file.categories
        rows = zip(table.ids.tolist(), table.labels.tolist(), table.crowd.tolist())
        return known, [IdSegment(number, categories[label].name, crowd) for number, label, crowd in rows]
