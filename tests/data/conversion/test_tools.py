"""Exports of labelling tools: the pixels, classes and objects they hold, and what happens to spoiled ones."""

from __future__ import annotations

import base64
import csv
import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskconver.data import open_dataset
from maskconver.data.conversion.readers.label_studio import brush_mask
from maskconver.data.conversion.run import convert
from maskconver.errors import DataError

from . import tool_exports as exports

Change = Callable[[Path], Any]
NAN = math.nan


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
        "another size": (put(ME, 99, "imageWidth"), "size-mismatch", 1),
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
        "another size": (in_text(XML, "<ncols>64</ncols>", "<ncols>46</ncols>"), "size-mismatch", 1),
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
        "another size": (in_text(CV, 'width="64"', 'width="46"'), "size-mismatch", 1),
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
        "brush is a number": (put(LS, 10**14, *RESULT, 3, "value", "rle"), "broken-mask", 2),
        "brush is text": (put(LS, "3,5,7", *RESULT, 3, "value", "rle"), "broken-mask", 2),
        "brush not bytes": (put(LS, 999, *RESULT, 3, "value", "rle", 9), "broken-mask", 2),
        "brush of another size": (put(LS, 7, *RESULT, 3, "value", "rle", 3), "broken-mask", 2),
        "image turned": (put(LS, 90, *RESULT, 0, "image_rotation"), "turned-image", 2),
        "id is a list": (put(LS, [1], *RESULT, 0, "id"), "", 2),
        "result is text": (put(LS, "cat", *RESULT, 0), "bad-entry", 2),
        "a task is text": (in_json(LS, lambda c: [*c, "task"]), "bad-entry", 2),
        "another size": (put(LS, 99, *RESULT, 0, "original_width"), "size-mismatch", 1),
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
        "another size": (put(SLY, 99, "size", "width"), "size-mismatch", 1),
        "no image": (deleted("pets/img/one.jpg"), "missing-image", 1),
        "two images": (twice("pets/img/one.jpg", "a/one.jpg", "b/one.jpg"), "ambiguous-image", 1),
        "byte order mark": (encoded(SLY, "utf-8-sig"), "", 2),
        "upper case": (moved("pets/img/one.jpg", "pets/img/ONE.JPG"), "", 2),
        "name of older exports": (moved(SLY, "pets/ann/one.json"), "", 2),
        "no meta.json": (deleted("meta.json"), "", 2),
    },
}
KINDS_OF_ENTRIES = {"bad-polygon", "bad-shape", "no-class", "unknown-class", "unknown-shape", "broken-mask"}
KINDS_OF_ENTRIES |= {"missing-mask", "wrong-counts", "several-classes", "turned-image"}
CASES = [(f, case) for f, cases in SPOILED.items() for case in cases]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{f}: {c}" for f, c in CASES])
def test_a_spoiled_export_costs_one_entry_and_says_so_in_a_line(name: str, case: str, tmp_path: Path) -> None:
    change, kind, left = SPOILED[name][case]
    folder = exports.WRITERS[name](tmp_path / "set")
    change(folder)
    if not left:
        with pytest.raises(DataError, match=r"no image could be converted \(1 error") as error:
            convert(folder, tmp_path / "out", name)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
        return
    result = convert(folder, tmp_path / "out", name)
    assert [str(f) for f in result.faults if f.kind != kind] == []
    assert result.errors == ({kind: 1} if kind else {})
    assert sum(result.splits.values()) == left
    for fault in result.faults:
        assert str(fault).startswith(str(folder)) and "\n" not in str(fault)
    things = sum(c["segments"] for c in result.classes if c["isthing"])
    whole = len(exports.HOLDS[name]) + 1
    lost = kind in KINDS_OF_ENTRIES or case == "result is text"
    assert things in ((1, whole - 1) if left == 1 else (whole - lost,))


@pytest.mark.parametrize("name", SPOILED)
def test_there_are_ten_faults_a_format(name: str) -> None:
    assert sum(bool(kind) for _, kind, _ in SPOILED[name].values()) >= 10


