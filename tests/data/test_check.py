"""`data check` names every defect with file and id, goes on after each, and leaves sound data alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import main
from maskconver.data import check_dataset, open_dataset
from maskconver.data.check.run import proposals_for
from maskconver.errors import DataError

from .conftest import Spoil, base_ids

# kinds of defects that the check finds; a text = nothing can be checked, refused with these words
SHARED_CASES: dict[str, set[str] | str] = {
    "valid": set(),
    "png_missing": {"missing-png"},
    "image_missing": {"missing-image"},
    "png_id_not_in_json": {"id-not-in-json", "wrong-area"},
    "json_id_not_in_png": {"empty-segment"},
    "unknown_category": {"unknown-category"},
    "duplicate_segment_id": {"duplicate-segment"},
    "duplicate_image_annotation": {"duplicate-annotation"},
    "duplicate_image_id": {"duplicate-image"},
    "duplicate_category_id": {"duplicate-category"},
    "wrong_area": {"wrong-area"},
    "wrong_bbox": {"wrong-bbox"},
    "bbox_xyxy": {"wrong-bbox"},
    "no_area_bbox_iscrowd": set(),
    "size_differs_json": {"size-differs-json"},
    "size_differs_png": {"size-mismatch"},
    "png_grey": {"broken-png"},
    "png_rgba": set(),
    "png_palette": set(),
    "png_is_jpeg": {"broken-png"},
    "png_bgr": {"id-not-in-json", "empty-segment"},
    "annotation_without_image": {"annotation-without-image", "extra-png"},
    "no_annotations": {"no-annotation", "extra-png"},
    "image_without_annotation": set(),
    "no_categories": "categories",
    "empty_categories": "empty",
    "no_isthing": {"no-isthing"},
    "no_color": set(),
    "category_id_string": {"bad-category"},
    "category_id_float": set(),
    "segment_id_zero": {"segment-id-zero", "split-stuff"},
    "segment_id_too_large": {"segment-id-too-large", "split-stuff"},
    "all_void": set(),
    "stuff_twice": {"split-stuff"},
    "crowd_stuff": {"crowd-stuff"},
    "json_truncated": "line 1 column",
    "json_empty": "empty",
    "json_list": "list",
    "json_nan": {"wrong-area"},
    "json_bom": set(),
    "instances_json": "instances file",
    "path_outside": {"missing-png", "extra-png"},
    "png_named_jpg_in_json": {"missing-png", "extra-png"},
}


def kinds(report: Any) -> set[str]:
    return {d.kind for d in report.defects}


@pytest.mark.parametrize("case", SHARED_CASES)
def test_shared_annotation_folder(shared: Path, tmp_path: Path, case: str) -> None:
    origin = shared / "golden" / "bad_inputs" / "annotations"
    paths = {}
    for kind, name in (("images", "images"), ("panoptic_pngs", "png")):
        paths[kind] = origin / case / name
        if not paths[kind].is_dir():
            missing = case in ("image_missing", "png_missing")
            paths[kind] = tmp_path if missing else origin / "valid" / name
    expected = SHARED_CASES[case]
    arguments = {"panoptic_json": origin / case / "panoptic.json", **paths}
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            check_dataset(None, **arguments)
        return
    report = check_dataset(None, **arguments)
    assert kinds(report) == expected
    for defect in report.defects:
        assert defect.file and defect.message and "\n" not in defect.message


@pytest.mark.parametrize("name", ["coco-panoptic-150", "dsb2018-nuclei"])
def test_real_data_have_no_defect(shared: Path, name: str) -> None:
    report = check_dataset(shared / "data" / name, "val", decode=False)
    assert not report.defects
    assert report.splits[0].annotated == report.splits[0].images > 0


# Made here


def _segment(content, index, **values):
    content["annotations"][0]["segments_info"][index].update(values)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (lambda c: _segment(c, 1, category_id=99), "unknown-category", "segment 5 has category 99"),
        (lambda c: _segment(c, 0, id=5), "duplicate-segment", "id 5 occurs twice"),
        (lambda c: _segment(c, 1, id=0), "segment-id-zero", "void"),
        (lambda c: _segment(c, 1, id=1 << 24), "segment-id-too-large", "16777216"),
        (lambda c: _segment(c, 1, area=999), "wrong-area", "999, the PNG has 48"),
        (lambda c: _segment(c, 1, area=float("nan")), "wrong-area", "not a number"),
        (lambda c: _segment(c, 1, bbox=[0, 0, 3, 3]), "wrong-bbox", "[4, 4, 8, 6]"),
        (lambda c: _segment(c, 1, bbox=[4, 4, 12, 10]), "wrong-bbox", "corners"),
        (lambda c: _segment(c, 1, bbox=[1, 2]), "wrong-bbox", "four numbers"),
        (lambda c: _segment(c, 0, iscrowd=1), "crowd-stuff", "crowd"),
        (lambda c: _segment(c, 1, category_id=40), "split-stuff", '"road" is split in 2'),
        (lambda c: _segment(c, 1, id="five"), "bad-segment-row", "five"),
        (lambda c: c["images"].append(dict(c["images"][0])), "duplicate-image", "id 1"),
        (lambda c: c["annotations"].append(dict(c["annotations"][0])), "duplicate-annotation", "image 1"),
        (lambda c: c["annotations"].append({"image_id": 5}), "bad-annotation-row", "segments_info"),
        (lambda c: c["annotations"][0].update(image_id=5), "annotation-without-image", "image 5"),
        (lambda c: c["annotations"].clear(), "no-annotation", "nothing to train on"),
        (lambda c: c["categories"][1].update(id=1), "duplicate-category", "car"),
        (lambda c: c["categories"][2].update(id=1), "isthing-disagrees", "once a thing"),
        (lambda c: c["categories"][0].pop("isthing"), "no-isthing", "car"),
        (lambda c: c["categories"][0].update(id="1"), "bad-category", "text"),
        (lambda c: c["images"][0].update(width=64), "size-differs-json", "64×24"),
        (lambda c: c["images"][0].update(file_name="b.png"), "missing-image", "no such file"),
        (lambda c: c["images"][0].update(file_name="b.png"), "extra-image", "not in the JSON"),
        (lambda c: c["annotations"][0].update(file_name="../png/a.png"), "missing-png", "leads out"),
        (lambda c: c["annotations"][0].update(file_name="a.jpg"), "missing-png", "there is a.png"),
    ],
)
def test_fault_in_the_json_is_named(spoiled: Spoil, change, kind: str, says: str) -> None:
    def apply(content):
        change(content)

    report = check_dataset(spoiled(apply))
    found = [d for d in report.defects if d.kind == kind]
    assert found and any(says in d.message for d in found), report.defects


def test_sound_set_has_no_defect_and_the_right_figures(spoiled: Spoil) -> None:
    report = check_dataset(spoiled())
    assert report.defects == []
    split = report.splits[0]
    assert (split.images, split.annotated, split.segments, split.largest) == (1, 1, 3, (1, 3))
    by_name = {row["name"]: row for row in split.classes}
    assert by_name["road"] == {
        "id": 40,
        "name": "road",
        "isthing": 0,
        "segments": 1,
        "images": 1,
        "pixels": 608,
    }
    assert [row for row in split.size_bins if row[1] or row[2]] == [(16, 2, 0), (256, 0, 1)]
    assert split.to_json()["proposals"] == 10


def test_png_faults_are_named(spoiled: Spoil) -> None:
    ids = base_ids()
    ids[20:, :4] = 999
    assert kinds(check_dataset(spoiled(ids=ids))) == {"id-not-in-json", "wrong-area"}
    ids = base_ids()
    ids[ids == 5] = 0
    report = check_dataset(spoiled(ids=ids))
    assert kinds(report) == {"empty-segment"} and report.defects[0].segment_id == 5
    assert "size-mismatch" in kinds(check_dataset(spoiled(ids=base_ids()[::2, ::2])))
    reversed_png = spoiled(save=lambda path, a: Image.fromarray(a[..., ::-1].copy()).save(path))
    assert any("BGR" in d.message for d in check_dataset(reversed_png).defects)
    jpeg = spoiled(save=lambda path, a: Image.fromarray(a).save(path, "JPEG"))
    assert kinds(check_dataset(jpeg)) == {"broken-png"}


def test_noise_for_a_png_gives_few_lines(spoiled: Spoil) -> None:
    noise = np.random.default_rng(0).integers(1, 1 << 24, (24, 32))
    found = [d for d in check_dataset(spoiled(ids=noise)).defects if d.kind == "id-not-in-json"]
    assert len(found) == 21 and "more ids" in found[-1].message


def test_search_goes_on_after_each_defect(spoiled: Spoil) -> None:
    def change(content):
        content["images"].append({"id": 2, "file_name": "cut.png", "width": 32, "height": 24})
        content["annotations"].append({**content["annotations"][0], "image_id": 2})
        _segment(content, 1, area=1, category_id=99)

    folder = spoiled(change)
    data = (folder / "images" / "a.png").read_bytes()
    (folder / "images" / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "images" / "extra.png").write_bytes(data)
    report = check_dataset(folder)
    assert kinds(report) == {"unknown-category", "broken-image", "extra-image", "wrong-area"}
    assert kinds(check_dataset(folder, workers=2)) == kinds(report)


def test_damage_behind_the_header_needs_decoding(spoiled: Spoil) -> None:
    folder = spoiled()
    data = (folder / "images" / "a.png").read_bytes()
    (folder / "images" / "a.png").write_bytes(data[:60])
    assert kinds(check_dataset(folder)) == {"broken-image"}
    assert kinds(check_dataset(folder, decode=False)) == set()


def test_more_segments_than_the_cap_are_reported(spoiled: Spoil) -> None:
    assert kinds(check_dataset(spoiled(), max_segments=3)) == set()
    report = check_dataset(spoiled(), max_segments=2)
    assert [(d.kind, d.image_id) for d in report.defects] == [("too-many-segments", 1)]


def test_proposals_cover_the_fullest_image() -> None:
    assert [proposals_for(n) for n in (0, 10, 11, 257, 5000)] == [10, 10, 20, 400, 1000]


@pytest.fixture
def two_splits(spoiled: Spoil, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, root = spoiled(), tmp_path_factory.mktemp("set")
    for split in ("train", "val"):
        shutil.copytree(source / "images", root / "images" / split)
        shutil.copytree(source / "png", root / "panoptic" / split)
        shutil.copy(source / "panoptic.json", root / f"panoptic_{split}.json")
    return root


def test_splits_are_compared(two_splits: Path) -> None:
    assert [s.split for s in check_dataset(two_splits).splits] == ["train", "val"]
    path = two_splits / "panoptic_val.json"
    content = json.loads(path.read_text())
    content["categories"][0]["isthing"] = 0
    content["categories"][1]["name"] = "rider"
    path.write_text(json.dumps(content))
    report = check_dataset(two_splits)
    assert kinds(report) == {"isthing-disagrees", "categories-differ"}
    assert all(d.file == str(path) for d in report.defects)
    assert not check_dataset(two_splits, "train").defects


def test_open_data_set_can_be_checked(two_splits: Path) -> None:
    assert not check_dataset(open_dataset(two_splits, "val")).defects


# The command


def test_command_exits_0_without_and_1_with_defects(spoiled: Spoil, capsys) -> None:
    assert main(["data", "check", str(spoiled())]) == 0
    assert "no defects" in capsys.readouterr().out
    folder = spoiled(lambda c: _segment(c, 1, area=999))
    assert main(["data", "check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "wrong-area" in out and "segment 5" in out and str(folder / "panoptic.json") in out


def test_command_prints_json(spoiled: Spoil, capsys) -> None:
    folder = spoiled(lambda c: _segment(c, 1, area=999))
    assert main(["data", "check", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["defects_by_kind"] == {"wrong-area": 1} and not report["ok"]
    assert report["splits"][0]["defects"][0]["segment_id"] == 5


def test_command_refuses_what_cannot_be_checked(spoiled: Spoil, tmp_path_factory, capsys) -> None:
    assert main(["data", "check", str(spoiled(text="{"))]) == 2
    assert "panoptic.json: not JSON" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path_factory.mktemp("empty"))]) == 2
    assert main(["data", "check"]) == 2


def test_command_shows_as_many_as_asked(spoiled: Spoil, capsys) -> None:
    def change(content):
        for k in range(3):
            _segment(content, k, area=1)

    assert main(["data", "check", str(spoiled(change)), "--show", "1"]) == 1
    assert "2 more wrong-area" in capsys.readouterr().out


# What is odd in a JSON, and whether it is an error; None = nothing is said.
ODD: dict[str, tuple[Any, str | None]] = {
    "width 24.0": (lambda c: c["images"][0].update(width=32.0), None),
    "width null": (lambda c: c["images"][0].update(width=None), None),
    "width text": (lambda c: c["images"][0].update(width="32"), "warning"),
    "image id 1.0": (lambda c: c["images"][0].update(id=1.0), None),
    "image id text": (lambda c: c["images"][0].update(id="1"), "error"),
    "image id null": (lambda c: c["images"][0].update(id=None), "error"),
    "image_id 1.0": (lambda c: c["annotations"][0].update(image_id=1.0), None),
    "dot slash": (lambda c: c["images"][0].update(file_name="./a.png"), None),
    "row no object": (lambda c: c["images"].append(3), "error"),
    "segments no list": (lambda c: c["annotations"][0].update(segments_info={}), "error"),
    "segments null": (lambda c: c["annotations"][0].update(segments_info=None), "error"),
    "segment no object": (lambda c: c["annotations"][0]["segments_info"].append(3), "error"),
    "crowd 0.0": (lambda c: _segment(c, 1, iscrowd=0.0), None),
    "crowd null": (lambda c: _segment(c, 1, iscrowd=None), None),
    "crowd text": (lambda c: _segment(c, 1, iscrowd="0"), "warning"),
    "crowd word": (lambda c: _segment(c, 1, iscrowd="no"), "error"),
    "crowd 2": (lambda c: _segment(c, 1, iscrowd=2), "warning"),
    "area text": (lambda c: _segment(c, 1, area="48"), "warning"),
    "area -1": (lambda c: _segment(c, 1, area=-1), "warning"),
    "area NaN": (lambda c: _segment(c, 1, area=float("nan")), "warning"),
    "bbox empty": (lambda c: _segment(c, 1, bbox=[]), "warning"),
    "bbox null": (lambda c: _segment(c, 1, bbox=None), None),
    "bbox Infinity": (lambda c: _segment(c, 1, bbox=[4, 4, float("inf"), 6]), "warning"),
    "segment id text": (lambda c: _segment(c, 1, id="5"), "error"),
    "segment id 5.0": (lambda c: _segment(c, 1, id=5.0), None),
    "segment id 10^400": (lambda c: _segment(c, 1, id=10**400), "error"),
    "category_id text": (lambda c: _segment(c, 1, category_id="1"), "error"),
    "category id 2^60": (lambda c: c["categories"][0].update(id=1 << 60), "error"),
    "isthing 1.0": (lambda c: c["categories"][0].update(isthing=1.0), None),
    "isthing true": (lambda c: c["categories"][0].update(isthing=True), None),
    "isthing 2": (lambda c: c["categories"][0].update(isthing=2), "error"),
    "isthing text": (lambda c: c["categories"][0].update(isthing="1"), "error"),
    "color text": (lambda c: c["categories"][0].update(color="#dc143c"), "warning"),
    "color of four": (lambda c: c["categories"][0].update(color=[1, 2, 3, 255]), "warning"),
    "color 220.0": (lambda c: c["categories"][0].update(color=[220.0, 20.0, 60.0]), None),
    "color beyond": (lambda c: c["categories"][0].update(color=[300, 0, 0]), "warning"),
    "name 7": (lambda c: c["categories"][0].update(name=7), None),
    "name null": (lambda c: c["categories"][0].update(name=None), None),
    "info NaN": (lambda c: c.update(info={"version": float("nan")}), None),
}


@pytest.mark.parametrize("case", ODD)
def test_reading_refuses_just_what_the_check_calls_an_error(spoiled: Spoil, case: str) -> None:
    change, severity = ODD[case]
    folder = spoiled(lambda c: change(c))
    defects = check_dataset(folder).defects
    errors = [d for d in defects if d.severity == "error"]
    assert {d.severity for d in defects} == ({severity} if severity else set()) or (
        severity == "error" and errors
    )
    try:
        _ = open_dataset(folder)[0]
        refused = ""
    except DataError as error:
        refused = error.text
    assert bool(refused) == bool(errors), (refused, errors)
    if refused:
        assert refused in [d.message for d in errors]


@pytest.mark.parametrize(
    ("unused", "void", "says"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_masks_of_0_and_255_are_noticed(tmp_path: Path, unused: bool, void: bool, says: bool) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((10, 10), np.uint8)
    mask[:2] = 0 if unused else 1
    mask[2:4] = 255 if void else 0
    Image.fromarray(mask).save(tmp_path / "labels" / "a.png")
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "classes.txt").write_text("background\ndefect\n")
    report = check_dataset(tmp_path)
    assert ("class-is-ignored" in kinds(report)) == says
    assert report.splits[0].to_json()["void_share"] == (0.2 if void else 0)


def test_a_label_folder_without_a_pair_is_a_defect(tmp_path: Path) -> None:
    for name in ("images/a.png", "labels/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    (tmp_path / "classes.txt").write_text("one\n")
    assert "no-annotation" in kinds(check_dataset(tmp_path))
