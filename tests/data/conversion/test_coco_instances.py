"""COCO instances: outlines of every kind, quirks of exports, and entries that are left out one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskconver.core import rle
from maskconver.core.panoptic_png import read_panoptic_png
from maskconver.data.conversion.run import convert
from maskconver.errors import DataError

from .coco_sets import HEIGHT, SMALL, SQUARE, WIDTH, annotation, coco_json, coco_set, photo, shown, write_json


def lengths(mask: np.ndarray) -> list[int]:
    """COCO's run lengths of a mask: columns from the left, beginning with 0."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int)])
    ends = np.flatnonzero(np.diff(flat)) if flat[1:].any() else np.zeros(0, int)
    return np.diff([0, *ends, mask.size]).tolist()


def compressed(counts: list[int]) -> str:
    """The text form, written as pycocotools' documentation describes it."""
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        while True:
            low, x = x & 31, x >> 5
            more = x != (-1 if low & 16 else 0)
            text += chr((low | 32 if more else low) + 48)
            if not more:
                break
    return text


def test_run_lengths_of_both_forms_are_the_mask() -> None:
    random = np.random.default_rng(0)
    for k in range(60):
        mask = random.random(random.integers(1, 70, 2)) < random.random()
        if k % 2:
            mask = np.kron(mask, np.ones((9, 40), bool))
        size = list(mask.shape)
        assert (rle.decode({"size": size, "counts": lengths(mask)}) == mask).all()
        text = compressed(lengths(mask))
        assert (rle.decode({"size": size, "counts": text}) == mask).all()
        assert (rle.decode({"size": size, "counts": text.encode()}) == mask).all()


def test_run_lengths_are_read_as_hotcoco_writes_them() -> None:
    mask_api = pytest.importorskip("hotcoco", reason="hotcoco is not installed").mask
    mask = np.random.default_rng(1).random((37, 53)) < 0.3
    mask[5:30, 10:40] = True
    assert (rle.decode(mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))) == mask).all()


@pytest.mark.parametrize("kind", ["list", "text", "parts", "flat"])
def test_outlines_of_every_kind_are_read(tmp_path: Path, kind: str) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:10, 2:12] = True
    outlines = {
        "list": {"size": [HEIGHT, WIDTH], "counts": lengths(mask)},
        "text": {"size": [HEIGHT, WIDTH], "counts": compressed(lengths(mask))},
        "parts": [[2, 2, 12, 2, 12, 6, 2, 6], [2, 6, 12, 6, 12, 10, 2, 10]],
        "flat": SQUARE,
    }
    content = coco_set(tmp_path / "source")
    content["annotations"][0]["segmentation"] = outlines[kind]
    write_json(tmp_path / "source" / "instances.json", content)
    convert(tmp_path / "source", tmp_path / "out")
    data = read_panoptic_png(tmp_path / "out" / "panoptic" / "train" / "a.png")
    mask[4:7, 4:8] = False
    assert ((data == 1) == mask).all()


