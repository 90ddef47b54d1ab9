"""Cityscapes: gtFine or gtCoarse with instanceIds, the panoptic PNGs, labelIds or trainIds."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from ....errors import DataError
from ..annotation import AnnotatedImage, IdSegment, Options, Reader, SourceClass
from ..colors import is_color
from ..files import Files
from ..pairs import split_of
from ..pixels import class_segments, numbered, read_values
from ..ready import PanopticPngs


class Label(NamedTuple):
    """A row of Cityscapes' table of classes; `train_id` 255: not evaluated."""

    name: str
    id: int
    train_id: int
    instances: bool
    color: tuple[int, int, int]


LABELS = (
    Label("unlabeled", 0, 255, False, (0, 0, 0)),
    Label("ego vehicle", 1, 255, False, (0, 0, 0)),
    Label("rectification border", 2, 255, False, (0, 0, 0)),
    Label("out of roi", 3, 255, False, (0, 0, 0)),
    Label("static", 4, 255, False, (0, 0, 0)),
    Label("dynamic", 5, 255, False, (111, 74, 0)),
    Label("ground", 6, 255, False, (81, 0, 81)),
    Label("road", 7, 0, False, (128, 64, 128)),
    Label("sidewalk", 8, 1, False, (244, 35, 232)),
    Label("parking", 9, 255, False, (250, 170, 160)),
    Label("rail track", 10, 255, False, (230, 150, 140)),
    Label("building", 11, 2, False, (70, 70, 70)),
    Label("wall", 12, 3, False, (102, 102, 156)),
    Label("fence", 13, 4, False, (190, 153, 153)),
    Label("guard rail", 14, 255, False, (180, 165, 180)),
    Label("bridge", 15, 255, False, (150, 100, 100)),
    Label("tunnel", 16, 255, False, (150, 120, 90)),
    Label("pole", 17, 5, False, (153, 153, 153)),
    Label("polegroup", 18, 255, False, (153, 153, 153)),
    Label("traffic light", 19, 6, False, (250, 170, 30)),
    Label("traffic sign", 20, 7, False, (220, 220, 0)),
    Label("vegetation", 21, 8, False, (107, 142, 35)),
    Label("terrain", 22, 9, False, (152, 251, 152)),
    Label("sky", 23, 10, False, (70, 130, 180)),
    Label("person", 24, 11, True, (220, 20, 60)),
    Label("rider", 25, 12, True, (255, 0, 0)),
    Label("car", 26, 13, True, (0, 0, 142)),
    Label("truck", 27, 14, True, (0, 0, 70)),
    Label("bus", 28, 15, True, (0, 60, 100)),
    Label("caravan", 29, 255, True, (0, 0, 90)),
    Label("trailer", 30, 255, True, (0, 0, 110)),
    Label("train", 31, 16, True, (0, 80, 100)),
    Label("motorcycle", 32, 17, True, (0, 0, 230)),
    Label("bicycle", 33, 18, True, (119, 11, 32)),
)
"""Of the Cityscapes scripts, `helpers/labels.py`; the licence plate (-1) is in no PNG."""
KINDS = ("instanceIds", "panoptic", "labelIds", "labelTrainIds")  # the first that is there is read
_NAME = re.compile(
    r"^(?P<stem>.+)_(?P<set>gt\w+?)_(?P<kind>instanceIds|panoptic|labelIds|labelTrainIds)\.png$"
)


