"""COCO instances: JSON files of polygons and run lengths, from COCO, Roboflow, CVAT, Label Studio or mmdet.

The annotations stay text until their image's turn comes, so that a set of COCO's size needs little more
memory than its file.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ....core.categories import Categories
from ....core.files import decoded
from ....errors import DataError
from ....io.panoptic_rows import PanopticJson, is_not_utf8, parse
from ..annotation import AnnotatedImage, Options, Reader, Shape, SourceClass
from ..files import Files, is_address, path_in
from ..geometry import polygon
from ..pixels import SemanticPngs
from ..splits import split_name

PANOPTIC, INSTANCES = b'"segments_info"', b'"segmentation"'
_SPLITS = ("train", "val", "test")
_TOP = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')


class _Key(msgspec.Struct, gc=False):
    """What is looked at in every annotation at the start."""

    image_id: int | str | float
    category_id: int | str | float | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"")
    segments_info: msgspec.Raw = msgspec.Raw(b"")
    caption: msgspec.Raw = msgspec.Raw(b"")
    keypoints: msgspec.Raw = msgspec.Raw(b"")
    bbox: msgspec.Raw = msgspec.Raw(b"")


class _Image(msgspec.Struct, gc=False):
    """A row of `images`; sizes are 0 where they are not known."""

    id: int | str
    file_name: str
    width: int = 0
    height: int = 0


class _File:
    """A JSON: its images, its classes, and the text of its annotations by image.

    Attributes:
        name: of the file.
        split: the one that its name or folder says, as the source writes it.
        images: rows by id.
        names: class by category id.
        classes: as they are listed.
        kind: `instances`, or what else it holds.
    """

    def __init__(self, reader: Coco, name: str) -> None:
        self.name, self.where = name, reader.files.where(name)
        self.split = split_of(name)
        content = _content(reader.files, name)
        self.is_stuff = posixpath.basename(name).lower().startswith("stuff")
        self.images: dict[int | str, _Image] = {}
        self._raws: list[msgspec.Raw] = _list(content.annotations, "annotations", self.where)
        keys, sound, faults = _keys(self._raws)
        self.kind = _kind(keys)
        if self.kind != "instances":
            return
        for number, raw in enumerate(_list(content.images, "images", self.where)):
            if isinstance(row := _image_row(value(raw)), str):
                reader.faults.add("bad-image-row", f"{self.where}, images[{number}]", row)
            elif row.id in self.images and self.images[row.id].file_name != row.file_name:
                text = f"image id {row.id} is also {self.images[row.id].file_name}; ids must be unique"
                reader.faults.add("duplicate-image-id", f"{self.where}, {row.file_name}", text)
            else:
                self.images[row.id] = row
        times = Counter(row.file_name for row in self.images.values())
        if again := sorted(file for file, count in times.items() if count > 1):
            some = f'"{again[0]}"' if len(again) == 1 else f'{len(again)} images, such as "{again[0]}",'
            reader.say(
                f"{self.name} lists {some} under several ids; each becomes an image with its own annotations "
                "alone, so what belongs to the others is background there"
            )
        for number, text in faults:
            reader.faults.add("bad-annotation", f"{self.where}, annotations[{number}]", text)
        self._raws = [self._raws[i] for i in sound]
        self._index(keys, reader)
        used = Counter(n for k in keys if (n := _category_number(k.category_id)) is not None)
        self.classes = self._classes(content, used, reader)

    def _index(self, keys: list[_Key], reader: Coco) -> None:
        """Sorts the annotations by image, each image's in file order."""
        place = {image: i for i, image in enumerate(self.images)}
        # Ids may be text in one list and numbers in the other.
        others: dict[int | str, int] = {str(image): i for image, i in place.items() if isinstance(image, int)}
        others |= {int(t): i for t, i in place.items() if isinstance(t, str) and t.isdecimal()}
        ids = [_identity(k.image_id) for k in keys]
        owner = np.array([place.get(i, others.get(i, -1)) for i in ids], np.int64)
        for i in np.flatnonzero(owner < 0).tolist():
            text = f"is of image {keys[i].image_id}, which images lacks"
            reader.faults.add("unknown-image", f"{self.where}, {_entry(value(self._raws[i]), i)}", text)
        order = np.argsort(owner, kind="stable")
        self._raws = [self._raws[i] for i in order.tolist()]
        self._starts = np.searchsorted(owner[order], np.arange(len(place) + 1))
        self._place = place

    def annotations(self, image_id: int | str) -> Iterator[dict[str, Any]]:
        """The annotations of an image."""
        place = self._place.get(image_id)
        if place is not None:
            for i in range(int(self._starts[place]), int(self._starts[place + 1])):
                yield value(self._raws[i])

    def _classes(self, content: PanopticJson, used: Counter[int], reader: Coco) -> list[SourceClass]:
        rows: dict[int, dict[str, Any]] = {}
        for number, raw in enumerate(_list(content.categories, "categories", self.where)):
            row = value(raw)
            number_ = _category_number(row.get("id")) if isinstance(row, dict) else None
            if number_ is None:
                text = "has no whole number as id"
                reader.faults.add("bad-category", f"{self.where}, categories[{number}]", text)
            elif number_ in rows:
                text = f"category id {number_} occurs twice"
                reader.faults.add("bad-category", f"{self.where}, categories[{number}]", text)
            else:
                rows[number_] = row
        names = {i: " ".join(str(row.get("name") or "").split()) or str(i) for i, row in rows.items()}
        above = {str(row.get("supercategory")) for i, row in rows.items()}
        found = []
        for i, row in rows.items():
            twice = sum(n == names[i] for n in names.values()) > 1
            if not used[i] and (twice or (i == 0 and names[i] in above)):
                reader.say(
                    f'category {i} "{names[i]}" of {self.name} is used by no annotation and is left out'
                )
                continue
            if self.is_stuff and names[i] == "other" and i == 183:
                reader.say(f'category 183 "other" of {self.name} stands for all things and is left out')
                self.left_out = i
                continue
            thing = row.get("isthing")
            known = thing in (0, 1)
            color = row.get("color")
            found.append(
                SourceClass(
                    names[i],
                    False if self.is_stuff else bool(thing) if known else None,
                    _color(color),
                    i,
                )
            )
        self.names = {c.id: c.name for c in found}
        return found

    left_out = -1