def test_a_crowd_lies_below_objects_and_is_marked(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    content["annotations"][1] |= {"iscrowd": 1, "segmentation": [[0, 0, 24, 0, 24, 16, 0, 16]]}
    write_json(tmp_path / "source" / "instances.json", content)
    convert(tmp_path / "source", tmp_path / "out")
    assert shown(tmp_path / "out") == {"cat": 80, "dog": WIDTH * HEIGHT - 80}
    rows = json.loads((tmp_path / "out" / "panoptic_train.json").read_text())["annotations"][0][
        "segments_info"
    ]
    assert [r["iscrowd"] for r in rows] == [0, 1]


def test_sets_of_crowds_are_told(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    for row in content["annotations"]:
        row["iscrowd"] = 1
    write_json(tmp_path / "source" / "instances.json", content)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert any(text.startswith("2 of 2 annotations are marked as crowds") for text in result.decisions)


def test_roboflows_dummy_category_and_a_name_twice(tmp_path: Path) -> None:
    content = coco_json()
    content["categories"] = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
        {"id": 3, "name": "dog", "supercategory": "pets"},
        {"id": 4, "name": "cat", "supercategory": "pets"},
    ]
    content["annotations"].append(annotation(3, 1, 3, [[20, 0, 24, 0, 24, 4, 20, 4]]))
    for split in ("train", "valid"):
        photo(tmp_path / "source" / split / "a.png")
        write_json(tmp_path / "source" / split / "_annotations.coco.json", content)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert [c["name"] for c in result.classes] == ["cat", "dog", "background"]
    assert result.classes[1]["pixels"] == 2 * 28 and result.splits == {"train": 1, "val": 1}
    text = " ".join(result.decisions)
    assert 'category 0 "pets"' in text and 'category 4 "cat"' in text
    assert 'categories 2 and 3 are both called "dog"' in text


@pytest.mark.parametrize(
    ("json_name", "image_name"),
    [
        ("annotations/instances_val2017.json", "val2017/a.png"),
        ("annotations/instances_val.json", "images/val/a.png"),
        ("annotations/val.json", "val/images/a.png"),
        ("valid/_annotations.coco.json", "valid/a.png"),
        ("annotations_val.json", "images/a.png"),
    ],
)
def test_layouts_of_exports_are_found(tmp_path: Path, json_name: str, image_name: str) -> None:
    for name in (image_name, "train/a.png"):  # of the same name in another split
        photo(tmp_path / "source" / name)
    write_json(tmp_path / "source" / json_name, coco_json())
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.splits == {"val": 1} and not result.errors
    made = tmp_path / "out" / "images" / "val" / "a.png"
    assert made.samefile(tmp_path / "source" / image_name)


@pytest.mark.parametrize(
    "name", ["C:\\data\\set\\a.png", "/home/other/set/images/a.png", "..\\a.png", "A.PNG", "images/a.png"]
)
def test_names_of_other_machines_are_understood(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "source" / "sub" / "a.png")
    write_json(tmp_path / "source" / "instances.json", coco_json([name]))
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.splits == {"train": 1} and not result.errors


@pytest.mark.parametrize(
    "name", ["https://bucket.example/set/my%20a.png?sig=x%2Fy", "my%20a.png", "http://host/my a.png"]
)
def test_names_of_the_web_are_understood(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "source" / "images" / "my a.png")
    write_json(tmp_path / "source" / "instances.json", coco_json([name]))
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.splits == {"train": 1} and not result.errors
    made = [p.name for p in (tmp_path / "out/images/train").iterdir()]
    assert made == [name if "://" not in name else "my a.png"]


def test_a_file_that_has_a_percent_sign_in_its_name_comes_first(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "my%20a.png")
    photo(tmp_path / "source" / "my a.png")
    write_json(tmp_path / "source" / "instances.json", coco_json(["my%20a.png"]))
    assert not convert(tmp_path / "source", tmp_path / "out").errors
    made = tmp_path / "out/images/train/my%20a.png"
    assert made.samefile(tmp_path / "source" / "my%20a.png")


def test_an_image_under_two_ids_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "a.png")
    write_json(tmp_path / "source" / "instances.json", coco_json(["a.png", "a.png"]))
    result = convert(tmp_path / "source", tmp_path / "out")
    assert sum('instances.json lists "a.png" under several ids' in text for text in result.decisions) == 1
    assert result.splits == {"train": 2}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_other_encodings_are_understood(tmp_path: Path, encoding: str) -> None:
    content = coco_json()
    content["categories"][0]["name"] = "Gehölz"
    photo(tmp_path / "source" / "a.png")
    write_json(tmp_path / "source" / "instances.json", content, encoding)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.classes[0]["name"] == "Gehölz"


