"""Exports of labelling tools: the pixels, classes and objects they hold, and what happens to spoiled ones."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskconver.data.conversion.annotation import Options, Reader
from maskconver.data.conversion.files import Files
from maskconver.data.conversion.registry import reader_of, recognise

from . import tool_exports as exports

Change = Callable[[Path], Any]
NAN = math.nan


def read(folder: Path, name: str, **options: Any) -> tuple[Reader, list[Any]]:
    reader = reader_of(name)(Files(folder), Options(**options))
    return reader, list(reader.images())


def in_json(name: str, change: Callable[[Any], Any]) -> Change:
    """Changes the content of a JSON file; what `change` returns replaces it unless it is None."""

    def apply(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8"))
        new = change(content)
        path.write_text(json.dumps(content if new is None else new), encoding="utf-8")

    return apply


def in_text(name: str, old: str, new: str, count: int = 1) -> Change:
    def apply(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, count), encoding="utf-8")

    return apply


def encoded(name: str, encoding: str, old: str = "", new: str = "") -> Change:
    def apply(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_bytes(text.replace(old, new).encode(encoding))

    return apply


def cut_off(name: str, keep: float = 0.5) -> Change:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: int(keep * (folder / name).stat().st_size)]
    )


def moved(old: str, new: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)

    return apply


def twice(old: str, *new: str) -> Change:
    """The image lies in other folders, in several of them."""

    def apply(folder: Path) -> None:
        for name in new:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((folder / old).read_bytes())
        (folder / old).unlink()

    return apply


def put(name: str, value: Any, *path: Any) -> Change:
    """Sets the value at a path of keys in a JSON file."""

    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return in_json(name, change)


def drop(name: str, *path: Any) -> Change:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return in_json(name, change)


def deleted(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


BAD_PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nnothing").decode()
BAD_ZIP = base64.b64encode(b"nothing").decode()
SMALL_PNG = base64.b64encode(exports.png(np.ones((3, 3), np.uint8))).decode()
DOCTYPE = '<!DOCTYPE a [<!ENTITY b "c">]>'
ME, XML, CV, VIA = "one.json", "Annotations/scenes/one.xml", "annotations.xml", "via_project.json"
LS, SLY = "project-3-at-2024-03-09.json", "pets/ann/one.jpg.json"
RESULT = (0, "annotations", 0, "result")


def region(change: Callable[[dict[str, Any]], Any], number: int = 0) -> Change:
    """Changes a region of the first image of a VIA project."""

    def apply(content: Any) -> None:
        change(next(iter(content["_via_img_metadata"].values()))["regions"][number])

    return in_json(VIA, apply)


def image_row(change: Callable[[dict[str, Any]], Any]) -> Change:
    return in_json(VIA, lambda content: change(next(iter(content["_via_img_metadata"].values()))) and None)


# By format: what is spoiled, the kind of the one fault ("" where it is put up with), images that are left.
SPOILED: dict[str, dict[str, tuple[Change, str, int]]] = {
    "labelme": {
        "two points": (put(ME, [[1, 1], [9, 9]], "shapes", 0, "points"), "bad-polygon", 2),
        "NaN": (put(ME, NAN, "shapes", 0, "points", 0, 0), "bad-polygon", 2),
        "text as coordinate": (put(ME, "12", "shapes", 0, "points", 0, 0), "bad-polygon", 2),
        "three coordinates": (put(ME, [1, 2, 3], "shapes", 0, "points", 0), "bad-polygon", 2),
        "no points": (drop(ME, "shapes", 0, "points"), "bad-shape", 2),
        "circle of one point": (put(ME, [[5, 5]], "shapes", 4, "points"), "bad-polygon", 2),
        "empty class": (put(ME, "  ", "shapes", 0, "label"), "no-class", 2),
        "class is a list": (put(ME, ["cat"], "shapes", 0, "label"), "no-class", 2),
        "shape type": (put(ME, "star", "shapes", 0, "shape_type"), "unknown-shape", 2),
        "shape is text": (put(ME, "cat", "shapes", 0), "bad-shape", 2),
        "mask is no PNG": (put(ME, BAD_PNG, "shapes", 5, "mask"), "broken-mask", 2),
        "mask is no base64": (put(ME, "äöü", "shapes", 5, "mask"), "broken-mask", 2),
        "mask of another size": (put(ME, SMALL_PNG, "shapes", 5, "mask"), "broken-mask", 2),
        "cut off": (cut_off(ME), "unreadable", 1),
        "empty file": (cut_off(ME, 0), "unreadable", 1),
        "a list": (in_json(ME, lambda c: [c]), "other-json", 1),
        "no shapes": (drop(ME, "shapes"), "other-json", 1),
        "no image": (deleted("one.jpg"), "missing-image", 1),
        "out of the set": (put(ME, "../../../../../etc/passwd", "imagePath"), "missing-image", 1),
        "two images": (twice("one.jpg", "a/one.jpg", "b/one.jpg"), "ambiguous-image", 1),
        "byte order mark": (encoded(ME, "utf-8-sig"), "", 2),
        "UTF-16": (encoded(ME, "utf-16"), "", 2),
        "backslashes": (put(ME, "..\\images\\one.jpg", "imagePath"), "", 2),
        "another machine": (put(ME, "C:\\Users\\alex\\one.jpg", "imagePath"), "", 2),
        "upper case": (moved("one.jpg", "ONE.JPG"), "", 2),
        "no image path": (put(ME, None, "imagePath"), "", 2),
        "no flags, no type": (
            put(ME, {"label": "cat", "points": [[1, 1], [5, 1], [5, 5]]}, "shapes", 0),
            "",
            2,
        ),
    },
    "labelme-xml": {
        "two points": (
            in_text(XML, "<pt><x>14</x><y>4</y></pt><pt><x>14</x><y>14</y></pt>", ""),
            "bad-polygon",
            2,
        ),
        "NaN": (in_text(XML, "<x>4</x>", "<x>nan</x>"), "bad-polygon", 2),
        "text as coordinate": (in_text(XML, "<x>4</x>", "<x>four</x>"), "bad-polygon", 2),
        "no y": (in_text(XML, "<y>4</y>", ""), "bad-polygon", 2),
        "empty class": (in_text(XML, "<name>cat\n</name>", "<name>\n</name>"), "no-class", 2),
        "no region": (in_text(XML, "segm>", "other>", 2), "bad-shape", 2),
        "mask missing": (deleted("Masks/scenes/one_mask_3.png"), "missing-mask", 2),
        "mask broken": (cut_off("Masks/scenes/one_mask_3.png", 0.3), "broken-mask", 2),
        "mask out of the set": (in_text(XML, "one_mask_3.png", "../../../etc/passwd"), "missing-mask", 2),
        "cut off": (cut_off(XML), "unreadable", 1),
        "empty file": (cut_off(XML, 0), "unreadable", 1),
        "document type": (in_text(XML, "<annotation>", f"{DOCTYPE}<annotation>"), "document-type", 1),
        "no image": (deleted("Images/scenes/one.jpg"), "missing-image", 1),
        "out of the set": (in_text(XML, "one.jpg", "../../../../etc/one.jpg"), "", 2),
        "another root": (lambda folder: (folder / XML).write_text("<a><pt>1</pt></a>"), "other-xml", 1),
        "byte order mark": (encoded(XML, "utf-8-sig"), "", 2),
        "UTF-16": (encoded(XML, "utf-16"), "", 2),
        "Latin 1": (encoded(XML, "latin-1", "admin", "Jürgen"), "", 2),
        "upper case": (moved("Images/scenes/one.jpg", "Images/scenes/One.JPG"), "", 2),
        "backslashes": (in_text(XML, "one.jpg", "C:\\data\\one.jpg"), "", 2),
    },
    "cvat": {
        "two points": (
            in_text(CV, "4.00,4.00;14.00,4.00;14.00,14.00;4.00,14.00", "4,4;14,4"),
            "bad-polygon",
            2,
        ),
        "NaN": (in_text(CV, "4.00,4.00;", "nan,4.00;"), "bad-polygon", 2),
        "text as coordinate": (in_text(CV, "4.00,4.00;", "four,4.00;"), "bad-polygon", 2),
        "odd coordinates": (in_text(CV, "4.00,4.00;", "4.00;"), "bad-polygon", 2),
        "box without side": (in_text(CV, 'xtl="20.00" ', ""), "bad-polygon", 2),
        "empty class": (in_text(CV, '<box label="cat"', '<box label=""'), "no-class", 2),
        "unknown class": (in_text(CV, '<box label="cat"', '<box label="cow"'), "unknown-class", 2),
        "unknown shape": (in_text(CV, "box", "star", 2), "unknown-shape", 2),
        "mask too long": (in_text(CV, 'rle="', 'rle="7, '), "broken-mask", 2),
        "mask is text": (in_text(CV, 'rle="', 'rle="a'), "broken-mask", 2),
        "mask negative": (in_text(CV, 'rle="0, ', 'rle="5, -5, '), "broken-mask", 2),
        "mask without width": (in_text(CV, 'width="12" ', ""), "broken-mask", 2),
        "mask too large": (in_text(CV, 'width="12" ', 'width="99999999999" '), "broken-mask", 2),
        "layer is text": (in_text(CV, 'z_order="0"', 'z_order="top"'), "bad-shape", 2),
        "cut off": (cut_off(CV, 0.95), "unreadable", 1),
        "empty file": (cut_off(CV, 0), "unreadable", 0),
        "document type": (in_text(CV, "<annotations>", f"{DOCTYPE}<annotations>"), "document-type", 0),
        "no image": (deleted("images/one.jpg"), "missing-image", 1),
        "no name": (in_text(CV, 'name="one.jpg" ', ""), "missing-image", 1),
        "out of the set": (in_text(CV, "one.jpg", "../../../../etc/passwd"), "missing-image", 1),
        "two images": (twice("images/one.jpg", "a/one.jpg", "b/one.jpg"), "ambiguous-image", 1),
        "byte order mark": (encoded(CV, "utf-8-sig"), "", 2),
        "backslashes": (in_text(CV, "one.jpg", "photos\\one.jpg"), "", 2),
        "upper case": (moved("images/one.jpg", "images/ONE.JPG"), "", 2),
    },
    "via": {
        "two points": (
            region(lambda r: r["shape_attributes"].update(all_points_x=[1, 2], all_points_y=[1, 2])),
            "bad-polygon",
            2,
        ),
        "NaN": (region(lambda r: r["shape_attributes"].update(x=NAN), 1), "bad-polygon", 2),
        "text as coordinate": (region(lambda r: r["shape_attributes"].update(x="20"), 1), "bad-polygon", 2),
        "x and y differ": (region(lambda r: r["shape_attributes"]["all_points_x"].pop()), "wrong-counts", 2),
        "no radius": (region(lambda r: r["shape_attributes"].pop("r"), 2), "bad-polygon", 2),
        "no x": (region(lambda r: r["shape_attributes"].pop("all_points_x")), "bad-shape", 2),
        "no shape": (region(lambda r: r.pop("shape_attributes")), "bad-shape", 2),
        "unknown shape": (region(lambda r: r["shape_attributes"].update(name="star")), "unknown-shape", 2),
        "empty class": (region(lambda r: r["region_attributes"].update({"class": ""})), "no-class", 2),
        "no attributes": (region(lambda r: r.update(region_attributes={})), "no-class", 2),
        "two ticks": (
            region(lambda r: r["region_attributes"].update({"class": {"cat": True, "dog": True}})),
            "several-classes",
            2,
        ),
        "regions are text": (image_row(lambda r: r.update(regions="none")), "bad-entry", 1),
        "no file name": (image_row(lambda r: r.pop("filename")), "missing-image", 1),
        "an entry is text": (put(VIA, "x", "_via_img_metadata", "three.jpg9"), "bad-entry", 2),
        "no image": (deleted("one.jpg"), "missing-image", 1),
        "out of the set": (image_row(lambda r: r.update(filename="../../../etc/passwd")), "missing-image", 1),
        "two images": (twice("one.jpg", "a/one.jpg", "b/one.jpg"), "ambiguous-image", 1),
        "cut off": (cut_off(VIA), "unreadable", 0),
        "byte order mark": (encoded(VIA, "utf-8-sig"), "", 2),
        "backslashes": (image_row(lambda r: r.update(filename="D:\\photos\\one.jpg")), "", 2),
        "upper case": (moved("one.jpg", "ONE.JPG"), "", 2),
        "one tick": (region(lambda r: r["region_attributes"].update({"class": {"cat": True}})), "", 2),
    },
    "label-studio": {
        "two points": (put(LS, [[1, 1], [9, 9]], *RESULT, 0, "value", "points"), "bad-polygon", 2),
        "NaN": (put(LS, NAN, *RESULT, 1, "value", "x"), "bad-polygon", 2),
        "text as coordinate": (put(LS, "20", *RESULT, 1, "value", "x"), "bad-polygon", 2),
        "no radius": (put(LS, None, *RESULT, 2, "value", "radiusY"), "bad-polygon", 2),
        "no class": (drop(LS, *RESULT, 0, "value", "polygonlabels"), "no-class", 2),
        "empty classes": (put(LS, [], *RESULT, 0, "value", "polygonlabels"), "no-class", 2),
        "two classes": (put(LS, ["cat", "dog"], *RESULT, 0, "value", "polygonlabels"), "several-classes", 2),
        "brush cut off": (
            in_json(
                LS, lambda c: c[0]["annotations"][0]["result"][3]["value"]["rle"].__delitem__(slice(40, None))
            ),
            "broken-mask",
            2,
        ),
        "brush is text": (put(LS, "3,5,7", *RESULT, 3, "value", "rle"), "broken-mask", 2),
        "brush not bytes": (put(LS, 999, *RESULT, 3, "value", "rle", 9), "broken-mask", 2),
        "brush of another size": (put(LS, 7, *RESULT, 3, "value", "rle", 3), "broken-mask", 2),
        "image turned": (put(LS, 90, *RESULT, 0, "image_rotation"), "turned-image", 2),
        "result is text": (put(LS, "cat", *RESULT, 0), "bad-entry", 2),
        "a task is text": (in_json(LS, lambda c: [*c, "task"]), "bad-entry", 2),
        "no address": (put(LS, {"text": "hello"}, 0, "data"), "missing-image", 1),
        "several images": (put(LS, {"image": ["a.jpg", "b.jpg"]}, 0, "data"), "missing-image", 1),
        "no image": (deleted("images/1a2b3c4d-one.jpg"), "missing-image", 1),
        "out of the set": (
            put(LS, {"image": "/data/local-files/?d=../../etc/passwd.jpg"}, 0, "data"),
            "missing-image",
            1,
        ),
        "two images": (
            twice("images/1a2b3c4d-one.jpg", "a/1a2b3c4d-one.jpg", "b/1a2b3c4d-one.jpg"),
            "ambiguous-image",
            1,
        ),
        "cut off": (cut_off(LS), "unreadable", 0),
        "a number": (in_json(LS, lambda c: 7), "other-json", 0),
        "byte order mark": (encoded(LS, "utf-8-sig"), "", 2),
        "not uploaded": (moved("images/1a2b3c4d-one.jpg", "images/one.jpg"), "", 2),
        "a bucket": (put(LS, {"image": "s3://pets/x/1a2b3c4d-one.jpg"}, 0, "data"), "", 2),
        "local file": (put(LS, {"image": "/data/local-files/?d=pets%5C1a2b3c4d-one.jpg"}, 0, "data"), "", 2),
        "size missing": (drop(LS, *RESULT, 0, "original_width"), "", 2),
    },
    "supervisely": {
        "two points": (put(SLY, [[1, 1], [9, 9]], "objects", 0, "points", "exterior"), "bad-polygon", 2),
        "NaN": (put(SLY, NAN, "objects", 0, "points", "exterior", 0, 0), "bad-polygon", 2),
        "text as coordinate": (put(SLY, "4", "objects", 0, "points", "exterior", 0, 0), "bad-polygon", 2),
        "hole of two points": (
            put(SLY, [[[5, 5], [6, 6]]], "objects", 0, "points", "interior"),
            "bad-polygon",
            2,
        ),
        "rectangle of one point": (put(SLY, [[5, 5]], "objects", 1, "points", "exterior"), "bad-polygon", 2),
        "far away": (put(SLY, 9e9, "objects", 0, "points", "exterior", 0, 0), "bad-polygon", 2),
        "no points": (drop(SLY, "objects", 0, "points"), "bad-shape", 2),
        "empty class": (put(SLY, "", "objects", 0, "classTitle"), "no-class", 2),
        "unknown class": (put(SLY, "cow", "objects", 0, "classTitle"), "unknown-class", 2),
        "unknown geometry": (put(SLY, "star", "objects", 0, "geometryType"), "unknown-shape", 2),
        "object is text": (put(SLY, "cat", "objects", 0), "bad-shape", 2),
        "bitmap not packed": (put(SLY, BAD_ZIP, "objects", 4, "bitmap", "data"), "broken-mask", 2),
        "bitmap no PNG": (
            put(SLY, base64.b64encode(zlib.compress(b"nothing")).decode(), "objects", 4, "bitmap", "data"),
            "broken-mask",
            2,
        ),
        "bitmap without origin": (drop(SLY, "objects", 4, "bitmap", "origin"), "bad-shape", 2),
        "no objects": (drop(SLY, "objects"), "other-json", 1),
        "cut off": (cut_off(SLY), "unreadable", 1),
        "empty file": (cut_off(SLY, 0), "unreadable", 1),
        "no image": (deleted("pets/img/one.jpg"), "missing-image", 1),
        "two images": (twice("pets/img/one.jpg", "a/one.jpg", "b/one.jpg"), "ambiguous-image", 1),
        "byte order mark": (encoded(SLY, "utf-8-sig"), "", 2),
        "upper case": (moved("pets/img/one.jpg", "pets/img/ONE.JPG"), "", 2),
        "name of older exports": (moved(SLY, "pets/ann/one.json"), "", 2),
        "no meta.json": (deleted("meta.json"), "", 2),
    },
}
CASES = [(f, case) for f, cases in SPOILED.items() for case in cases]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{f}: {c}" for f, c in CASES])
def test_a_spoiled_export_costs_one_entry_and_says_so_in_a_line(name: str, case: str, tmp_path: Path) -> None:
    change, kind, left = SPOILED[name][case]
    folder = exports.WRITERS[name](tmp_path / "set")
    _, sound = read(folder, name)
    change(folder)
    reader, images = read(folder, name)
    assert [str(f) for f in reader.faults.listed if f.kind != kind] == []
    assert dict(reader.faults.errors) == ({kind: 1} if kind else {})
    assert len(images) == left
    for fault in reader.faults.listed:
        assert str(fault).startswith(str(folder)) and "\n" not in str(fault)
    shapes = sum(len(image.shapes) for image in images)
    if left == 2 and kind:
        assert shapes == sum(len(image.shapes) for image in sound) - (
            case != "a task is text" and case != "an entry is text"
        )


@pytest.mark.parametrize("name", SPOILED)
def test_there_are_ten_faults_a_format(name: str) -> None:
    assert sum(bool(kind) for _, kind, _ in SPOILED[name].values()) >= 10


@pytest.mark.parametrize("name", [*exports.WRITERS, *exports.VARIANTS])
def test_a_format_is_recognised(name: str, tmp_path: Path) -> None:
    folder = (exports.WRITERS | exports.VARIANTS)[name](tmp_path / "set")
    reader, why = recognise(Files(folder))
    assert name.startswith(reader.name)
    assert why
    assert {c.name for c in reader(Files(folder), Options()).classes} == {"cat", "dog"}