class Coco(Reader):
    """COCO instances, with COCO stuff where it lies beside them."""

    name: ClassVar[str] = "coco"
    title: ClassVar[str] = "COCO instances"

    def __init__(self, files: Files, options: Options) -> None:
        super().__init__(files, options)
        self._files: list[_File] = []
        others, boxes = [], []
        for name in files.matching(".json"):
            if not looks_like_coco(files, name):
                continue
            try:
                file = _File(self, name)
            except DataError as error:
                self.faults.reject(error, files.where(name))
                continue
            if file.kind == "instances":
                self._files.append(file)
            elif file.kind == "only boxes":
                boxes.append(name)
            else:
                others.append(f"{posixpath.basename(name)} ({file.kind})")
        for name in boxes:
            text = "the annotations have boxes and no outlines"
            self.faults.add("no-outline", files.where(name), text)
        if not self._files:
            first = f": {'; '.join(others)}" if others else ""
            faults = f"; {self.faults.listed[0]}" if self.faults.listed else ""
            where = files.where(files.only)
            raise DataError(f"no COCO file with outlines of objects here{first}{faults}", where=where)
        if others:
            self.say(f"not used: {', '.join(others)}")
        self._set_classes()
        self.count = len({(f.split, i) for f in self._files for i in f.images})

    @classmethod
    def detect(cls, files: Files) -> str | None:
        names = [n for n in files.matching(".json") if looks_like_coco(files, n)]
        kinds = {name: first_outline(files, name) for name in names}
        for wanted in (INSTANCES, b""):
            for name in names:
                if kinds[name] == wanted and (wanted or PANOPTIC not in kinds.values()):
                    return f"{name} has images, annotations and categories as COCO"
        return None

    def say(self, text: str) -> None:
        """Keeps a decision, once."""
        if text not in self.decisions:
            self.decisions.append(text)

    def _set_classes(self) -> None:
        every = [c for f in self._files for c in f.classes]
        by_id: dict[int | None, set[str]] = {}
        for c in every:
            by_id.setdefault(c.id, set()).add(c.name)
        agree = all(len(names) == 1 for names in by_id.values())
        if not agree:
            self.say("the files number their classes differently; they are joined by name")
        twice: dict[str, set[int | None]] = {}
        for c in every:
            twice.setdefault(c.name, set()).add(c.id)
        for name, ids in twice.items():
            if agree and len(ids) > 1:
                numbers = " and ".join(str(i) for i in sorted(ids, key=str))
                self.say(f'categories {numbers} are both called "{name}" and become one')
        found: dict[str, SourceClass] = {}
        for c in every:
            new = c if agree else SourceClass(c.name, c.is_thing, c.color)
            found.setdefault(c.name, new)
        self.classes = list(found.values())
        coco = {(c.id, c.name): c for c in Categories.coco()}
        same = [coco.get((c.id or 0, c.name)) for c in self.classes if c.is_thing is None]
        if len(same) == len(self.classes) and all(same):
            self.say("the categories are those of COCO panoptic, and so are things and stuff")
            self.classes = [SourceClass(c.name, c.is_thing, c.color, c.id) for c in same if c]
        self._semantic = SemanticPngs(self.files, [c.name for c in self.classes])
        if self._semantic.classes:
            self.say(
                f"stuff below the objects is taken from PNGs, with the classes of {self._semantic.named}"
            )
            self.classes = [SourceClass(c.name, c.is_thing, c.color) for c in self.classes]
            self.classes += self._semantic.classes
        elif self._semantic.masks:
            self.say("PNGs of classes are not used, as no classes.json or classes.txt names the classes")

    def images(self) -> Iterator[AnnotatedImage]:
        done: set[tuple[str, int | str]] = set()
        count, crowds = 0, 0
        for file in self._files:
            beside = [f for f in self._files if split_name(f.split) == split_name(file.split)]
            for row in file.images.values():
                same = [f for f in beside if (r := f.images.get(row.id)) and r.file_name == row.file_name]
                if (file.name, row.id) in done:
                    continue
                done.update((f.name, row.id) for f in same[1:])
                where = f"{file.where}, image {row.file_name}"
                try:
                    path = self.image(row.file_name, *near(file.name, file.split))
                except DataError as error:
                    self.faults.reject(error, where)
                    continue
                name = path_in(row.file_name) if is_address(row.file_name) else row.file_name
                size = row.width or None, row.height or None
                image = AnnotatedImage(name, path, where, file.split, *size)
                for f in same:
                    image.shapes += self._shapes(f, row)
                count += len(image.shapes)
                crowds += sum(shape.crowd for shape in image.shapes)
                try:
                    image.shapes += self._semantic.shapes(image)
                except DataError as error:
                    self.faults.reject(error, where)
                    continue
                yield image
        if 2 * crowds > count:
            self.say(
                f"{crowds} of {count} annotations are marked as crowds, which are not learned as objects; "
                "CVAT marks every mask of a brush so: set iscrowd to 0 where each is one object"
            )

    def _shapes(self, file: _File, image: _Image) -> Iterator[Shape]:
        for number, row in enumerate(file.annotations(image.id)):
            entry = _entry(row, number)
            where = f"{file.where}, {entry}"
            category = row.get("category_id")
            known = _category_number(category)
            if known == file.left_out:
                continue
            name = None if known is None else file.names.get(known)
            if name is None:
                self.faults.add("unknown-class", where, f"category {category} is not among the categories")
                continue
            try:
                shape = self._shape(row, name, where)
            except DataError as error:
                self.faults.add(error.kind or "bad-shape", where, error.what)
                continue
            shape.entry = entry
            shape.layer = -1 if file.is_stuff else 0
            shape.crowd = row.get("iscrowd") in (1, True, "1")
            shape.area = _number(row.get("area")) or None  # 0 is written for what is not known
            shape.score = _number(row.get("score"))
            yield shape

    def _shape(self, row: dict[str, Any], name: str, where: str) -> Shape:
        outline = row.get("segmentation")
        if isinstance(outline, Mapping):
            return Shape(name, rle=outline)
        if isinstance(outline, str) and outline.strip():
            what = "its segmentation is one text, not a list of numbers; write it as JSON"
            raise DataError(what, kind="bad-polygon")
        if not isinstance(outline, list) or not outline:
            what = "has only a box, no outline" if row.get("bbox") else "has no outline"
            raise DataError(what, kind="no-outline")
        if all(isinstance(v, int | float) for v in outline):
            self.faults.note("flat-polygons")
            outline = [outline]
        parts: list[NDArray[np.float64]] = []
        for part in outline:
            try:
                parts.append(polygon(part))
            except DataError as error:
                if len(outline) == 1:
                    raise
                self.faults.add(error.kind, where, f"one of {len(outline)} parts: {error.what}")
        return Shape(name, polygons=parts)


