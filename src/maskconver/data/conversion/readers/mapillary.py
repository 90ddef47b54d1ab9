"""Mapillary Vistas v1.2 and v2.0: panoptic PNGs, instances (16 bits) or labels."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..annotation import AnnotatedImage, IdSegment, Options, Reader, SourceClass
from ..colors import is_color
from ..files import Files
from ..pairs import split_of
from ..pixels import class_segments, named_segments, read_values
from ..ready import PanopticPngs

_CONFIG = re.compile(r"(?:^|/)config(?:_(?P<version>v[\d.]+))?\.json$")
KINDS = ("panoptic", "instances", "labels")  # the first that is there is read


class Mapillary(Reader):
    """Classes that the configuration says are not evaluated become void.

    Of several versions the newest is read; name a configuration file as the source for another.
    """

    name, title = "mapillary", "Mapillary Vistas"
    includes = frozenset({"coco-panoptic"})  # of its panoptic PNGs

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        configs = {m["version"] or "": n for n in files.matching(".json") if (m := _CONFIG.search(n))}
        if not configs:
            raise DataError("no config.json of Mapillary Vistas here", where=files.where(files.only))
        version = max(configs, key=lambda v: [int(d) for d in re.findall(r"\d+", v)])
        others = [v for v in configs if v != version]
        if others:
            self.decisions.append(f"{version} is read, not {', '.join(others)}")
        labels = _labels(files, configs[version])
        readable = [row["readable"] for row in labels]
        key = "readable" if len(set(readable)) == len(readable) else "name"
        self._names = {k: str(row[key]) for k, row in enumerate(labels) if row["evaluate"]}
        self._things = {k for k, row in enumerate(labels) if row["instances"]}
        self._void = {k for k, row in enumerate(labels) if not row["evaluate"]}
        pngs = [n for n in files.names if n.endswith(".png")]
        # `training/v1.2/instances`, or `training/instances` of the first edition
        folders = {kind: f"/{version}/{kind}/" if version else f"/{kind}/" for kind in KINDS}
        for kind in KINDS:
            self.kind, self.names = kind, [n for n in pngs if folders[kind] in f"/{n}"]
            if not self.names and version:
                self.names = [n for n in pngs if f"/{kind}/" in f"/{n}" and not re.search(r"/v[\d.]+/", n)]
            if self.names:
                break
        else:
            raise DataError(f"no PNGs in folders {' or '.join(KINDS)}", where=files.where(""))
        self._listed: dict[str, tuple[PanopticPngs, int]] = {}
        if self.kind == "panoptic":
            self._read_json()
        else:
            semantic = self.kind == "labels"
            self.classes = [
                SourceClass(name, k in self._things and not semantic, tuple(labels[k]["color"]), k + 1)
                for k, name in self._names.items()
            ]
        self.decisions.append(f"{len(self.names)} PNGs of the folders {self.kind} are read")

    @classmethod
    def detect(cls, files: Files) -> str | None:
        """By the configuration file."""
        for name in files.matching(".json"):
            if _CONFIG.search(name) and '"readable"' in files.head(name):
                return name
        return None

    def _read_json(self) -> None:
        folders = {str(PurePosixPath(n).parent) for n in self.names}
        for name in [n for n in self.files.names if n.endswith(".json")]:
            folder = str(PurePosixPath(name).parent)
            if folder in folders:
                pngs = PanopticPngs(self.files, name, [folder], faults=self.faults)
                self.classes += [c for c in pngs.classes if c not in self.classes]
                self._listed |= {f"{folder}/{png}": (pngs, k) for k, png in enumerate(pngs.file.png_names)}
        if not self.classes:
            what = "there is no panoptic_*.json beside the PNGs that says what is in them"
            raise DataError(what, where=self.files.where(sorted(folders)[0]))

    def one(self, name: str) -> AnnotatedImage:
        path, where = PurePosixPath(name), self.files.where(name)
        top = re.sub(rf"(?:v[\d.]+/)?{self.kind}/[^/]+$", "", name)
        image = self.image(f"{path.stem}.jpg", f"{top}images", by_stem=True)
        ids: NDArray[np.int32]
        if self.kind == "panoptic":
            if name not in self._listed:
                raise DataError("no JSON lists this PNG", where=where, kind="unlisted-png")
            pngs, index = self._listed[name]
            ids, segments = pngs.read(index)
        else:
            values = read_values(self.files.path(name), where)
            if self.kind == "labels":
                ids, segments, unknown = class_segments(values, self._names, self._void)
            else:
                ids, segments, unknown = self._instances(values)
            for number, pixels in unknown.items():
                text = f"class {number} is not in the configuration; its {pixels} pixels are void"
                self.faults.add("unknown-class", where, text)
        height, width = ids.shape
        shown = f"{path.stem}{image.suffix if image else '.jpg'}"
        return AnnotatedImage(shown, image, where, split_of(name), width, height, ids=ids, segments=segments)

    def _instances(
        self, values: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], list[IdSegment], dict[int, int]]:
        """Class · 256 + number of the object; classes without objects are one segment each."""
        labels = values >> 8
        is_thing = np.isin(labels, sorted(self._things))
        keys = np.where(np.isin(labels, sorted(self._void)), -1, np.where(is_thing, values, labels << 8))
        ids, segments, unnamed = named_segments(keys, lambda value: self._names.get(value >> 8))
        unknown = Counter[int]()
        for value, pixels in unnamed.items():
            unknown[value >> 8] += pixels
        return ids, segments, unknown


def _labels(files: Files, config: str) -> list[dict[str, Any]]:
    rows = files.json(config)
    rows = rows.get("labels") if isinstance(rows, dict) else None
    if not isinstance(rows, list) or not all(
        isinstance(r, dict) and {"name", "instances", "color"} <= r.keys() and is_color(r["color"])
        for r in rows
    ):
        raise DataError('has no list "labels" of classes', where=files.where(config))
    return [{"readable": r["name"], "evaluate": True} | r for r in rows]
