"""YOLO segmentation: a text file an image, a line an object: class, then x, y of each point from 0 to 1."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import yaml

from ....core.files import load_yaml
from ....errors import DataError, ImageError, first_line
from ....io.images import image_size
from ..annotation import AnnotatedImage, Options, Reader, Shape, SourceClass
from ..files import Files, plain_name, stem_of
from ..geometry import polygon
from ..splits import folder_split, split_name

_LISTS = ("classes.txt", "obj.names", "labels.txt", "names.txt")
_NOT_LABELS = {*_LISTS, "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt", "notes.txt"}
_SPLITS = ("train", "val", "valid", "test")
_SLACK = 0.5  # a coordinate of more than 1 + this is in pixels


class Yolo(Reader):
    """YOLO segmentation with a `data.yaml` or a list of class names."""

    name: ClassVar[str] = "yolo-seg"
    title: ClassVar[str] = "YOLO segmentation"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        if files.only and not files.only.lower().endswith((".yaml", ".yml")):
            raise DataError(
                "give the folder of a YOLO data set, or its data.yaml", where=files.where(files.only)
            )
        described = _yaml_file(files)
        content = read_yaml(files, described) if described else {}
        if content.get("kpt_shape"):
            what = "describes boxes and keypoints (kpt_shape), which have no outlines"
            raise DataError(what, where=files.where(described or ""))
        names = _names(content.get("names")) if content else _listed(files)
        if not names:
            raise DataError("no file names the classes (data.yaml or classes.txt)", where=files.where(""))
        self._names = dict(enumerate(names)) if isinstance(names, list) else names
        self.classes = [SourceClass(name, id=i) for i, name in self._names.items()]
        self._labels = {n: False for n in files.names if _may_be_label(n)}  # and whether it is used
        if not self._labels:
            raise DataError("no label files (.txt)", where=files.where(""))
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for label in self._labels:
            self._by_stem[stem_of(label)].append(label)
        self._own = {n for image in files.image_names() if (n := self._exact_label(image))}
        self._images = self._find_images(content, posixpath.dirname(described or ""))
        self.count = len(self._images)

    @classmethod
    def detect(cls, files: Files) -> str | None:
        if files.only and not files.only.lower().endswith((".yaml", ".yml")):
            return None
        described = _yaml_file(files)
        if described:
            return f"{described} names classes and folders of images"
        lists = [n for n in files.names if posixpath.basename(n).lower() in _LISTS]
        labels = (n for n in files.names if _may_be_label(n))
        first = next(labels, None)
        if lists and first and _looks_like_label(files.head(first)):
            return f"{lists[0]} and {first}"
        return None

    def _find_images(self, content: dict[str, Any], folder: str) -> list[tuple[str, str]]:
        """(image, split) of all images: those in the folders that are named, else those with labels."""
        images = self.files.image_names()
        found: dict[str, str] = {}
        again = 0
        for split in _SPLITS:
            named = content.get(split) or []
            for entry in named if isinstance(named, list) else [named]:
                for image in self._below(str(entry), folder, images, content.get("path")):
                    again += split_name(found.setdefault(image, split)) != split_name(split)
        if again:
            text = "images are in several splits of data.yaml; each is in the first"
            self.decisions.append(f"{again} {text} of train, val and test that names it")
        if not found:
            for image in images:
                if self._label_of(image):
                    found[image] = next((p for p in image.split("/")[:-1] if split_name(p) in _SPLITS), "")
        return sorted(found.items())

    def _below(self, entry: str, folder: str, images: list[str], path: Any) -> list[str]:
        """Images in a folder, or in the list of a text file, that data.yaml names."""
        plain = plain_name(entry)
        base = plain_name(str(path)) if path else ""
        if plain.lower().endswith(".txt"):
            listed = [n for n in self.files.names if n == plain or n.endswith("/" + plain)]
            lines = self.files.text(listed[0]).splitlines() if listed else []
            lines = [line for line in map(plain_name, lines) if line]
            known, tops = set(images), dict.fromkeys((folder, posixpath.join(folder, base)))
            there = [image for line in lines if (image := _listed_image(line, tops, known))]
            if missing := len(lines) - len(there) or not listed:
                what = f"of whose images {missing} are missing" if listed else "which is missing"
                self.decisions.append(f'data.yaml names the list "{entry}", {what}')
            return there
        parts = plain.split("/") if plain else []
        tries = [posixpath.join(folder, plain), posixpath.join(folder, base, plain)]
        tries += ["/".join(parts[k:]) for k in range(1, len(parts))]  # of an absolute path of another machine
        others = {"valid": "val", "val": "valid"}
        tries += ["/".join(others.get(p, p) for p in t.split("/")) for t in tries]
        for start in dict.fromkeys(posixpath.normpath(t).rstrip("/") + "/" for t in tries):
            inside = images if start == "./" else [n for n in images if n.startswith(start)]
            if inside:
                return inside
        self.decisions.append(f'data.yaml names "{entry}", where there is no image')
        return []

    def _label_of(self, image: str) -> str | None:
        """The label file of an image: in `labels` beside `images`, in the same folder, or by name alone.

        By its name alone none is taken that is another image's, or of another split.
        """
        if exact := self._exact_label(image):
            return exact
        own = folder_split(image)
        same = [
            n
            for n in self._by_stem.get(stem_of(image), [])
            if n not in self._own and (not own or folder_split(n) in ("", own))
        ]
        return same[0] if len(same) == 1 else None

    def _exact_label(self, image: str) -> str | None:
        """The label file that lies where an image's belongs."""
        stem = posixpath.splitext(image)[0]
        parts = stem.split("/")
        places = [k for k, part in enumerate(parts[:-1]) if part.lower() == "images"]
        tries = [
            "/".join([*parts[:k], other, *parts[k + 1 :]]) + ".txt"
            for k in reversed(places)
            for other in ("labels", "Labels", "labelTxt")
        ]
        return next((name for name in [*tries, f"{stem}.txt"] if name in self._labels), None)

    def images(self) -> Iterator[AnnotatedImage]:
        for name, split in self._images:
            label = self._label_of(name)
            path = self.files.path(name)
            where = self.files.where(label or name)
            try:
                height, width = image_size(path)
            except ImageError as error:
                if label:
                    self._labels[label] = True
                self.faults.add("bad-image", error.where, error.text)
                continue
            image = AnnotatedImage(name, path, where, split, width, height)
            if label is None:
                self.faults.note("images-without-label-file")
            else:
                self._labels[label] = True
                try:
                    text = self.files.text(label)
                except DataError as error:
                    self.faults.reject(error, where)
                    continue
                image.shapes = [*self._shapes(text, where, np.array([width, height]))]
                if not text.strip():
                    self.faults.note("empty-label-files")
            yield image
        left = [n for n, used in self._labels.items() if not used and _looks_like_label(self.files.head(n))]
        there = {stem_of(n) for n in self.files.image_names()} if left else set()
        for label in left:
            if stem_of(label) in there:
                self.faults.note("label-files-outside-the-splits-of-data-yaml")
            else:
                text = "there is no image of this name"
                self.faults.add("missing-image", self.files.where(label), text)

    def _shapes(self, text: str, where: str, size: Any) -> Iterator[Shape]:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                shape = self._shape(line.split(), size)
            except DataError as error:
                self.faults.add(error.kind, f"{where}, line {number}", error.what)
                continue
            shape.entry = f"line {number}"
            yield shape

    def _shape(self, words: list[str], size: Any) -> Shape:
        try:
            number, *values = (float(w) for w in words)
        except ValueError:
            what = "is not a row of numbers"
            if "," in "".join(words):
                what += " with blanks between them and points as decimal marks; it has commas"
            raise DataError(what, kind="bad-line") from None
        if len(values) in (4, 5):
            raise DataError("is a box without an outline", kind="no-outline")
        if number not in self._names:
            raise DataError(f"class {words[0]} is not one of {len(self._names)}", kind="unknown-class")
        score = values.pop() if len(values) % 2 and len(values) > 6 else None
        points = polygon(values)
        if points.max() > 1 + _SLACK or points.min() < -_SLACK:
            raise DataError("the coordinates are not between 0 and 1", kind="bad-polygon")
        return Shape(self._names[int(number)], polygons=[points * size], score=score, relative=True)