def split_of(name: str) -> str:
    """The split that the name of an annotation file or its folder says; "" where neither does."""
    folder, stem = posixpath.split(posixpath.splitext(name)[0].lower())
    for word in re.split(r"[^a-z0-9]+", stem):
        if split_name(word) in _SPLITS:
            return word
    for part in reversed(folder.split("/")):
        if split_name(part) in _SPLITS:
            return part
    return ""


def near(name: str, split: str) -> list[str]:
    """Folders, relative to the source, where the images of an annotation file may lie."""
    folder = posixpath.dirname(name)
    bases = list(dict.fromkeys((folder, posixpath.dirname(folder), "")))
    names = list(dict.fromkeys((split, split_name(split), f"{split_name(split)}2017"))) if split else []
    found = [
        posixpath.join(b, *parts)
        for b in bases
        for n in names
        for parts in ((n,), ("images", n), (n, "images"))
    ]
    return [folder, *found, *(posixpath.join(b, "images") for b in bases)]


def value(raw: msgspec.Raw) -> Any:
    """The content of a row; text that is not UTF-8 is taken as Windows-1252."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not is_not_utf8(error):
            raise
        return msgspec.json.decode(decoded(bytes(raw)).encode())


def _content(files: Files, name: str) -> PanopticJson:
    return parse(files.path(name).read_bytes(), files.where(name))


def looks_like_coco(files: Files, name: str) -> bool:
    """Whether a JSON begins as COCO's files do."""
    head = files.head(name, 1 << 16)
    return (
        head.lstrip("\ufeff \r\n\t").startswith("{")
        and bool(_TOP.search(head))
        and '"image"' not in head[:200]
    )


