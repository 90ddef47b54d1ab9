"""COCO panoptic JSON and its PNGs inside a source, wherever they lie."""

from __future__ import annotations

import posixpath

import numpy as np
from numpy.typing import NDArray

from ...core.categories import Categories
from ...core.panoptic_png import read_panoptic_png
from ...core.segments import lookup
from ...errors import DataError, one_line
from ...io.panoptic_json import read_panoptic_json
from ...io.panoptic_rows import Defect
from .annotation import Faults, IdSegment, SourceClass
from .files import Files


class PanopticPngs:
    """The PNGs that a panoptic JSON lists.

    Args:
        files: the source.
        json: the JSON's name.
        folders: where its PNGs may lie, relative to the source; the first that has one counts.
        faults: takes what is wrong with the JSON, and ids that it does not list.

    Attributes:
        file: the content of the JSON.
        classes: those of the JSON; of several of one name the first.

    Raises:
        DataError: it is no COCO panoptic JSON.
    """

    def __init__(self, files: Files, json: str, folders: list[str], *, faults: Faults) -> None:
        self.files, self.name, self.folders, self.faults = files, json, folders, faults
        defects: list[Defect] = []
        self.file = read_panoptic_json(files.path(json), name=files.where(json), defects=defects)
        for defect in defects:
            if defect.severity == "error":
                faults.add(defect.kind, defect.file, defect.message)
        self.classes = source_classes(self.file.own_categories)

    def path(self, png: str) -> str:
        """The name in the source of a PNG that the JSON lists.

        Raises:
            DataError: there is none, or it lies outside the source.
        """
        tries = (posixpath.normpath(posixpath.join(folder, png)) for folder in self.folders)
        found = next((name for name in tries if self.files.has(name)), None)
        if found is None:
            raise DataError(f"there is no PNG {png}", where=self.files.where(self.name), kind="missing-png")
        return found

    def read(self, index: int) -> tuple[NDArray[np.int32], list[IdSegment]]:
        """The id map and the segments of one PNG.

        Raises:
            DataError: there is no such PNG, or it cannot be read.
        """
        name = self.path(self.file.png_names[index])
        table = self.file.table(index)
        table = table[table.labels >= 0]
        try:
            ids = read_panoptic_png(self.files.path(name), self.files.where(name))
        except OSError as error:
            raise DataError(one_line(error), where=self.files.where(name)) from None
        known = lookup(ids, table.ids, table.ids, 0)
        if strange := len(np.unique(ids[ids != known])):
            text = f"{strange} ids are not in the JSON; their pixels are void"
            self.faults.add("unlisted-id", self.files.where(name), text)
        categories = self.file.categories
        rows = zip(table.ids.tolist(), table.labels.tolist(), table.crowd.tolist())
        return known, [IdSegment(number, categories[label].name, crowd) for number, label, crowd in rows]


def source_classes(categories: Categories) -> list[SourceClass]:
    """Categories as classes; of several of one name the first."""
    found = {c.name: SourceClass(c.name, c.is_thing, c.color, c.id) for c in reversed(list(categories))}
    return list(reversed(found.values()))
