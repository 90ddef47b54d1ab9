"""What `data check` finds beyond single files: splits beside one another, odd annotations, other formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from maskconver.cli.main import main
from maskconver.data import check_dataset
from maskconver.data.check.alike import DISTANCE, alike, fingerprint
from maskconver.data.synth.write import write_dataset
from maskconver.errors import ConfigError

from .conftest import Spoil, base_ids

RNG = np.random.default_rng(0)


def photo(seed: int, size: tuple[int, int] = (120, 160)) -> Image.Image:
    """Smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def kinds(found: list) -> set[str]:
    return {d.kind for d in found}


def label_folder(root: Path, images: dict[str, Image.Image]) -> Path:
    """`images` by `split/name.png`, all of the class `a`."""
    for name, image in images.items():
        for folder in ("images", "labels"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / "images" / name)
        Image.fromarray(np.zeros(image.size[::-1], np.uint8)).save(root / "labels" / name)
    (root / "classes.txt").write_text("a\n")
    return root


@pytest.mark.parametrize("change", ["smaller", "darker", "blurred", "jpeg"])
def test_a_changed_copy_keeps_its_fingerprint(change: str, tmp_path: Path) -> None:
    image = photo(1)
    other = {
        "smaller": lambda: image.resize((90, 70)),
        "darker": lambda: image.point(lambda v: v * 0.6 + 10),
        "blurred": lambda: image.filter(ImageFilter.GaussianBlur(2)),
        "jpeg": lambda: (image.save(tmp_path / "a.jpg", quality=20), Image.open(tmp_path / "a.jpg"))[1],
    }[change]()
    prints = [fingerprint(np.asarray(i)) for i in (image, other)]
    assert [pair[:2] for pair in alike(prints[:1], prints[1:])] == [(0, 0)]


def test_other_images_and_flat_ones_are_not_alike() -> None:
    prints = [fingerprint(np.asarray(photo(k))) for k in range(60)]
    assert alike(prints[:30], prints[30:]) == []
    flat = fingerprint(np.full((50, 50, 3), 90, np.uint8))
    assert flat == b"" and alike([flat], [flat]) == []


def test_the_nearest_of_several_is_named_and_distances_are_exact() -> None:
    base = np.frombuffer(fingerprint(np.asarray(photo(1))), np.uint8)
    bits = np.unpackbits(base)

    def with_flipped(count: int) -> bytes:
        changed = bits.copy()
        changed[RNG.choice(256, count, replace=False)] ^= 1
        return np.packbits(changed).tobytes()

    second = [base.tobytes(), with_flipped(DISTANCE), with_flipped(DISTANCE + 1)]
    first = [with_flipped(5), b"", with_flipped(3)]
    assert alike(first, second[:1]) == [(2, 0, 3)]
    assert alike([base.tobytes()], second) == [(0, 0, 0), (0, 1, DISTANCE)]


def test_copies_in_two_splits_are_a_defect_and_copies_in_one_are_not(tmp_path: Path) -> None:
    images = {
        "train/a.png": photo(1),
        "train/b.png": photo(1),
        "val/c.png": photo(1, (60, 80)),
        "val/d.png": photo(2),
    }
    report = check_dataset(label_folder(tmp_path, images))
    assert [(d.kind, d.image_id) for d in report.defects] == [("near-duplicate", "c")]
    assert "c.png looks like a.png of train" in report.defects[0].message
    assert not check_dataset(tmp_path, decode=False).defects


def test_groups_must_not_be_in_two_splits(tmp_path: Path) -> None:
    names = ["train/site1_a.png", "train/site2_a.png", "val/site1_b.png", "val/site3_a.png"]
    label_folder(tmp_path, {name: photo(k) for k, name in enumerate(names)})
    report = check_dataset(tmp_path, group=r"^(site\d+)_")
    assert [d.kind for d in report.defects] == ["group-in-splits"]
    assert '"site1"' in report.defects[0].message and "site1_a.png" in report.defects[0].message
    with pytest.raises(ConfigError, match="not a regular expression"):
        check_dataset(tmp_path, group="(")
    with pytest.raises(ConfigError, match="matches no file name"):
        check_dataset(tmp_path, group="plate")