def first_outline(files: Files, name: str) -> bytes:
    """`PANOPTIC` or `INSTANCES`, whichever key comes first in a JSON; b"" where there is neither."""
    return files.first_of(name, PANOPTIC, INSTANCES)


def _list(text: msgspec.Raw, key: str, where: str) -> list[msgspec.Raw]:
    if not bytes(text):
        return []
    try:
        return msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.ValidationError:
        raise DataError(f'"{key}" is not a list', where=where) from None


def _keys(raws: list[msgspec.Raw]) -> tuple[list[_Key], list[int], list[tuple[int, str]]]:
    """What each annotation is about, the positions of those that say so, what is wrong with the others."""
    decoder = msgspec.json.Decoder(_Key)
    keys, sound, faults = [], [], []
    for i, raw in enumerate(raws):
        try:
            key = decoder.decode(raw)
            keys.append(_Key(key.image_id, key.category_id, *(_is_given(r) for r in _texts(key))))
            sound.append(i)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            faults.append((i, f"is not an annotation ({error})"))
    return keys, sound, faults


def _texts(key: _Key) -> tuple[msgspec.Raw, ...]:
    return key.segmentation, key.segments_info, key.caption, key.keypoints, key.bbox


_GIVEN, _NOT = msgspec.Raw(b"1"), msgspec.Raw(b"")


def _is_given(raw: msgspec.Raw) -> msgspec.Raw:
    """A mark in place of a text, which may be long."""
    start = bytes(memoryview(raw)[:100]).strip(b' \r\n\t[]{}"')
    return _NOT if start in (b"", b"null") else _GIVEN


def _kind(keys: list[_Key]) -> str:
    given = [sum(bytes(t) != b"" for t in texts) for texts in zip(*map(_texts, keys))] if keys else [0] * 5
    outlines, panoptic, captions, keypoints, boxes = given
    if panoptic:
        return "COCO panoptic"
    if keypoints:
        return "keypoints"
    if captions:
        return "captions"
    if outlines:
        return "instances"
    return "only boxes" if boxes else "no outlines" if keys else "no annotations"


def _identity(number: int | str | float) -> int | str:
    return int(number) if isinstance(number, float) and number.is_integer() else number  # type: ignore[return-value]


def _category_number(value: Any) -> int | None:
    """A category id, also as pandas (1.0) or a program that writes text ("1") has it."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() else None
    number = None if isinstance(value, bool) else _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _image_row(row: Any) -> _Image | str:
    """A row of `images`, or what is wrong with it."""
    if not isinstance(row, dict):
        return "is not an object"
    number, name = row.get("id"), row.get("file_name")
    if not isinstance(number, int | str | float) or isinstance(number, bool):
        return "has no id"
    if not isinstance(name, str) or not name.strip():
        return "has no file_name"
    sides = [_number(row.get(k)) for k in ("width", "height")]
    width, height = (int(s) if s and s > 0 and float(s).is_integer() else 0 for s in sides)
    return _Image(_identity(number), name, width, height)


def _number(found: Any) -> float | None:
    if not isinstance(found, int | float) or abs(found) > 1e18 or found != found:
        return None
    return float(found)


def _color(found: Any) -> tuple[int, int, int] | None:
    sound = isinstance(found, list) and all(isinstance(v, int) and 0 <= v < 256 for v in found)
    return (found[0], found[1], found[2]) if sound and len(found) == 3 else None


def _entry(row: Any, number: int) -> str:
    found = row.get("id") if isinstance(row, dict) else None
    return f"annotation {number + 1 if found is None else found}"