def stuff_beside(folder: Path) -> None:
    content = coco_json()
    content["categories"] = [{"id": 100, "name": "grass"}, {"id": 183, "name": "other"}]
    content["annotations"] = [
        annotation(1, 1, 100, [[4, 4, 8, 4, 8, 8, 4, 8]]),
        annotation(2, 1, 183, [SQUARE]),
    ]
    write_json(folder / "annotations" / "stuff_val2017.json", content)


def test_stuff_annotations_lie_below_the_objects_of_the_same_image(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "val2017" / "a.png")
    content = coco_json()
    del content["annotations"][1]
    content["annotations"][0]["segmentation"] = [SMALL]
    write_json(tmp_path / "source" / "annotations" / "instances_val2017.json", content)
    stuff_beside(tmp_path / "source")
    result = convert(tmp_path / "source", tmp_path / "out")
    assert shown(tmp_path / "out", "val") == {"cat": 12, "grass": 4}
    assert [(c["name"], c["isthing"]) for c in result.classes] == [("cat", 1), ("dog", 1), ("grass", 0)]
    assert any('"other"' in text for text in result.decisions)


def test_pngs_of_classes_lie_below_the_objects(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["a.png", "b.png", "c.png"])
    values = np.full((HEIGHT, WIDTH), 255, np.uint8)
    values[:6], values[6:12] = 1, 0
    (tmp_path / "source" / "semantic").mkdir()
    Image.fromarray(values).save(tmp_path / "source" / "semantic" / "a.png")
    Image.fromarray(values[:5]).save(tmp_path / "source" / "semantic" / "b.png")
    result = convert(tmp_path / "source", tmp_path / "out")
    assert any("not used" in text for text in result.decisions) and len(result.classes) == 3
    (tmp_path / "source" / "classes.txt").write_text("cat\nsky\n")
    result = convert(tmp_path / "source", tmp_path / "two")
    assert [(c["name"], c["isthing"]) for c in result.classes] == [("cat", 1), ("dog", 1), ("sky", 0)]
    assert shown(tmp_path / "two") == {"cat": 68, "dog": 12, "sky": 6 * WIDTH - 40}
    assert result.errors == {"size-mismatch": 1} and result.splits == {"train": 2}


