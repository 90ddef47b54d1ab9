"""Evaluation of files: pairing, processes, warnings, and every fault of a prediction or a ground truth."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import main
from maskconver.errors import DataError
from maskconver.io.panoptic_json import write_panoptic_png
from maskconver.metrics.files import panoptic_quality_files

from . import panoptic

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def gt(tmp_path: Path) -> Path:
    return panoptic.write(tmp_path / "gt")


def many(folder: Path, n: int) -> Path:
    """The data set with its one image n times under different ids."""

    def repeat(data: dict[str, Any]) -> None:
        data["images"] = [data["images"][0] | {"id": i} for i in range(n)]
        data["annotations"] = [data["annotations"][0] | {"image_id": i} for i in range(n)]

    return panoptic.write(folder, repeat)


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_give_the_same_figures(processes: int, tmp_path: Path) -> None:
    gt = many(tmp_path / "gt", 70)
    pred = many(tmp_path / "pred", 70)
    ids = panoptic.id_map()
    ids[8:10] = 300
    write_panoptic_png(pred.parent / "png" / "a.png", ids)
    steps: list[int] = []
    result = panoptic_quality_files(
        gt, pred, processes=processes, details=True, progress=lambda _, n: lambda: steps.append(n)
    )
    assert result.images == len(steps) == 70
    assert result.quality.per_class[1].iou == pytest.approx(70 * 32 / 48)
    assert [d["image_id"] for d in result.quality.per_image] == list(range(70))
    assert 0 < result.decoding < 1


def test_an_error_in_a_worker_process_is_the_same_error(tmp_path: Path) -> None:
    gt, pred = many(tmp_path / "gt", 70), many(tmp_path / "pred", 70)
    (pred.parent / "png" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: the file is empty"):
        panoptic_quality_files(gt, pred, processes=2)


def test_the_folder_beside_the_json_is_found_or_named(tmp_path: Path, gt: Path) -> None:
    pred = panoptic.write(tmp_path / "pred")
    (pred.parent / "png").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="`pred_folder`"):
        panoptic_quality_files(gt, pred)
    assert panoptic_quality_files(gt, pred, pred_folder=tmp_path / "elsewhere").quality.all.pq == 1


def test_pngs_may_lie_in_a_zip(tmp_path: Path, gt: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pngs.zip", "w") as archive:
        archive.write(gt.parent / "png" / "a.png", "a.png")
    assert panoptic_quality_files(gt, gt, pred_folder=tmp_path / "pngs.zip").quality.all.pq == 1


def test_predictions_of_other_images_are_not_read(tmp_path: Path, gt: Path) -> None:
    def extra(data: dict[str, Any]) -> None:
        del data["images"]
        data["annotations"].append({"image_id": 2, "file_name": "absent.png", "segments_info": []})

    assert panoptic_quality_files(gt, panoptic.write(tmp_path / "pred", extra)).quality.all.pq == 1


def test_images_without_annotation_are_left_out_and_counted(tmp_path: Path, gt: Path) -> None:
    more = panoptic.write(
        tmp_path / "more",
        lambda d: d["images"].append({"id": 2, "file_name": "b.png", "width": 1, "height": 1}),
    )
    result = panoptic_quality_files(more, gt)
    assert (result.images, result.unannotated) == (1, 1)


def test_oddities_of_the_ground_truth_are_warned_of(tmp_path: Path, gt: Path) -> None:
    def odd(data: dict[str, Any]) -> None:
        data["images"][0]["width"] = 64
        rows = data["annotations"][0]["segments_info"]
        rows[0]["area"] = 999
        rows.append({"id": 12345, "category_id": 1, "area": 10})

    ids = panoptic.id_map()
    ids[22:] = 999
    warnings = panoptic_quality_files(panoptic.write(tmp_path / "odd", odd, ids), gt).warnings
    for text in ("without any pixel", "segment 12345", "stated area", "does not list", "size in the JSON"):
        assert any(text in line for line in warnings), text


def test_categories_named_otherwise_are_warned_of(tmp_path: Path, gt: Path) -> None:
    pred = panoptic.write(tmp_path / "pred", lambda d: d["categories"][0].update(name="lorry"))
    assert '1: "lorry" here, "car"' in panoptic_quality_files(gt, pred).warnings[0]


def test_ids_of_another_type_are_told(tmp_path: Path, gt: Path) -> None:
    def text(data: dict[str, Any]) -> None:
        data["images"][0]["id"] = data["annotations"][0]["image_id"] = "0001"

    pred = panoptic.write(tmp_path / "pred", text)
    with pytest.raises(DataError, match="its id is 1 in the ground truth and '0001' here"):
        panoptic_quality_files(gt, pred)


def rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    return data["annotations"][0]["segments_info"]


ACCEPTED: dict[str, Change] = {
    "no area, bbox, iscrowd": lambda d: [r.pop(k) for r in rows(d) for k in ("area", "bbox", "iscrowd")],
    "null area": lambda d: [r.update(area=None, bbox=None) for r in rows(d)],
    "category id 1.0": lambda d: rows(d)[1].update(category_id=1.0),
    "no colour": lambda d: [c.pop("color") for c in d["categories"]],
    "wrong bbox": lambda d: rows(d)[0].update(bbox=[9, 9, 9, 9]),
    "null iscrowd": lambda d: [r.update(iscrowd=None) for r in rows(d)],
    "iscrowd as truth value beside null": lambda d: [
        r.update(iscrowd=c) for r, c in zip(rows(d), (None, False))
    ],
    "iscrowd as truth value": lambda d: rows(d)[0].update(iscrowd=False),
}

REFUSED: dict[str, tuple[Change, str]] = {
    "unknown category": (lambda d: rows(d)[1].update(category_id=99), "image 1: segment 5 has category 99"),
    "duplicate segment id": (
        lambda d: rows(d).append(dict(rows(d)[1])),
        "segment id 5 occurs twice",
    ),
    "duplicate annotation": (
        lambda d: d["annotations"].append(d["annotations"][0]),
        "image 1 has two annotations",
    ),
    "duplicate image id": (lambda d: d["images"].append(d["images"][0]), "image id 1 occurs twice"),
    "annotation without image": (lambda d: d["annotations"][0].update(image_id=5), "annotation of image 5"),
    "no annotations": (lambda d: d["annotations"].clear(), "no prediction for image 1|no image is annotated"),
    "empty categories": (lambda d: d["categories"].clear(), '"categories" is empty'),
    "no isthing": (lambda d: d["categories"][0].pop("isthing"), r'category 1 \("car"\) has no key "isthing"'),
    "isthing 2": (lambda d: d["categories"][0].update(isthing=2), "isthing is 2, not 0 or 1"),
    "duplicate category id": (
        lambda d: d["categories"].append(d["categories"][0]),
        "category id 1 occurs twice",
    ),
    "category id as text": (lambda d: d["categories"][0].update(id="1"), 'category id "1" is text'),
    "category id 1.5": (lambda d: d["categories"][0].update(id=1.5), "id is 1.5, not a whole number"),
    "segment id 0": (lambda d: rows(d)[0].update(id=0), "id 0; 0 is void"),
    "segment id 2**24": (lambda d: rows(d)[0].update(id=1 << 24), "16777216 is no colour"),
    "segment id 1.5": (lambda d: rows(d)[0].update(id=1.5), "is no colour"),
    "no file name": (
        lambda d: d["annotations"][0].pop("file_name"),
        r'annotations\[0\]: the key "file_name" is missing',
    ),
    "file name elsewhere": (lambda d: d["annotations"][0].update(file_name="../png/a.png"), "leads out of"),
    "file missing": (lambda d: d["annotations"][0].update(file_name="b.png"), r"b\.png: no such file"),
    "wrong suffix": (lambda d: d["annotations"][0].update(file_name="a.jpg"), r"there is a\.png"),
    "instances file": (
        lambda d: d.update(
            annotations=[{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 1, 1, 1, 0]]}]
        ),
        "COCO instances file",
    ),
}

BROKEN_TEXT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda b: b[:200], r"breaks off at line 1 column 201 \(byte 200\)"),
    "empty": (lambda b: b"", "the file is empty"),
    "list": (lambda b: b"[1, 2, 3]", "the JSON is a list"),
    "number": (lambda b: b"3", "not a COCO panoptic file"),
    "not JSON": (lambda b: b"<html>", "not JSON"),
    "not UTF-8": (lambda b: b.replace(b'"car"', b'"c\xe4r"'), "not UTF-8 text"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_unusual_but_valid_files_are_accepted(name: str, tmp_path: Path, gt: Path) -> None:
    other = panoptic.write(tmp_path / "other", ACCEPTED[name])
    assert panoptic_quality_files(gt, other).quality.all.pq == 1
    assert panoptic_quality_files(other, gt).quality.all.pq == 1


def test_a_byte_order_mark_is_accepted(tmp_path: Path, gt: Path) -> None:
    other = panoptic.write(tmp_path / "other")
    other.write_bytes(b"\xef\xbb\xbf" + other.read_bytes())
    assert panoptic_quality_files(gt, other).quality.all.pq == 1


@pytest.mark.parametrize("role", ["prediction", "ground truth"])
@pytest.mark.parametrize("name", REFUSED)
def test_faulty_json_is_refused_in_one_line(name: str, role: str, tmp_path: Path, gt: Path) -> None:
    change, message = REFUSED[name]
    other = panoptic.write(tmp_path / "other", change)
    with pytest.raises(DataError, match=message) as error:
        panoptic_quality_files(*((gt, other) if role == "prediction" else (other, gt)))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_prediction_needs_no_categories_of_its_own(tmp_path: Path, gt: Path) -> None:
    other = panoptic.write(tmp_path / "other", lambda d: d.pop("categories"))
    assert panoptic_quality_files(gt, other).quality.all.pq == 1
    with pytest.raises(DataError, match='key "categories" is missing'):
        panoptic_quality_files(other, gt)


def test_fractions_of_stated_areas_count_as_in_the_coco_evaluation(tmp_path: Path, gt: Path) -> None:
    ids = panoptic.id_map()
    ids[4, 4:12] = 300  # 40 of the car's 48 pixels are left
    pred = panoptic.write(tmp_path / "pred", None, ids)
    exact = panoptic.write(tmp_path / "gt2", lambda d: rows(d)[1].update(area=47.5))
    found = panoptic_quality_files(exact, pred).quality.per_class[1].pq
    assert found == pytest.approx(40 / 47.5)


@pytest.mark.parametrize("name", BROKEN_TEXT)
def test_broken_text_is_refused_in_one_line(name: str, tmp_path: Path, gt: Path) -> None:
    change, message = BROKEN_TEXT[name]
    other = panoptic.write(tmp_path / "other")
    other.write_bytes(change(other.read_bytes()))
    with pytest.raises(DataError, match=message):
        panoptic_quality_files(gt, other)


def test_a_prediction_must_list_exactly_the_ids_of_its_png(tmp_path: Path, gt: Path) -> None:
    ids = panoptic.id_map()
    ids[22:] = 999
    with pytest.raises(DataError, match=r"a\.png.*image 1.*holds id 999"):
        panoptic_quality_files(gt, panoptic.write(tmp_path / "more", None, ids))
    extra = panoptic.write(tmp_path / "less", lambda d: rows(d).append({"id": 4, "category_id": 1}))
    with pytest.raises(DataError, match=r"image 1: .*segment 4, which has no pixel"):
        panoptic_quality_files(gt, extra)


def test_sizes_that_differ_are_both_named(tmp_path: Path, gt: Path) -> None:
    with pytest.raises(DataError, match="16×12 pixels, the ground truth 32×24"):
        panoptic_quality_files(gt, panoptic.write(tmp_path / "small", None, panoptic.id_map()[::2, ::2]))


@pytest.mark.parametrize("role", ["prediction", "ground truth"])
def test_exchanged_channels_are_recognised(role: str, tmp_path: Path, gt: Path) -> None:
    other = panoptic.write(tmp_path / "bgr")
    png = other.parent / "png" / "a.png"
    Image.fromarray(np.asarray(Image.open(png))[..., ::-1].copy()).save(png)
    with pytest.raises(DataError, match="not BGR"):
        panoptic_quality_files(*((gt, other) if role == "prediction" else (other, gt)))


# What golden/bad_inputs says of each folder as prediction; those not named are accepted.
SHARED_REFUSED = {
    *("png_missing", "png_id_not_in_json", "json_id_not_in_png", "unknown_category", "duplicate_segment_id"),
    *(
        "duplicate_image_annotation",
        "duplicate_image_id",
        "duplicate_category_id",
        "size_differs_png",
        "png_grey",
    ),
    *(
        "png_is_jpeg",
        "png_bgr",
        "annotation_without_image",
        "no_annotations",
        "empty_categories",
    ),
    *("no_isthing", "category_id_string", "segment_id_zero", "segment_id_too_large", "json_truncated"),
    *("json_empty", "json_list", "instances_json", "path_outside", "png_named_jpg_in_json"),
}
FAULTS_ONLY_OF_PREDICTIONS = {"png_id_not_in_json", "json_id_not_in_png"}
FAULTS_ONLY_OF_GROUND_TRUTH = {"no_categories"}


def test_shared_bad_inputs_are_refused_and_odd_ones_accepted(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = shared / "golden" / "bad_inputs" / "annotations"
    valid = str(folders / "valid" / "panoptic.json")
    names = sorted(f.name for f in folders.iterdir() if f.is_dir())
    assert set(names) >= SHARED_REFUSED
    for name in names:
        other = str(folders / name / "panoptic.json")
        for role, files in (("prediction", (valid, other)), ("ground truth", (other, valid))):
            refused = name in SHARED_REFUSED | FAULTS_ONLY_OF_GROUND_TRUTH and name not in (
                FAULTS_ONLY_OF_PREDICTIONS if role == "ground truth" else FAULTS_ONLY_OF_GROUND_TRUTH
            )
            assert main(["pq", *files, "--json"]) == (2 if refused else 0), (name, role)
            out, err = capsys.readouterr()
            if refused:
                assert out == "" and err.count("\n") == 1 and str(folders) in err, (name, role, err)
            else:
                assert json.loads(out).keys() == {"All", "Things", "Stuff", "per_class"}
    outside = str(folders / "path_outside" / "panoptic.json")
    assert main(["pq", valid, outside, "--pred-folder", str(folders / "valid" / "png")]) == 2
    assert "leads out of" in capsys.readouterr().err


def test_the_command_prints_percent_and_classes(gt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pq", str(gt), str(gt), "--per-class", "--processes", "2"]) == 0
    out = capsys.readouterr().out
    assert "100.0" in out and "person" in out and "1 images" in out


@pytest.mark.parametrize("name", ["cell [dead]", "a[/b]", ":car:", f"{'plate_' * 20}1"])
def test_the_command_prints_names_as_they_are(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt = panoptic.write(tmp_path / "gt", lambda d: d["categories"][0].update(name=name))
    assert main(["pq", str(gt), str(gt), "--per-class"]) == 0
    first = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert name in "".join(first)  # long ones go on in the next line


def test_the_command_refuses_a_missing_file_and_no_process(
    gt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pq", str(gt), str(gt.with_name("absent.json"))]) == 2
    assert "absent.json" in capsys.readouterr().err
    assert main(["pq", str(gt), str(gt), "--processes", "0"]) == 2
    assert "--processes 0" in capsys.readouterr().err