def pixels(out: Path, stem: str) -> list[tuple[str, np.ndarray]]:
    """Class and mask of each segment of a converted image but the background."""
    dataset = open_dataset(out, "train")
    index = next(k for k, name in enumerate(dataset.file_names) if name.startswith(stem))
    ids, rows = dataset.ids(index), dataset.segments(index)
    names = [dataset.categories[int(label)].name for label in rows.labels]
    return [(name, ids == i) for name, i in zip(names, rows.ids) if name != "background"]


@pytest.mark.parametrize("variant", [*exports.WRITERS, *exports.VARIANTS])
def test_the_objects_of_an_export_are_those_that_were_drawn(variant: str, tmp_path: Path) -> None:
    folder = (exports.WRITERS | exports.VARIANTS)[variant](tmp_path / "set")
    result = convert(folder, tmp_path / "out")
    assert not result.errors
    name = result.format
    assert variant.startswith(name)
    found = pixels(tmp_path / "out", "1a2b3c4d-one" if variant == "label-studio" else "one")
    assert len(found) == len(exports.HOLDS[name])
    for what in exports.HOLDS[name]:
        label, mask = exports.OBJECTS[what]
        best = max(found, key=lambda f: (f[1] & mask).sum())
        assert best[0] == label, what
        wrong = int((best[1] ^ mask).sum())
        assert wrong <= (4 if what in ("circle", "ellipse") else 0), (what, wrong)
    ((label, mask),) = pixels(tmp_path / "out", "1a2b3c4d-two" if variant == "label-studio" else "two")
    assert label == "dog" and (mask == exports.filled(exports.OTHER)).all()


@pytest.mark.parametrize("name", exports.WRITERS)
def test_a_zip_of_an_export_is_read_as_well(name: str, tmp_path: Path) -> None:
    folder = exports.WRITERS[name](tmp_path / "set")
    archive = shutil.make_archive(str(tmp_path / "export"), "zip", folder)
    assert sum(convert(archive, tmp_path / "out").splits.values()) == 2


def test_labelme_takes_the_image_in_the_annotation_where_there_is_no_file(tmp_path: Path) -> None:
    folder = exports.labelme(tmp_path / "set")
    data = (folder / "one.jpg").read_bytes()
    put(ME, base64.b64encode(data).decode(), "imageData")(folder)
    (folder / "one.jpg").unlink()
    result = convert(folder, tmp_path / "out")
    assert not result.errors
    assert result.images == {"linked": 1, "taken from the annotation": 1}
    assert (tmp_path / "out/images/train/one.jpg").read_bytes() == data