def spoiled(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][1].update(changes)


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "a polygon of two points": (
        spoiled(segmentation=[[1, 1, 5, 5]]),
        "bad-polygon",
        "annotation 2: a polygon of 2 points",
    ),
    "an odd number of coordinates": (
        spoiled(segmentation=[[1, 1, 5, 5, 3, 2, 1]]),
        "bad-polygon",
        "7 coordinates, an odd",
    ),
    "NaN": (
        spoiled(segmentation=[[1, float("nan"), 5, 5, 3, 2]]),
        "bad-polygon",
        "a coordinate is NaN or infinite",
    ),
    "text": (
        spoiled(segmentation=[["1", "2", "3", "4", "5", "6"]]),
        "bad-polygon",
        "the coordinates are text",
    ),
    "a list as one text": (
        spoiled(segmentation="[[1, 2, 3, 4, 5, 6]]"),
        "bad-polygon",
        "its segmentation is one text, not a list",
    ),
    "null": (spoiled(segmentation=[[None, 2, 3, 4, 5, 6]]), "bad-polygon", ""),
    "relative coordinates": (
        spoiled(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.6]]),
        "bad-polygon",
        "all coordinates are from 0 to 1",
    ),
    "broken run lengths": (
        spoiled(segmentation={"size": [HEIGHT, WIDTH], "counts": "~~"}),
        "bad-rle",
        "cannot be read",
    ),
    "wrong counts": (
        spoiled(segmentation={"size": [HEIGHT, WIDTH], "counts": [3, 4]}),
        "bad-rle",
        "do not add up to",
    ),
    "counts whose sum overflows": (
        spoiled(segmentation={"size": [HEIGHT, WIDTH], "counts": [2**63 - 1, 2**63 - 1, HEIGHT * WIDTH + 2]}),
        "bad-rle",
        "do not add up to",
    ),
    "run lengths of another size": (
        spoiled(segmentation={"size": [2, 2], "counts": [4]}),
        "size-mismatch",
        "an image of 2×2, not 24×16",
    ),
    "only a box": (spoiled(segmentation=[], bbox=[1, 1, 3, 3]), "no-outline", "has only a box"),
    "an unknown class": (spoiled(category_id=9), "unknown-class", "category 9 is not among the categories"),
    "an unknown image": (spoiled(image_id=9), "unknown-image", "is of image 9, which images lacks"),
    "no image at all": (lambda c: c["annotations"][1].pop("image_id"), "bad-annotation", "annotations[1]"),
    "no object": (lambda c: c["annotations"].append(3), "bad-annotation", "annotations[2]"),
    "a category without id": (
        lambda c: c["categories"].append({"name": "x"}),
        "bad-category",
        "categories[2]",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_bad_entry_is_named_and_the_rest_converted(tmp_path: Path, case: str) -> None:
    change, kind, text = FAULTS[case]
    content = coco_set(tmp_path / "source")
    change(content)
    write_json(tmp_path / "source" / "instances.json", content)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.errors == {kind: 1}
    line = str(result.faults[0])
    assert text in line and "instances.json" in line and "\n" not in line
    assert shown(tmp_path / "out")["cat"] >= 68


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda c: c["images"][1].update(width=99), "size-mismatch"),
        (lambda c: c["images"][1].update(file_name="gone.png"), "missing-image"),
        (lambda c: c["images"][1].pop("file_name"), "bad-image-row"),
        (lambda c: c["images"][1].update(id=1), "duplicate-image-id"),
    ],
)
def test_a_bad_image_is_named_and_the_rest_converted(tmp_path: Path, change: Any, kind: str) -> None:
    content = coco_set(tmp_path / "source", ["a.png", "b.png"])
    content["annotations"] = content["annotations"][:2]
    change(content)
    write_json(tmp_path / "source" / "instances.json", content)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.errors == {kind: 1} and result.splits == {"train": 1}