def _listed_image(line: str, tops: Iterable[str], known: set[str]) -> str | None:
    """The image that a line of a list means, which may be a path of another machine."""
    parts = line.split("/")
    tails = ("/".join(parts[k:]) for k in range(len(parts)))
    tries = (posixpath.normpath(posixpath.join(top, tail)) for tail in tails for top in tops)
    return next((name for name in tries if name in known), None)


def _yaml_file(files: Files) -> str | None:
    """The YAML that names classes and splits; that nearest to the top."""
    found = []
    for name in files.matching(".yaml", ".yml"):
        head = "\n" + files.head(name, 1 << 16)
        if "\nnames:" in head and any(f"\n{split}:" in head for split in _SPLITS):
            found.append(name)
    return min(found, key=lambda n: (n.count("/"), n), default=None)


def read_yaml(files: Files, name: str) -> dict[str, Any]:
    """The content of a YAML file; `names` as texts.

    Raises:
        DataError: it cannot be read or is not YAML.
    """
    try:
        text = files.text(name)
        content = load_yaml(text)
        if isinstance(content, dict):  # `no` is the name of a class here, and 007 as well
            content["names"] = yaml.load(text, yaml.BaseLoader).get("names")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        why = f"line {mark.line + 1}: {problem}" if mark and problem else first_line(error)
        raise DataError(f"is not YAML ({why})", where=files.where(name)) from None
    return content if isinstance(content, dict) else {}


def _names(found: Any) -> dict[int, str]:
    if isinstance(found, dict):
        return {int(k): _named(v, int(k)) for k, v in found.items() if str(k).isdigit()}
    if isinstance(found, str):  # one class, or several with commas
        found = [name.strip() for name in found.split(",") if name.strip()]
    return {i: _named(v, i) for i, v in enumerate(found)} if isinstance(found, list) else {}


def _named(value: Any, number: int) -> str:
    """The name of a class, its number where there is none."""
    return " ".join(str(value).split()) or str(number)


def _listed(files: Files) -> dict[int, str]:
    lists = sorted(
        (n for n in files.names if posixpath.basename(n).lower() in _LISTS), key=lambda n: n.count("/")
    )
    lines = files.text(lists[0]).splitlines() if lists else []
    return {i: line.strip() for i, line in enumerate(lines) if line.strip()}


def _may_be_label(name: str) -> bool:
    return name.lower().endswith(".txt") and posixpath.basename(name).lower() not in _NOT_LABELS


def _looks_like_label(head: str) -> bool:
    words = head.strip().splitlines()[0].split() if head.strip() else []
    try:
        return len(words) >= 5 and words[0].isdigit() and all(np.isfinite(float(w)) for w in words[:5])
    except ValueError:
        return False