def test_labelme_keeps_flags_crowds_and_the_order_of_labels(tmp_path: Path) -> None:
    folder = exports.labelme(tmp_path / "set")
    (folder / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    put(ME, {"blurred": True, "night": False}, "flags")(folder)
    put(ME, {"crowd": True}, "shapes", 0, "flags")(folder)
    put(ME, "__ignore__", "shapes", 1, "label")(folder)
    result = convert(folder, tmp_path / "out")
    assert [c["name"] for c in result.classes][:2] == ["dog", "cat"]
    assert result.notes["ignored-shapes"] == 1
    content = json.loads((tmp_path / "out/panoptic_train.json").read_text())
    row = next(i for i in content["images"] if i["file_name"] == "one.jpg")
    assert row["flags"] == ["blurred"]
    segments = next(a for a in content["annotations"] if a["image_id"] == row["id"])["segments_info"]
    assert [s["area"] for s in segments if s["iscrowd"]] == [100]


def test_shapes_that_a_group_makes_one_object_are_counted(tmp_path: Path) -> None:
    folder = exports.labelme(tmp_path / "set")
    content = json.loads((folder / ME).read_text())
    for row in content["shapes"]:  # as a program writes that means none
        row |= {"group_id": 0, "label": "cat"}
    (folder / ME).write_text(json.dumps(content))
    notes = convert(folder, tmp_path / "out").notes
    assert notes["shapes-joined-by-their-group"] == 5  # of six with an area


def test_a_group_may_be_a_number_with_a_point(tmp_path: Path) -> None:
    folder = exports.labelme(tmp_path / "set")
    content = json.loads((folder / ME).read_text())
    for row in content["shapes"]:  # as a table with gaps is written
        row["group_id"] = math.nan if row["group_id"] is None else float(row["group_id"])
    (folder / ME).write_text(json.dumps(content))
    assert convert(folder, tmp_path / "out").notes["shapes-joined-by-their-group"] == 1


def test_tasks_that_hold_only_predictions_are_refused(tmp_path: Path) -> None:
    folder = exports.label_studio(tmp_path / "set")
    name = next(folder.glob("*.json"))
    tasks = json.loads(name.read_text())
    for task in tasks:
        task["predictions"] = task.pop("annotations")
    name.write_text(json.dumps(tasks))
    with pytest.raises(DataError, match=r"\.json: no annotation holds .* predictions do not count"):
        convert(folder, tmp_path / "out")


def test_a_table_of_via_that_a_spreadsheet_saved_with_semicolons(tmp_path: Path) -> None:
    folder = exports.via_csv(tmp_path / "set")
    path = folder / "via_export_csv.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    result = convert(folder, tmp_path / "out")
    assert not result.errors and sum(result.splits.values()) == 2


def test_two_labelme_files_of_one_image(tmp_path: Path) -> None:
    folder = exports.labelme(tmp_path / "set")
    (folder / "copy.json").write_bytes((folder / ME).read_bytes())
    result = convert(folder, tmp_path / "out")
    assert result.errors == {"duplicate-image": 1}
    assert sum(result.splits.values()) == 2


def test_cvat_layers_subsets_and_turned_boxes(tmp_path: Path) -> None:
    folder = exports.cvat(tmp_path / "set")
    moved("images/one.jpg", "images/Train/a.jpg")(folder)
    moved("images/two.png", "images/Validation/a.jpg")(folder)
    in_text(CV, 'name="one.jpg"', 'name="a.jpg" subset="Train"')(folder)
    in_text(CV, 'name="two.png"', 'name="a.jpg" subset="Validation"')(folder)
    # A box of 20×4 turned upright on top of a smaller one of a lower layer.
    two = """<box label="cat" xtl="10" ytl="14" xbr="30" ybr="18" rotation="90" z_order="2"></box>"""
    two += """<box label="dog" xtl="18" ytl="14" xbr="22" ybr="18" z_order="1"></box>"""
    in_text(CV, "</image></annotations>", f"{two}</image></annotations>")(folder)
    result = convert(folder, tmp_path / "out")
    assert not result.errors and result.splits == {"train": 1, "val": 1}
    dataset = open_dataset(tmp_path / "out", "val")
    rows = dataset.segments(0)
    names = [dataset.categories[int(label)].name for label in rows.labels]
    assert sorted(zip(names, rows.areas.tolist()))[1:] == [("cat", 80), ("dog", 256 - 64)]
    assert result.notes["hidden-segments"] == 1


def test_a_cvat_export_of_a_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(
        '<?xml version="1.0"?><annotations><meta><task></task></meta><track id="0" label="cat">'
        '<box frame="0" xtl="1" ytl="1" xbr="5" ybr="5"></box></track></annotations>'
    )
    with pytest.raises(DataError, match=r'tracks of a video.*"CVAT for images 1\.1"'):
        convert(tmp_path, tmp_path / "out")


def test_via_asks_which_attribute_is_the_class(tmp_path: Path) -> None:
    folder = exports.via(tmp_path / "set")
    region(lambda r: r["region_attributes"].update(name="Tom"))(folder)
    with pytest.raises(DataError, match=r"attributes class, name; say which one is the class"):
        convert(folder, tmp_path / "out")
    result = convert(folder, tmp_path / "out", class_attribute="class")
    assert [c["segments"] for c in result.classes if c["isthing"]] == [3, 2]
    with pytest.raises(DataError, match='no region has the attribute "breed"; there are: class, name'):
        convert(folder, tmp_path / "out", class_attribute="breed", overwrite=True)


def test_via_without_attributes_is_one_class(tmp_path: Path) -> None:
    folder = exports.via(tmp_path / "set")
    for image, count in (("one.jpg", 6), ("two.png", 1)):
        for k in range(count):

            def clear(content: Any, image: str = image, k: int = k) -> None:
                rows = content["_via_img_metadata"].values()
                next(r for r in rows if r["filename"] == image)["regions"][k]["region_attributes"] = {}

            in_json(VIA, clear)(folder)
    result = convert(folder, tmp_path / "out")
    assert (result.classes[0]["name"], result.classes[0]["segments"]) == ("object", 5)
    assert 'no region has an attribute, so all are of one class, "object"' in result.decisions


def test_label_studio_takes_the_ground_truth_and_else_the_latest_annotation(tmp_path: Path) -> None:
    folder = exports.label_studio(tmp_path / "set")

    def more(tasks: list[Any]) -> None:
        one, two = tasks
        base = {"result": [], "was_cancelled": False, "ground_truth": False}
        one["annotations"].append(base | {"updated_at": "2030-01-01T00:00:00Z", "was_cancelled": True})
        one["annotations"].append(base | {"updated_at": "2020-01-01T00:00:00Z"})
        two["annotations"][0]["ground_truth"] = True
        two["annotations"].append(base | {"updated_at": "2030-01-01T00:00:00Z"})
        tasks.append({"id": 3, "data": {"image": "/data/upload/3/three.jpg"}, "annotations": []})

    in_json(LS, more)(folder)
    result = convert(folder, tmp_path / "out")
    assert not result.errors
    assert [c["segments"] for c in result.classes if c["isthing"]] == [4, 1]
    assert result.notes["further-annotations-of-a-task"] == 2
    assert result.notes["tasks-without-annotation"] == 1


@pytest.mark.parametrize("start", ["/data/local-files/?d=set/", "s3://bucket/set/", "/data/upload/3/"])
def test_label_studio_names_with_plus_and_hash_as_they_are(tmp_path: Path, start: str) -> None:
    folder = exports.label_studio(tmp_path / "set")
    moved("images/1a2b3c4d-one.jpg", "images/a+b#1.jpg")(folder)
    put(LS, {"image": f"{start}a+b#1.jpg"}, 0, "data")(folder)
    result = convert(folder, tmp_path / "out")
    assert not result.errors and sum(result.splits.values()) == 2


def test_label_studio_joins_a_shape_with_a_label_of_the_same_region(tmp_path: Path) -> None:
    """As the tags <Polygon> and <Labels> write it."""
    folder = exports.label_studio(tmp_path / "set")

    def apart(tasks: list[Any]) -> None:
        result = tasks[0]["annotations"][0]["result"]
        value = result[0]["value"]
        label = value.pop("polygonlabels")
        result[0]["type"] = "polygon"
        result.append(result[0] | {"type": "labels", "value": value | {"labels": label}})

    in_json(LS, apart)(folder)
    result = convert(folder, tmp_path / "out")
    assert not result.errors
    assert [c["segments"] for c in result.classes if c["isthing"]] == [4, 1]


def test_label_studio_turns_around_the_corner_and_reads_bitmasks(tmp_path: Path) -> None:
    folder = exports.label_studio(tmp_path / "set")
    width, height = 100 / exports.WIDTH, 100 / exports.HEIGHT
    turned = {"x": 20 * width, "y": 10 * height, "width": 8 * width, "height": 4 * height, "rotation": 90}
    url = "data:image/png;base64," + base64.b64encode(exports.png(exports.filled((40, 2, 44, 9)))).decode()

    def change(tasks: list[Any]) -> Any:
        result = tasks[0]["annotations"][0]["result"]
        size = {k: result[0][k] for k in ("original_width", "original_height")}
        result[:] = [
            size | {"id": "a", "type": "rectanglelabels", "value": turned | {"rectanglelabels": ["cat"]}},
            size
            | {"id": "b", "type": "bitmasklabels", "value": {"imageDataURL": url, "bitmasklabels": ["dog"]}},
        ]
        # A file of one annotation, as Label Studio stores it in a bucket.
        return tasks[0]["annotations"][0] | {"task": {"id": 1, "data": tasks[0]["data"]}}

    in_json(LS, change)(folder)
    result = convert(folder, tmp_path / "out")
    assert not result.errors
    found = dict(pixels(tmp_path / "out", "1a2b3c4d-one"))
    assert (found["cat"] == exports.filled((16, 10, 20, 18))).all()
    assert (found["dog"] == exports.filled((40, 2, 44, 9))).all()


def test_via_ellipses_are_turned_clockwise_by_radians(tmp_path: Path) -> None:
    folder = exports.via(tmp_path / "set")
    region(lambda r: r["shape_attributes"].update(theta=math.pi / 2, cx=30, cy=24), 3)(folder)
    convert(folder, tmp_path / "out")
    expected = exports.round_mask(30, 24, 5, 10)
    wrong = min(int((mask ^ expected).sum()) for _, mask in pixels(tmp_path / "out", "one"))
    assert wrong <= 4


@pytest.mark.parametrize("seed", range(4))
def test_brush_masks_of_noise_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alpha = np.repeat(rng.integers(0, 2, (23, 9)), rng.integers(1, 9), 1) * 255
    pixels = np.stack([rng.integers(0, 256, alpha.shape) * (seed % 2)] * 3 + [alpha], 2)
    mask = brush_mask(exports.brush(pixels.ravel()), *alpha.shape)
    assert (mask == (alpha > 0)).all()


def test_supervisely_polygons_with_holes(tmp_path: Path) -> None:
    """Corners belong to the object, those of holes do not; with fractions it is the outline that counts."""
    folder = exports.supervisely(tmp_path / "set")
    whole = {"exterior": [[2, 2], [11, 2], [11, 11], [2, 11]], "interior": [[[5, 5], [8, 5], [8, 8], [5, 8]]]}
    put(SLY, whole, "objects", 0, "points")(folder)
    half = {"exterior": [[40.5, 4], [50.5, 4], [50.5, 10.5], [40.5, 10.5]], "interior": []}
    put(SLY, half, "objects", 1)(folder)
    put(SLY, {"classTitle": "dog", "geometryType": "polygon", "points": half}, "objects", 1)(folder)
    convert(folder, tmp_path / "out")
    areas = {int(mask.sum()): mask for _, mask in pixels(tmp_path / "out", "one")}
    assert (areas[100 - 16] == exports.filled((2, 2, 12, 12), hole=(5, 5, 9, 9))).all()
    assert areas[60][4:10, 41:51].all() or areas[60][4:10, 40:50].all()


def test_xml_that_would_grow_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    folder = exports.cvat(tmp_path / "set")
    lol = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(9)
    )
    text = (folder / CV).read_text().replace("<annotations>", f"{lol}]><annotations>&j;")
    for encoding in ("utf-8", "utf-16"):
        (folder / CV).write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match="document type or entities, which are refused; remove the lines"):
            convert(folder, tmp_path / "out", "cvat")


