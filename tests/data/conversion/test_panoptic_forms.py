"""COCO panoptic data, panopticapi's PNGs of two channels and Segment Anything as sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from maskconver.core.panoptic_png import read_panoptic_png
from maskconver.data.conversion.run import convert

from .coco_sets import HEIGHT, SQUARE, WIDTH, coco_set, photo, shown, write_json


def test_our_own_layout_converts_to_itself(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["a.png", "b.png"])
    convert(tmp_path / "source", tmp_path / "one", split="train=0.5,val=0.5")
    result = convert(tmp_path / "one", tmp_path / "two")
    assert result.format == "coco-panoptic" and result.splits == {"train": 1, "val": 1} and not result.errors
    for split in ("train", "val"):
        assert shown(tmp_path / "one", split) == shown(tmp_path / "two", split)
    result = convert(tmp_path / "one", tmp_path / "three", stuff=["cat", "background"], split="all")
    assert result.splits == {"all": 2} and [c["isthing"] for c in result.classes] == [0, 1, 0]


def test_damaged_panoptic_pngs_are_named(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["a.png", "b.png", "c.png"])
    convert(tmp_path / "source", tmp_path / "one")
    pngs = tmp_path / "one" / "panoptic" / "train"
    (pngs / "a.png").unlink()
    (pngs / "b.png").write_bytes((pngs / "b.png").read_bytes()[:50])
    result = convert(tmp_path / "one", tmp_path / "two")
    assert sorted(result.errors) == ["missing-png", "unreadable"] and result.splits == {"train": 1}


def test_no_png_outside_the_source_is_read(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["a.png", "b.png"])
    convert(tmp_path / "source", tmp_path / "one")
    (tmp_path / "one" / "panoptic" / "train" / "a.png").rename(tmp_path / "outside.png")
    path = tmp_path / "one" / "panoptic_train.json"
    path.write_text(path.read_text().replace('"a.png","segments', f'"{tmp_path}/outside.png","segments'))
    assert "outside.png" in path.read_text()
    result = convert(tmp_path / "one", tmp_path / "two")
    assert result.splits == {"train": 1} and result.errors


def test_two_channels_are_category_and_object(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "images" / "a.jpg")
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[2:, :, 0] = 5
    pixels[4:8, 4:8] = 3, 1, 0
    pixels[4:8, 8:12] = 3, 2, 0
    pixels[0, 0] = 9, 0, 0
    (tmp_path / "source" / "panoptic_2ch").mkdir()
    Image.fromarray(pixels).save(tmp_path / "source" / "panoptic_2ch" / "a.png")
    categories = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 5, "name": "grass", "isthing": 0}]
    write_json(tmp_path / "source" / "categories.json", categories)
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.format == "panoptic-2ch" and result.errors == {"unknown-class": 1}
    assert shown(tmp_path / "out") == {"cat": 32, "grass": (HEIGHT - 2) * WIDTH - 32}
    ids = read_panoptic_png(tmp_path / "out" / "panoptic" / "train" / "a.png")
    assert len({ids[5, 5], ids[5, 9], ids[12, 3]}) == 3 and ids[0, 0] == 0


def test_a_photo_of_another_split_is_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "source"
    pixels = np.full((HEIGHT, WIDTH, 3), (3, 1, 0), np.uint8)
    for split, name in (("train", "b"), ("val", "a")):
        photo(source / "images" / split / f"{name}.jpg")
        (source / "panoptic_2ch" / split).mkdir(parents=True)
        Image.fromarray(pixels).save(source / "panoptic_2ch" / split / "a.png")
    write_json(source / "categories.json", [{"id": 3, "name": "cat", "isthing": 1}])
    result = convert(source, tmp_path / "out")
    assert result.splits == {"val": 1} and result.errors == {"missing-image": 1}


def test_segment_anything_masks_become_objects(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "sa_1.jpg")
    box = {"segmentation": [SQUARE], "area": 80, "predicted_iou": 0.9, "stability_score": 0.9}
    row = {"image_id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "sa_1.jpg"}
    broken = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "zz~"}, "area": 1}
    write_json(tmp_path / "source" / "sa_1.json", {"image": row, "annotations": [box, broken, {"id": 7}]})
    write_json(tmp_path / "source" / "sa_2.json", {"image": {**row, "file_name": "b.jpg"}, "annotations": []})
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.format == "segment-anything"
    assert result.errors == {"bad-rle": 1, "no-outline": 1, "missing-image": 1}
    assert shown(tmp_path / "out") == {"object": 80, "background": WIDTH * HEIGHT - 80}