def test_an_image_turned_by_exif_is_told_from_other_sizes(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["a.jpg", "b.png"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "source" / "a.jpg", exif=exif)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert "turned by its EXIF tag" in str(result.faults[0]) and result.splits == {"train": 1}


def test_damaged_and_empty_images_are_named(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["a.png", "b.png", "c.png"])
    (tmp_path / "source" / "b.png").write_bytes(b"")
    (tmp_path / "source" / "c.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.errors == {"bad-image": 2} and result.splits == {"train": 1}
    assert "git lfs pull" in str(result.faults[1])


def test_ids_of_categories_may_be_whole_numbers_with_a_point(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    content["categories"][0]["id"] = 1.0
    write_json(tmp_path / "source" / "instances.json", content)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert not result.errors and [c["segments"] for c in result.classes][:2] == [1, 1]


def test_an_image_of_another_ending_is_named(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    content["images"][0]["file_name"] = "C:\\data\\a.jpg"
    write_json(tmp_path / "source" / "instances.json", content)
    with pytest.raises(DataError, match=r"there is no image .*a.jpg.*there is a.png; name that one"):
        convert(tmp_path / "source", tmp_path / "out")


def test_shapes_outside_without_pixels_and_crossing_are_counted(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    outlines = {
        "clipped-shapes": [-20, -5, 3, -5, 3, 3, -20, 3],
        "self-crossing-polygons": [0, 0, 20, 14, 20, 0, 0, 14],
        "shapes-without-pixels": [90, 90, 99, 90, 99, 99],
    }
    content["annotations"] = [annotation(k, 1, 1, [o]) for k, o in enumerate(outlines.values(), 1)]
    write_json(tmp_path / "source" / "instances.json", content)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert not result.errors
    assert result.notes == {"clipped-shapes": 2, "self-crossing-polygons": 1, "shapes-without-pixels": 1}


def test_edges_decide_about_the_pixels_on_an_outline(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    content["annotations"] = [annotation(1, 1, 1, [[2.5, 2.5, 6.5, 2.5, 6.5, 6.5, 2.5, 6.5]])]
    write_json(tmp_path / "source" / "instances.json", content)
    convert(tmp_path / "source", tmp_path / "touched", edges="touched")
    convert(tmp_path / "source", tmp_path / "centers", edges="centers")
    assert (shown(tmp_path / "touched")["cat"], shown(tmp_path / "centers")["cat"]) == (25, 16)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"image_id": 1, "category_id": 1, "caption": "a cat"}, "captions"),
        ({"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}, "boxes and no outlines"),
        ({"image_id": 1, "category_id": 1, "segmentation": [SQUARE], "keypoints": [1, 1, 2]}, "keypoints"),
        (None, "no annotations"),
    ],
)
def test_files_without_outlines_are_refused_with_what_they_hold(tmp_path: Path, row: Any, kind: str) -> None:
    content = coco_set(tmp_path / "source")
    content["annotations"] = [] if row is None else [{"id": 1, **row}]
    write_json(tmp_path / "source" / "instances.json", content)
    with pytest.raises(DataError, match=kind):
        convert(tmp_path / "source", tmp_path / "out")


def test_an_image_of_another_split_does_not_stand_in_for_one_that_is_missing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("train2017/b.png", "val2017/a.png"):
        photo(source / name)
    for split in ("train", "val"):
        names = ["a.png", "b.png"] if split == "train" else ["a.png"]
        write_json(source / "annotations" / f"instances_{split}2017.json", coco_json(names))
    result = convert(source, tmp_path / "out")
    assert result.splits == {"train": 1, "val": 1} and result.errors == {"missing-image": 1}
    assert "there is val2017/a.png" in result.faults[0].text


def test_images_of_two_splits_are_counted(tmp_path: Path) -> None:
    coco_set(tmp_path / "source")
    (tmp_path / "source" / "instances.json").unlink()
    for split in ("train", "val"):
        write_json(tmp_path / "source" / f"{split}.json", coco_json())
    assert convert(tmp_path / "source", tmp_path / "out").notes["images-in-several-splits"] == 1


def test_a_png_of_classes_of_another_split_is_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for split in ("train", "val"):
        photo(source / split / "a.png")
        write_json(source / f"instances_{split}.json", coco_json())
        photo(source / "semantic" / split / ("a.png" if split == "val" else "b.png"))
    (source / "classes.txt").write_text("\n".join(f"c{k}" for k in range(100)))
    convert(source, tmp_path / "out")
    assert "c90" in shown(tmp_path / "out", "val") and "c90" not in shown(tmp_path / "out", "train")


def test_ids_that_are_text_in_one_place_and_numbers_in_another_are_the_same(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    content["annotations"][0] |= {"image_id": "1", "category_id": "1"}
    content["categories"][1]["id"] = "2"
    write_json(tmp_path / "source" / "instances.json", content)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert not result.errors and shown(tmp_path / "out")["cat"] == 68 and shown(tmp_path / "out")["dog"] == 12


def test_areas_of_zero_do_not_decide_what_lies_on_top(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    content["annotations"].reverse()  # the large one last
    for row in content["annotations"]:
        row["area"] = 0
    write_json(tmp_path / "source" / "instances.json", content)
    convert(tmp_path / "source", tmp_path / "out")
    assert shown(tmp_path / "out")["dog"] == 12


def test_broken_json_is_named(tmp_path: Path) -> None:
    coco_set(tmp_path / "source")
    text = (tmp_path / "source" / "instances.json").read_text()
    (tmp_path / "source" / "instances.json").write_text(text[:-40])
    with pytest.raises(DataError, match=r"instances.json: not JSON"):
        convert(tmp_path / "source", tmp_path / "out")