def test_the_exports_of_others(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/exports"
    cases = {
        "via2": ("via", 4, {"missing-image": 12}),
        "datumaro/labelme_dataset": ("labelme-xml", 1, {}),
        "datumaro/cvat_dataset/for_images/export_task": ("cvat", 2, {"no-class": 1}),
        "datumaro/cvat_dataset/for_images/export_project": ("cvat", 6, {}),
    }
    for number, (name, (format, images, errors)) in enumerate(cases.items()):
        result = convert(folder / name, tmp_path / str(number))
        assert (result.format, sum(result.splits.values()), result.errors) == (format, images, errors), name
    assert result.splits == {"train": 2, "val": 2, "test": 2}


def test_an_angle_that_is_no_number_is_named(tmp_path: Path) -> None:
    box = '<box label="cat" xtl="1" ytl="1" xbr="5" ybr="5" rotation="{}"/>'
    boxes = box.format("NaN") + box.format("90")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "annotations.xml").write_text(
        "<annotations><meta><task><labels><label><name>cat</name></label></labels></task></meta>"
        f'<image id="0" name="a.png" width="8" height="8">{boxes}</image></annotations>'
    )
    result = convert(tmp_path / "in", tmp_path / "out", "cvat", images="none")
    assert [str(f).partition("box 1: ")[2] for f in result.faults][
        -1
    ] == "a coordinate or angle is NaN or infinite"
