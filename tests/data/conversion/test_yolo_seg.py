"""YOLO segmentation: layouts, label files that are empty or missing, and lines that are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

import maskconver as mc
from maskconver.data.conversion.run import convert
from maskconver.errors import DataError

from .coco_sets import HEIGHT, SMALL, SQUARE, WIDTH, photo, shown, yolo_line, yolo_set

CAT, DOG = yolo_line(0, SQUARE), yolo_line(1, [float(v) for v in SMALL])


def test_roboflows_layout_with_paths_that_lead_above_the_set(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": f"{CAT}\n{DOG}\n", "valid/b": f"{DOG}\n", "test/c": CAT})
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.splits == {"train": 1, "val": 1} and not result.errors
    assert result.notes == {"label-files-outside-the-splits-of-data-yaml": 1}  # it names no test split
    assert shown(tmp_path / "out") == {"cat": 68, "dog": 12, "background": WIDTH * HEIGHT - 80}
    assert not mc.data.check_dataset(tmp_path / "out").defects


@pytest.mark.parametrize(
    "names", ["{0: cat, 1: dog}", "\n  0: cat\n  1: dog", "['cat', \"dog\"]", "cat, dog"]
)
def test_class_names_are_a_list_or_numbered(tmp_path: Path, names: str) -> None:
    yolo_set(tmp_path / "source", {"train/a": DOG}, names=names)
    convert(tmp_path / "source", tmp_path / "out")
    assert shown(tmp_path / "out")["dog"] == 12


def test_a_list_of_classes_and_folders_are_enough(tmp_path: Path) -> None:
    source = tmp_path / "source"
    photo(source / "images" / "a.PNG")
    photo(source / "images" / "sub" / "b.png")
    photo(source / "preview.png")
    for name, text in (("a", CAT), ("sub/b", DOG)):
        path = source / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (source / "classes.txt").write_text("cat\ndog\n")
    result = convert(source, tmp_path / "out")
    assert result.format == "yolo-seg" and result.splits == {"train": 2} and not result.errors


def test_images_of_a_list_file_and_folders_in_a_list(tmp_path: Path) -> None:
    source = tmp_path / "source"
    yolo_set(source, {"train/a": CAT, "train/b": CAT, "more/c": CAT, "valid/d": CAT})
    (source / "train.txt").write_text("./train/images/a.png\n")
    splits = "train: [train.txt, more/images]\nval: /home/other/set/valid/images\n"
    (source / "data.yaml").write_text(f"path: /home/other/set\n{splits}names: [cat]\n")
    result = convert(source, tmp_path / "out")
    assert result.splits == {"train": 2, "val": 1}


def test_images_without_objects_are_background_and_counted(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": CAT, "train/b": "", "train/c": CAT})
    (tmp_path / "source" / "train" / "labels" / "c.txt").unlink()
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.notes == {"empty-label-files": 1, "images-without-label-file": 1} and not result.errors
    assert shown(tmp_path / "out", index=1) == {"background": WIDTH * HEIGHT}


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("0 0.5 0.5 0.2 0.2", "no-outline", "line 2: is a box without an outline"),
        ("7 0.1 0.1 0.2 0.1 0.2 0.2", "unknown-class", "line 2: class 7 is not one of 2"),
        ("cat 0.1 0.1 0.2 0.1 0.2 0.2", "bad-line", "not a row of numbers"),
        ("0,0.1,0.1,0.2,0.1,0.2,0.2", "bad-line", "it has commas"),
        ("0 0,1 0,1 0,2 0,1 0,2 0,2", "bad-line", "it has commas"),
        ("0 0.1 0.1 nan 0.1 0.2 0.2", "bad-polygon", "NaN or infinite"),
        ("0 10 10 50 10 50 50", "bad-polygon", "not between 0 and 1"),
        ("0 0.1 0.1 0.2", "bad-polygon", "an odd number"),
        ("0.5 0.1 0.1 0.2 0.1 0.2 0.2", "unknown-class", "class 0.5"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_converted(tmp_path: Path, line: str, kind: str, text: str) -> None:
    yolo_set(tmp_path / "source", {"train/a": f"{CAT}\n{line}\n"})
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.errors == {kind: 1} and text in str(result.faults[0]) and "a.txt" in str(result.faults[0])
    assert shown(tmp_path / "out")["cat"] == 80


def test_a_confidence_at_the_end_of_a_line_orders_overlaps(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": f"{CAT} 0.9\n{DOG} 0.3\n"})
    convert(tmp_path / "source", tmp_path / "out", overlaps="score")
    assert shown(tmp_path / "out") == {"cat": 80, "background": WIDTH * HEIGHT - 80}


def test_labels_without_an_image_and_damaged_images_are_named(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": CAT, "train/b": CAT, "train/c": CAT})
    (tmp_path / "source" / "train" / "images" / "b.png").unlink()
    (tmp_path / "source" / "train" / "images" / "c.png").write_bytes(b"x")
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.errors == {"bad-image": 1, "missing-image": 1} and result.splits == {"train": 1}
    assert any(f.where.endswith("b.txt") for f in result.faults)


def test_sets_of_boxes_and_sets_without_labels_are_refused(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": "0 0.5 0.5 0.2 0.2"})
    with pytest.raises(DataError, match=r"no image could be converted.*box without an outline"):
        convert(tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "train" / "labels" / "a.txt").unlink()
    with pytest.raises(DataError, match="no label files"):
        convert(tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "data.yaml").write_text("names: [a\ntrain: b\n")
    with pytest.raises(DataError, match=r"data.yaml: is not YAML"):
        convert(tmp_path / "source", tmp_path / "out")


def test_names_that_yaml_takes_for_truth_values_stay_as_written(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": f"{CAT}\n{DOG}\n"}, names="[yes, no]")
    convert(tmp_path / "source", tmp_path / "out")
    assert {"yes", "no"} < shown(tmp_path / "out").keys()


def test_a_class_without_a_name_is_called_by_its_number(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": f"{CAT}\n{DOG}\n"}, names="['', 'big  dog ']")
    convert(tmp_path / "source", tmp_path / "out")
    assert {"0", "big dog"} < shown(tmp_path / "out").keys()


def test_a_path_of_windows_in_quotes_is_named_with_its_line(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": CAT})
    path = tmp_path / "source" / "data.yaml"
    path.write_text(path.read_text() + 'path: "C:\\Users\\me"\n')
    line = len(path.read_text().splitlines())
    with pytest.raises(DataError, match=rf"data\.yaml: is not YAML \(line {line}: .*escape"):
        convert(tmp_path / "source", tmp_path / "out")


def test_a_broken_data_yaml_is_named(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": CAT}, names="[cat, dog")
    with pytest.raises(DataError, match=r"data\.yaml: is not YAML"):
        convert(tmp_path / "source", tmp_path / "out")


def test_a_label_file_of_a_mac_belongs_to_its_image(tmp_path: Path) -> None:
    source = tmp_path / "source"
    photo(source / "photos" / "\u00fc.png")
    label = source / "outlines" / "u\u0308.txt"
    label.parent.mkdir()
    label.write_text(CAT)
    (source / "classes.txt").write_text("cat\n")
    result = convert(source, tmp_path / "out", "yolo-seg")
    assert not result.errors and shown(tmp_path / "out")["cat"] > 0


def test_an_image_without_labels_takes_none_of_another_split(tmp_path: Path) -> None:
    source = tmp_path / "source"
    yolo_set(source, {"train/a": CAT, "valid/a": "", "train/b": CAT, "valid/b": ""})
    for name in ("a", "b"):
        (source / "valid" / "labels" / f"{name}.txt").unlink()
    (source / "train" / "images" / "b.png").unlink()  # so that the labels are no other image's
    convert(source, tmp_path / "out")
    assert [shown(tmp_path / "out", "val", k) for k in (0, 1)] == [{"background": WIDTH * HEIGHT}] * 2


@pytest.mark.parametrize("start", ["/home/other/set/images/", "data/images/", "C:\\set\\images\\"])
def test_lists_of_another_machine_keep_their_splits(tmp_path: Path, start: str) -> None:
    source = tmp_path / "source"
    for name in ("a", "b", "c"):
        photo(source / "images" / f"{name}.png")
        (source / "labels").mkdir(exist_ok=True)
        (source / "labels" / f"{name}.txt").write_text(CAT)
    (source / "train.txt").write_text(f"{start}a.png\n{start}b.png\n")
    (source / "val.txt").write_text(f"{start}c.png\n{start}gone.png\n")
    (source / "data.yaml").write_text("path: .\ntrain: train.txt\nval: val.txt\nnames: [cat]\n")
    result = convert(source, tmp_path / "out")
    assert result.splits == {"train": 2, "val": 1}
    assert 'data.yaml names the list "val.txt", of whose images 1 are missing' in result.decisions


def test_images_of_two_splits_are_told(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": CAT})
    (tmp_path / "source" / "data.yaml").write_text("train: train/images\nval: train/images\nnames: [cat]\n")
    result = convert(tmp_path / "source", tmp_path / "out")
    assert result.splits == {"train": 1} and result.decisions[0].startswith("1 images are in several splits")


def test_keypoints_are_no_outlines(tmp_path: Path) -> None:
    yolo_set(tmp_path / "source", {"train/a": "0 .5 .5 .2 .2 .1 .1 .2 .2\n"})
    with (tmp_path / "source" / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 2]\n")
    with pytest.raises(DataError, match="boxes and keypoints"):
        convert(tmp_path / "source", tmp_path / "out")


def test_labels_of_yolo_are_no_label_pngs(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(CAT)
    (tmp_path / "classes.txt").write_text("cat\n")
    report = mc.data.check_dataset(tmp_path)
    assert not report.defects and "YOLO" in report.splits[0].panoptic_json
    with pytest.raises(DataError, match="maskconver data convert"):
        mc.data.open_dataset(tmp_path)