class Cityscapes(Reader):
    """Things with an instance number are objects, those without are crowds.

    Classes that Cityscapes does not evaluate become void unless `things` or `stuff` names them.
    """

    name, title = "cityscapes", "Cityscapes"
    includes = frozenset({"coco-panoptic"})  # of its panoptic PNGs

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        found = {
            k: [n for n in files.matching(".png") if (m := _NAME.match(n)) and m["kind"] == k] for k in KINDS
        }
        self.kind = next((k for k in KINDS if found[k]), "")
        self.names = found.get(self.kind, [])
        if not self.names:
            raise DataError("no *_gtFine_instanceIds.png or *_labelIds.png here", where=files.where(""))
        self._png_at: dict[str, tuple[PanopticPngs, int]] = {}
        if self.kind == "panoptic":
            self._read_json()
            return
        labels = self._labels()
        semantic = self.kind.startswith("label")
        wanted = {*options.things, *options.stuff}
        used = [label for label in labels if label.train_id != 255 or label.name in wanted]
        self.classes = [SourceClass(c.name, c.instances and not semantic, c.color, c.id) for c in used]
        key = "train_id" if self.kind == "labelTrainIds" else "id"
        self.by_id = {getattr(label, key): label for label in used}
        self.void = {getattr(label, key) for label in labels if label not in used}
        self.void |= {19, 255} if key == "train_id" else {255}
        self.decisions.append(f"{len(self.names)} files *_{self.kind}.png are read")
        left = [label.name for label in labels if label not in used and label.id]
        if left:
            self.decisions.append(f"classes that Cityscapes does not evaluate are void: {', '.join(left)}")
        if semantic:
            self.decisions.append("there are no instances, so every class is stuff")

    def _read_json(self) -> None:
        """The panoptic JSON of each split, its PNGs in the folder of its name beside it."""
        jsons = [n for n in self.files.matching(".json") if "cityscapes_panoptic" in n]
        for name in jsons:
            folder = name.removesuffix(".json")
            pngs = PanopticPngs(self.files, name, [folder], faults=self.faults)
            self.classes += [c for c in pngs.classes if c not in self.classes]
            self._png_at |= {f"{folder}/{png}": (pngs, k) for k, png in enumerate(pngs.file.png_names)}
        if not self.classes:
            what = "there are panoptic PNGs, but no cityscapes_panoptic_*.json that says what is in them"
            raise DataError(what, where=self.files.where(""))

    @classmethod
    def detect(cls, files: Files) -> str | None:
        """By the names of the PNGs."""
        return next((n for n in files.matching(".png") if _NAME.match(n)), None)

    def _labels(self) -> list[Label]:
        """Cityscapes' own, or those of `labels.json` as `data export` writes it."""
        name = next((n for n in self.files.names if n.endswith("gtFine/labels.json")), None)
        if name is None:
            return list(LABELS)
        try:
            rows = self.files.json(name)
            own = [
                Label(str(r["name"]), int(r["id"]), int(r["id"]), bool(r["hasInstances"]), tuple(r["color"]))
                for r in rows
            ]
        except (TypeError, KeyError, ValueError):
            raise DataError("is not a list of classes", where=self.files.where(name)) from None
        if not all(is_color([*c.color]) for c in own):
            raise DataError(
                "has a colour that is not three numbers from 0 to 255", where=self.files.where(name)
            )
        return [LABELS[0], *own]

    def one(self, name: str) -> AnnotatedImage:
        path = PurePosixPath(name)
        match = _NAME.match(name)
        assert match is not None
        stem = PurePosixPath(match["stem"]).name
        city, split = path.parent.name, split_of(name)
        if self.kind == "panoptic":  # all cities in one folder, cityscapes_panoptic_train
            city = stem.partition("_")[0]
            split = next((s for s in ("train", "val", "test") if f"_{s}" in path.parent.name), "")
        image = self.image(f"{stem}_leftImg8bit.png", f"leftImg8bit/{split}/{city}", by_stem=True)
        where = self.files.where(name)
        if self.kind == "panoptic":
            if name not in self._png_at:
                raise DataError("no JSON lists this PNG", where=where, kind="unlisted-png")
            pngs, index = self._png_at[name]
            ids, segments = pngs.read(index)
        elif self.kind == "instanceIds":
            ids, segments = self._instances(name, where)
        else:
            names = {number: label.name for number, label in self.by_id.items()}
            values = read_values(self.files.path(name), where)
            ids, segments, unknown = class_segments(values, names, self.void)
            self._unknown(where, unknown)
        height, width = ids.shape
        name = f"{city}/{stem}_leftImg8bit{image.suffix if image else '.png'}"
        return AnnotatedImage(name, image, where, split, width, height, ids=ids, segments=segments)

    def _instances(self, name: str, where: str) -> tuple[np.ndarray, list[IdSegment]]:
        values = read_values(self.files.path(name), where)
        numbers = np.where(values < 1000, values, values // 1000)
        ids, found = numbered(values)
        table, segments, unknown = np.zeros(len(found) + 1, np.int32), list[IdSegment](), Counter[int]()
        place: dict[int, int] = {}
        for position, value in enumerate(found, 1):
            number = value if value < 1000 else value // 1000
            label = self.by_id.get(number)
            if label is None:
                if number not in self.void:
                    unknown[number] += int((numbers[ids == position]).size)
                continue
            key = value if label.instances else number  # stuff has no instances, whatever the number says
            if key not in place:
                place[key] = len(segments) + 1
                segments.append(IdSegment(place[key], label.name, label.instances and value < 1000))
            table[position] = place[key]
        self._unknown(where, unknown)
        return table[ids], segments

    def _unknown(self, where: str, unknown: dict[int, int]) -> None:
        for number, pixels in unknown.items():
            self.faults.add(
                "unknown-class", where, f"class {number} is not known; its {pixels} pixels are void"
            )