def test_odd_things_are_notes_and_no_defects(spoiled: Spoil) -> None:
    ids = base_ids()
    ids[ids == 5] = 300
    ids[10, 10] = 5  # the car is one pixel
    ids[0], ids[-1], ids[:, 0], ids[:, -1] = 70000, 70000, 70000, 70000  # the person's box is the image

    def stated(content: dict) -> None:
        for row in content["annotations"][0]["segments_info"]:
            del row["area"], row["bbox"]

    report = check_dataset(spoiled(stated, ids=ids))
    assert not report.defects
    assert {(d.kind, d.segment_id) for d in report.notes} == {("one-pixel", 5), ("covers-image", 70000)}
    assert report.to_json()["ok"] and report.to_json()["notes_by_kind"] == {"one-pixel": 1, "covers-image": 1}


def test_rare_classes_and_mixed_images_are_noted(tmp_path: Path) -> None:
    images = {f"train/{k}.png": photo(k) for k in range(11)}
    label_folder(tmp_path, images)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    mask = np.zeros((120, 160), np.uint8)
    mask[:9] = 1
    Image.fromarray(mask).save(tmp_path / "labels" / "train" / "3.png")
    photo(3).convert("L").save(tmp_path / "images" / "train" / "3.png")
    report = check_dataset(tmp_path)
    assert kinds(report.notes) == {"rare-class", "mixed-images"} and not report.defects
    assert "b (1)" in report.notes[0].message and "10 × 3 channels, 8 bits" in report.notes[1].message


def test_a_class_of_one_split_is_noted(tmp_path: Path) -> None:
    label_folder(tmp_path, {"train/a.png": photo(1), "val/b.png": photo(2)})
    (tmp_path / "classes.txt").write_text("a\nb\n")
    Image.fromarray(np.full((120, 160), 1, np.uint8)).save(tmp_path / "labels" / "val" / "b.png")
    messages = [d.message for d in check_dataset(tmp_path).notes]
    assert messages == ["1 class in train, but not in val: a", "1 class in val, but not in train: b"]


def test_the_annotation_alone_is_checked_without_any_file(spoiled: Spoil) -> None:
    def change(content: dict) -> None:
        rows = content["annotations"][0]["segments_info"]
        rows[1]["bbox"], rows[2]["area"] = [30, 4, 8, 6], 5000

    folder = spoiled(change)
    for path in [*folder.glob("images/*"), *folder.glob("png/*")]:
        path.unlink()
    report = check_dataset(folder, open_files=False)
    assert [(d.kind, d.segment_id) for d in report.defects] == [("wrong-bbox", 5), ("wrong-area", 70000)]
    assert kinds(check_dataset(folder).defects) >= {"missing-image", "missing-png"}


def test_the_gallery_shows_each_kind(
    tmp_path: Path, spoiled: Spoil, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: dict) -> None:
        content["annotations"][0]["segments_info"][1]["area"] = 7
        content["images"].append({"id": 2, "file_name": "no.png", "width": 32, "height": 24})
        content["annotations"].append({**content["annotations"][0], "image_id": 2})

    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", str(spoiled(change)), "--gallery", str(sheet)]) == 1
    with Image.open(sheet) as image:
        colours = {tuple(c) for c in np.asarray(image).reshape(-1, 3)}
        assert image.width > 600  # a tile for the area, one for the missing image
    assert (255, 230, 0) in colours  # the frame around the segment
    assert main(["data", "check", str(spoiled()), "--gallery", str(tmp_path / "x.gif")]) == 2
    assert ".png or .jpg" in capsys.readouterr().err


def test_annotations_of_another_format_are_checked_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "panoptic", "cells", 2, size=(40, 50))
    images = sorted((tmp_path / "panoptic" / "images" / "train").iterdir())
    rows = [{"id": k, "file_name": p.name, "width": 50, "height": 40} for k, p in enumerate(images, 1)]
    square = [4, 4, 14, 4, 14, 14, 4, 14]
    content = {
        "images": rows,
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square], "bbox": [4, 4, 10, 10]},
            {"id": 2, "image_id": 2, "category_id": 1, "segmentation": [[0, 0, 50, 0, 50, 40, 0, 40]]},
            {"id": 3, "image_id": 2, "category_id": 7, "segmentation": [square]},
        ],
    }
    source = tmp_path / "panoptic" / "images" / "train" / "instances.json"
    source.write_text(json.dumps(content))
    report = check_dataset(source)
    assert [(d.kind, d.severity) for d in report.defects] == [("unknown-class", "error")]
    assert "covers-image" in kinds(report.notes)
    assert [(row["name"], row["segments"]) for row in report.splits[0].classes] == [("cell", 2)]
    (images[0]).write_bytes(b"")
    assert "broken-image" in kinds(check_dataset(source).defects)
    assert main(["data", "check", str(source), "--from", "coco", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["notes_by_kind"]["covers-image"] == 1
    assert main(["data", "check", str(source), "--annotations-only"]) == 2
