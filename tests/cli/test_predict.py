"""`maskconver predict`: files in, panoptic files and overlays out, one bad image never stops the others."""

import csv
import json
import os
import shutil
import sys
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import main
from maskconver.core.categories import Categories
from maskconver.core.config import PostprocessConfig
from maskconver.core.segmentation import Segmentation
from maskconver.inference.predictor import Predictor
from tests.fakes import CATEGORIES, FakeRuntime, bright_image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images in `in`, beside which the command runs; its model is `fake`."""
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: FakeRuntime())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    Image.fromarray(bright_image(60, 90)).save(tmp_path / "in" / "a.png")
    Image.fromarray(bright_image(40, 30)).save(tmp_path / "in" / "b.jpg", quality=95)
    return tmp_path


def read(folder):
    return json.loads((folder / "panoptic.json").read_text(encoding="utf-8"))


def test_a_folder_becomes_a_coco_panoptic_data_set(folder, capsys):
    assert main(["predict", "fake", "in", "--out", "out"]) == 0
    content = read(folder / "out")
    assert [i["file_name"] for i in content["images"]] == ["a.png", "b.jpg"]
    assert [(i["height"], i["width"]) for i in content["images"]] == [(60, 90), (40, 30)]
    assert Categories.from_json(content["categories"]) == CATEGORIES
    for image, row in zip(content["images"], content["annotations"]):
        assert row["image_id"] == image["id"]
        ids = np.asarray(Image.open(folder / "out" / "panoptic" / row["file_name"])).astype(int) @ [
            1,
            256,
            65536,
        ]
        assert ids.shape == (image["height"], image["width"])
        numbers, areas = np.unique(ids[ids > 0], return_counts=True)
        assert dict(zip(numbers.tolist(), areas.tolist())) == {
            s["id"]: s["area"] for s in row["segments_info"]
        }
    out = capsys.readouterr().out
    assert "2 images, 4 segments (2 cell, 2 ground)" in out and "images/s" in out
    assert not (folder / "out" / "overlays").exists()


def test_results_can_be_read_back_as_a_data_set(folder):
    import maskconver as mc

    main(["predict", "fake", "in", "--out", "out"])
    data = mc.data.CocoPanoptic("in", "out/panoptic.json", "out/panoptic")
    assert len(data) == 2 and (data[0].ids > 0).any()


@pytest.mark.parametrize("given", ["Größe.png", "C:\\data\\Größe.png"])
def test_image_ids_are_found_by_names_of_a_mac_and_of_windows(folder, given):
    (folder / "in" / "b.jpg").unlink()
    (folder / "in" / "a.png").rename(folder / "in" / unicodedata.normalize("NFD", "Größe.png"))
    truth = {"images": [{"id": 77, "file_name": given}], "categories": CATEGORIES.to_json()}
    (folder / "truth.json").write_text(json.dumps(truth | {"annotations": []}))
    assert main(["predict", "fake", "in", "--out", "out", "--ids-from", "truth.json"]) == 0
    assert [row["image_id"] for row in read(folder / "out")["annotations"]] == [77]


@pytest.mark.parametrize(
    "rows", [{}, {"annotations": [{"id": 1, "image_id": 7, "segmentation": [[1, 1, 5, 5, 3, 2]]}]}]
)
def test_image_ids_are_those_of_images_without_annotation_and_of_instances(folder, rows):
    images = [{"id": k, "file_name": name} for k, name in ((7, "a.png"), (8, "b.jpg"))]
    (folder / "truth.json").write_text(json.dumps({"images": images, **rows}))
    assert main(["predict", "fake", "in", "--out", "out", "--ids-from", "truth.json"]) == 0
    assert [row["image_id"] for row in read(folder / "out")["annotations"]] == [7, 8]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_text_fails_alone(folder, capsys):
    shutil.copy(folder / "in" / "a.png", os.fsencode(folder / "in") + b"/\xff.png")
    assert main(["predict", "fake", "in", "--out", "out"]) == 1
    assert "\\udcff.png: its name is not UTF-8; rename it" in capsys.readouterr().err
    assert len(read(folder / "out")["annotations"]) == 2


def test_images_of_kinds_that_are_not_read_are_not_passed_over_in_silence(folder, capsys):
    (folder / "in" / "c.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert main(["predict", "fake", "in", "--out", "out"]) == 0
    assert "1 files of kinds that are not read are passed over, e.g. in/c.HEIC" in capsys.readouterr().err
    assert main(["predict", "fake", "in/c.HEIC", "--out", "out"]) == 2
    assert "a HEIC image, not one of JPEG" in capsys.readouterr().err


def test_an_earlier_result_is_not_replaced_in_silence(folder, capsys):
    assert main(["predict", "fake", "in", "--out", "out"]) == 0
    assert "earlier" not in capsys.readouterr().err
    assert main(["predict", "fake", "in", "--out", "out"]) == 0
    assert "out holds an earlier result" in capsys.readouterr().err


def test_image_ids_are_taken_from_the_ground_truth_by_name(folder, capsys):
    main(["predict", "fake", "in", "--out", "truth"])
    truth = read(folder / "truth")
    for image, row in zip(truth["images"], truth["annotations"]):
        image["id"] = row["image_id"] = image["id"] + 70
    (folder / "truth" / "panoptic.json").write_text(json.dumps(truth))
    assert main(["predict", "fake", "in", "--out", "out", "--ids-from", "truth/panoptic.json"]) == 0
    assert [row["image_id"] for row in read(folder / "out")["annotations"]] == [71, 72]
    capsys.readouterr()
    assert main(["pq", "truth/panoptic.json", "out/panoptic.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["All"]["pq"] == 1
    (folder / "in" / "b.jpg").rename(folder / "in" / "c.jpg")
    assert main(["predict", "fake", "in", "--out", "out2", "--ids-from", "truth/panoptic.json"]) == 2
    assert "no image c.jpg" in capsys.readouterr().err


def test_results_go_to_a_labelling_tool_and_come_back_the_same(folder, capsys):
    import maskconver as mc

    (folder / "in" / "c.png").write_bytes(b"no image")
    command = ["predict", "fake", "in", "--out", "out", "--to", "labelme"]
    assert main(command) == 1
    assert f"labelme: {folder.joinpath('out', 'labelme').relative_to(folder)}" in capsys.readouterr().out
    assert main(["data", "convert", "out/labelme", "back", "--stuff", "ground"]) == 0
    first, again = mc.data.CocoPanoptic("in", "out/panoptic.json"), mc.data.open_dataset("back")
    for k in range(2):
        found = {number: again.ids(k) == number for number in again.segments(k).ids}
        masks = {number: first.ids(k) == number for number in first.segments(k).ids}
        assert len(found) == len(masks) == 2
        assert all(any((a == b).all() for a in found.values()) for b in masks.values())
    assert main(["data", "export", "out", "--to", "cvat", "--image-folder", "in"]) == 0
    assert (folder / "out_cvat/images/a.png").is_file()
    shape = json.loads((folder / "out/labelme/a.json").read_text())["shapes"][0]
    assert 0 < shape["score"] <= 1 and shape["description"].startswith("score 0.")
    assert main(command) == 2  # somebody may have corrected what is there
    assert "out/labelme: is there already" in capsys.readouterr().err
    assert main([*command, "--output-side", "20"]) == 2
    assert "leave out --output-side" in capsys.readouterr().err


def test_label_pngs_can_be_read_back_as_a_label_folder(folder):
    from maskconver.data.label_folder import LabelFolder

    assert main(["predict", "fake", "in", "--out", "out", "--labels"]) == 0
    data = LabelFolder("in", "out/labels", "out/classes.json")
    assert [c.name for c in data.categories] == [c.name for c in CATEGORIES]
    panoptic = read(folder / "out")
    for index, row in enumerate(panoptic["annotations"]):
        areas = {}
        for s in row["segments_info"]:
            areas[s["category_id"]] = areas.get(s["category_id"], 0) + s["area"]
        ids, counts = np.unique(data[index].ids, return_counts=True)
        assert {int(i): int(n) for i, n in zip(ids, counts) if i} == areas


@pytest.mark.parametrize(
    ("ids", "dtype", "values"),
    [
        ((1, 7), "uint8", (0, 6, 255)),
        ((0, 3), "uint8", (0, 1, 255)),
        ((5, 300), "uint16", (4, 299, 65535)),
        ((5, 100001), "uint8", (0, 1, 255)),  # which would wrap to another value
    ],
)
def test_values_of_label_pngs_are_ids_minus_one(tmp_path, ids, dtype, values):
    from maskconver.core.categories import Category
    from maskconver.core.segmentation import Segmentation
    from maskconver.io.results import label_writer

    categories = Categories([Category(i, f"c{i}", False, (i % 200, 1, 2)) for i in ids])
    found = Segmentation.from_ids(np.array([[1, 2, 0]], np.int32), categories, labels=[0, 1])
    label_writer(tmp_path, categories)(found, "a")
    written = np.asarray(Image.open(tmp_path / "labels" / "a.png"))
    assert written.dtype == dtype and tuple(written[0].tolist()) == values


def test_overlays_have_the_size_of_the_images(folder):
    assert main(["predict", "fake", "in/*.png", "--out", "out", "--overlay", "--no-masks"]) == 0
    assert Image.open(folder / "out" / "overlays" / "a.png").size == (90, 60)
    assert [p.name for p in (folder / "out").iterdir()] == ["overlays"]


def test_the_default_folder_is_predictions_and_earlier_results_are_no_input(folder):
    assert main(["predict", "fake", ".", "--overlay"]) == 0
    assert main(["predict", "fake", ".", "--overlay"]) == 0
    assert len(read(folder / "predictions")["images"]) == 2


def test_images_exported_earlier_are_no_input(folder):
    assert main(["predict", "fake", ".", "--to", "labelme"]) == 0
    assert main(["predict", "fake", "."]) == 0
    assert len(read(folder / "predictions")["images"]) == 2
    assert main(["predict", "fake", "predictions/labelme"]) == 0  # named by itself
    assert len(read(folder / "predictions")["images"]) == 2


def test_what_a_format_cannot_hold_costs_that_image_alone(folder, monkeypatch, capsys):
    ids = np.zeros((60, 90), np.int32)
    ids[:20, :20] = np.arange(1, 401).reshape(20, 20)
    many = Segmentation.from_ids(ids, CATEGORIES, labels=np.zeros(400, int))
    monkeypatch.setattr(Predictor, "_segmentations", lambda *_: [many])
    assert main(["predict", "fake", "in", "--out", "out", "--to", "panoptic-2ch"]) == 1
    assert len(read(folder / "out")["images"]) == 2
    told = capsys.readouterr().err
    assert "2 of 2 images failed" in told and "not in panoptic-2ch: more than 255 objects" in told


def test_images_with_the_same_name_do_not_overwrite_each_other(folder):
    (folder / "in" / "more").mkdir()
    for name in ("a.bmp", "more/a.png"):
        Image.fromarray(bright_image()).save(folder / "in" / name)
    assert main(["predict", "fake", "in", "--out", "out"]) == 0
    names = [row["file_name"] for row in read(folder / "out")["annotations"]]
    assert len(set(names)) == 4 and all((folder / "out" / "panoptic" / name).is_file() for name in names)


def test_json_figures(folder, capsys):
    assert main(["predict", "fake", "in", "--out", "out", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 2 and figures["segments"] == 4 and figures["failed"] == []
    assert figures["segments_by_category"] == {"cell": 2, "ground": 2} and figures["images_per_second"] > 0


def test_thresholds_on_the_command_line(folder, capsys):
    assert main(["predict", "fake", "in", "--out", "out", "--score-threshold", "0.85"]) == 0
    assert "2 segments (2 cell)" in capsys.readouterr().out
    assert main(["predict", "fake", "in", "--out", "out", "--min-area", "0.3"]) == 0
    assert "(2 ground)" in capsys.readouterr().out


def test_the_score_threshold_on_the_command_line_is_one_of_stuff_too(folder, monkeypatch, capsys):
    runtime = FakeRuntime()
    runtime.postprocess = PostprocessConfig(
        rule="kmax", score_threshold=0.7, stuff_threshold=0.5, min_area=0.0, mask_threshold=0.5
    )
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: runtime)
    assert main(["predict", "fake", "in", "--out", "out"]) == 0
    assert "4 segments" in capsys.readouterr().out
    assert main(["predict", "fake", "in", "--out", "out", "--score-threshold", "0.85"]) == 0
    assert "2 segments (2 cell)" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--output-side", "0"), ("--score-threshold", "2")])
def test_options_that_mean_nothing_are_refused_once_before_any_image(folder, capsys, words):
    assert main(["predict", "fake", "in", "--out", "out", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("algorithm", ["fast", "reference"])
def test_the_algorithm_on_the_command_line(folder, capsys, algorithm):
    assert main(["predict", "fake", "in", "--out", "out", "--algorithm", algorithm]) == 0
    assert "4 segments" in capsys.readouterr().out
    assert main(["predict", "fake", "in", "--out", "out", "--algorithm", "best"]) == 2


@pytest.mark.parametrize("words", [["--merge", "fast"], ["--merge=coarse"]])
def test_the_old_name_of_the_algorithm_is_refused_with_the_new_one(folder, capsys, words):
    assert main(["predict", "fake", "in", "--out", "out", *words]) == 2
    assert "--merge is now called --algorithm; it takes fast or reference" in capsys.readouterr().err


def test_bad_images_are_listed_at_the_end_and_the_others_done(folder, capsys):
    (folder / "in" / "empty.png").write_bytes(b"")
    data = (folder / "in" / "a.png").read_bytes()
    (folder / "in" / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "in" / "page.png").write_text("<html>", encoding="utf-8")
    assert main(["predict", "fake", "in", "missing.png", "--out", "out"]) == 1
    captured = capsys.readouterr()
    assert "4 of 6 images failed" in captured.err
    for name in ("in/empty.png: ", "in/cut.png: ", "in/page.png: ", "missing.png: no such file"):
        assert captured.err.count(name) == 1
    assert len(read(folder / "out")["annotations"]) == 2


def test_warnings_about_images_are_one_line_each_at_the_end(folder, capsys):
    Image.fromarray(np.full((9, 9), 1000, np.uint16)).save(folder / "in" / "dark.png")
    assert main(["predict", "fake", "in", "--out", "out"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert (
        lines[0] == "1 warning:"
        and lines[1].startswith("  in/dark.png: ")
        and "--white-level 4095" in lines[1]
    )


def test_a_network_that_fails_on_one_image_does_not_stop_the_others(folder, monkeypatch, capsys):
    class Weak(FakeRuntime):
        def __call__(self, images):
            if len(self.shapes) == 0:
                self.shapes.append(images.shape)
                raise RuntimeError("out of memory\nin a long story")
            return super().__call__(images)

    weak = Weak()
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: weak)
    assert main(["predict", "fake", "in", "--out", "out"]) == 1
    assert "in/a.png: out of memory in a long story" in capsys.readouterr().err


def test_a_single_bad_image_is_refused_in_one_line_and_leaves_no_json(folder, capsys):
    (folder / "bad.png").write_bytes(b"\x89PNG")
    assert main(["predict", "fake", "bad.png", "--out", "out"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize("path", ["missing.png", "in/*.webp", "nowhere"])
def test_inputs_that_do_not_exist_are_refused(folder, capsys, path):
    assert main(["predict", "fake", path, "--out", "out"]) == 2
    assert path in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_refused_before_any_work(folder, capsys, monkeypatch):
    monkeypatch.setattr(
        "maskconver.inference.predictor.open_runtime", lambda *_, **__: pytest.fail("work was begun")
    )
    (folder / "file").write_text("")
    for out in ("file", "file/below"):
        assert main(["predict", "fake", "in", "--out", out]) == 2
        assert f"cannot write to {out}" in capsys.readouterr().err


def test_larger_images_than_allowed_are_refused(folder, capsys):
    assert main(["predict", "fake", "in", "--out", "out", "--max-pixels", "2000"]) == 1
    assert "--max-pixels 5400" in capsys.readouterr().err


def test_nothing_to_write_is_refused(folder, capsys):
    assert main(["predict", "fake", "in", "--no-masks"]) == 2
    assert "--overlay" in capsys.readouterr().err


def test_an_unknown_model_is_refused(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(bright_image()).save("a.png")
    assert main(["predict", "no-such-model", "a.png"]) == 2
    assert "no-such-model" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_done_in_a_whole_json(folder, monkeypatch):
    class Stopped(FakeRuntime):
        def __call__(self, images):
            if self.shapes:
                raise KeyboardInterrupt
            return super().__call__(images)

    stopped = Stopped()
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: stopped)
    assert main(["predict", "fake", "in", "--out", "out"]) == 130
    assert [row["file_name"] for row in read(folder / "out")["annotations"]] == ["a.png"]


def test_a_full_disk_leaves_nothing_half_written(folder, monkeypatch, capsys):
    def full(path, ids):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("maskconver.io.results.write_panoptic_png", full)
    assert main(["predict", "fake", "in", "--out", "out"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((folder / "out").iterdir()) == []


def test_the_shared_bad_images(folder, shared, capsys):
    images = shared / "golden" / "bad_inputs" / "images"
    assert main(["predict", "fake", str(images), "--out", "out", "--json"]) == 1
    figures = json.loads(capsys.readouterr().out)
    refused = {
        "truncated.jpg", "truncated_header.jpg", "truncated.png", "bad_crc.png", "empty.png", "text.jpg",
        "html_error_page.png", "zero_width.png", "huge_dimensions.png", "bomb_16k.png",
    }  # fmt: skip
    assert {row["file"].removeprefix(f"{images}/") for row in figures["failed"]} == refused
    assert figures["images"] + len(refused) == len(list(images.iterdir()))


def test_where_the_time_went_is_said_by_stage(folder, capsys):
    assert main(["predict", "fake", "in", "--out", "out"]) == 0
    out = capsys.readouterr().out
    for stage in ("network", "postprocess", "waiting", "in other threads decode", "prepare", "write"):
        assert f"{stage} " in out.split("images/s from reading to writing")[1]
    assert main(["predict", "fake", "in", "--out", "out", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures["seconds"]) == {
        *("total", "decode", "prepare", "network", "postprocess", "write", "waiting"),
    }
    assert set(figures["overlapped"]) == {"decode", "prepare", "write"}
    assert figures["images_per_second"] == pytest.approx(2 / figures["seconds"]["total"], rel=0.05)


def test_many_images_keep_their_order_however_many_threads_read(folder):
    for number in range(20):
        Image.fromarray(bright_image(20 + number, 30)).save(folder / "in" / f"n{number:02d}.png")
    for threads in (1, 4):
        assert main(["predict", "fake", "in", "--out", "out", "--threads", str(threads)]) == 0
        names = [i["file_name"] for i in read(folder / "out")["images"]]
        assert names == ["a.png", "b.jpg", *(f"n{n:02d}.png" for n in range(20))]
    assert main(["predict", "fake", "in", "--threads", "0"]) == 2


def test_reduced_jpegs_keep_their_size_and_are_not_drawn_on(folder, capsys):
    Image.fromarray(bright_image(400, 600)).save(folder / "in" / "large.jpg")
    assert main(["predict", "fake", "in", "--out", "out", "--draft-jpeg"]) == 0
    sizes = {i["file_name"]: (i["height"], i["width"]) for i in read(folder / "out")["images"]}
    assert sizes == {"a.png": (60, 90), "b.jpg": (40, 30), "large.jpg": (400, 600)}
    capsys.readouterr()
    assert main(["predict", "fake", "in", "--out", "out", "--draft-jpeg", "--overlay"]) == 2
    assert "use one of the two" in capsys.readouterr().err


def test_ctrl_c_while_an_image_is_written_finishes_that_one(folder, monkeypatch):
    from maskconver.io import results as panoptic_writer

    interrupted = threading.Event()
    write = panoptic_writer.write_panoptic_png

    def slow(path, ids):
        assert interrupted.wait(10)
        write(path, ids)

    class Stopped(FakeRuntime):
        def __call__(self, images):
            if self.shapes:
                interrupted.set()
                raise KeyboardInterrupt
            return super().__call__(images)

    stopped = Stopped()
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: stopped)
    monkeypatch.setattr("maskconver.io.results.write_panoptic_png", slow)
    assert main(["predict", "fake", "in", "--out", "out"]) == 130
    assert [row["file_name"] for row in read(folder / "out")["annotations"]] == ["a.png"]
    assert [p.name for p in (folder / "out" / "panoptic").iterdir()] == ["a.png"]


def test_a_disk_that_fills_up_later_ends_the_run_in_one_line_without_a_json(folder, monkeypatch, capsys):
    from maskconver.io import results as panoptic_writer

    write = panoptic_writer.write_panoptic_png

    def full(path, ids):
        if path.stem == "b":
            raise OSError(28, "No space left on device", str(path))
        write(path, ids)

    monkeypatch.setattr("maskconver.io.results.write_panoptic_png", full)
    assert main(["predict", "fake", "in", "--out", "out"]) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err and err.count("\n") == 1
    assert [p.name for p in (folder / "out").iterdir()] == ["panoptic"]


def test_tables_and_polygons_are_written_beside_the_masks(folder, capsys):
    options = ["--table", "out/cells.csv", "--geojson", "--intensity", "--pixel-size", "0.5"]
    assert main(["predict", "fake", "in", "--out", "out", *options]) == 0
    with (folder / "out" / "cells.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    written = [s for row in read(folder / "out")["annotations"] for s in row["segments_info"]]
    assert [(int(r["id"]), int(r["area"])) for r in rows] == [(s["id"], s["area"]) for s in written]
    assert [r["image"] for r in rows] == ["a.png", "a.png", "b.jpg", "b.jpg"]
    assert float(rows[0]["area_physical"]) == int(rows[0]["area"]) / 4
    assert float(rows[0]["mean_intensity"]) > 200 > 50 > float(rows[1]["mean_intensity"])
    features = json.loads((folder / "out" / "geojson" / "a.geojson").read_text(encoding="utf-8"))["features"]
    assert [f["properties"]["classification"]["name"] for f in features] == ["cell", "ground"]
    assert "polygons: out/geojson" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--intensity"], ["--pixel-size", "2"], ["--table", "t.csv", "--pixel-size", "-1"]]
)
def test_options_of_a_table_that_mean_nothing_are_refused(folder, options, capsys):
    assert main(["predict", "fake", "in", *options]) == 2
    assert options[-2 if len(options) > 1 else 0] in capsys.readouterr().err


def test_images_of_one_name_keep_their_folders_and_get_the_ids_of_their_own(folder):
    rows = []
    for number, town in enumerate(("aachen", "bonn"), 5):
        (folder / "in" / town).mkdir()
        Image.fromarray(bright_image(40, 30)).save(folder / "in" / town / "0.png")
        rows.append({"id": number, "file_name": f"{town}/0.png", "height": 40, "width": 30})
    truth = {"images": rows, "annotations": [], "categories": CATEGORIES.to_json()}
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    paths = ["in/aachen", "in/bonn"]
    assert main(["predict", "fake", *paths, "--out", "out", "--ids-from", "truth.json"]) == 0
    assert [i["id"] for i in read(folder / "out")["images"]] == [5, 6]
    (folder / "in" / "a.png").unlink()
    (folder / "in" / "b.jpg").unlink()
    assert main(["predict", "fake", "in", "--out", "all", "--ids-from", "truth.json"]) == 0
    content = read(folder / "all")
    assert {i["id"]: i["file_name"] for i in content["images"]} == {5: "aachen/0.png", 6: "bonn/0.png"}
    assert len({a["file_name"] for a in content["annotations"]}) == 2


def test_images_that_cannot_be_told_apart_get_no_ids(folder, capsys):
    for town in ("aachen", "bonn"):
        (folder / "in" / town).mkdir()
        Image.fromarray(bright_image(40, 30)).save(folder / "in" / town / "0.png")
    rows = [{"id": 1, "file_name": "0.png", "height": 40, "width": 30}]
    truth = {"images": rows, "annotations": [], "categories": CATEGORIES.to_json()}
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    words = ["in/aachen", "in/bonn", "--out", "out", "--ids-from", "truth.json"]
    assert main(["predict", "fake", *words]) == 2
    assert "same id" in capsys.readouterr().err


def test_labels_come_from_the_panoptic_result_or_from_the_scores_of_all_masks(folder, monkeypatch):
    strict = FakeRuntime()
    strict.postprocess = PostprocessConfig(score_threshold=0.95)  # nothing is claimed
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: strict)

    def labels(*more: str) -> set[int]:
        assert main(["predict", "fake", "in", "--out", "out", "--labels", *more]) == 0
        return set(np.unique(np.asarray(Image.open(folder / "out" / "labels" / "a.png"))).tolist())

    assert labels() == {255}
    assert labels("--semantic-from", "scores") == {2, 7}  # category ids minus 1
    strict.postprocess = PostprocessConfig(rule="kmax", score_threshold=0.95)
    assert labels() == {2, 7}  # as this model's papers do
    assert labels("--semantic-from", "panoptic") == {255}


def test_a_choice_about_labels_without_labels_is_refused(folder, capsys):
    assert main(["predict", "fake", "in", "--semantic-from", "scores"]) == 2
    assert "add --labels" in capsys.readouterr().err


def test_large_tiffs_are_read_and_written_in_tiles(folder, monkeypatch, capsys):
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr(
        "maskconver.inference.predictor.open_runtime", lambda *_, **__: FakeRuntime("native", (64, 64))
    )
    monkeypatch.setattr("maskconver.inference.predictor.WINDOWED", 1)
    monkeypatch.setattr("maskconver.cli.predict.results.LARGE", 60 * 90)
    monkeypatch.setattr("maskconver.core.exchange.BAND_PIXELS", 1000)
    image = bright_image(300, 400)
    tifffile.imwrite(folder / "in" / "big.tif", image, tile=(64, 64), compression="zlib", photometric="rgb")
    options = ["--out", "out", "--tile", "128", "--overlap", "48", "--table", "t.csv"]
    assert main(["predict", "fake", "in", *options]) == 0
    ids = tifffile.imread(folder / "out" / "large" / "big.tif")
    assert ids.shape == (300, 400) and (ids[image[..., 0] > 0] == ids[100, 200]).mean() > 0.98
    (feature,) = json.loads((folder / "out" / "large" / "big.geojson").read_text())["features"]
    assert feature["properties"]["measurements"]["area"] == (ids == ids[100, 200]).sum()
    assert [row["file_name"] for row in read(folder / "out")["annotations"]] == ["a.png", "b.png"]
    assert "1 too large for a PNG" in capsys.readouterr().out
    assert main(["predict", "fake", "in/big.tif", "--out", "out2", "--tile", "128", "--overlay"]) != 0
    assert "leave it out" in capsys.readouterr().err


def test_tiles_are_an_option_of_predict_and_evaluate(folder, capsys):
    assert main(["predict", "fake", "in", "--out", "out", "--tile", "32", "--skip-empty"]) == 0
    assert main(["predict", "fake", "in", "--tile", "none", "--overlap", "9"]) == 2
    assert "--overlap applies to tiles; also give --tile" in capsys.readouterr().err
    assert main(["predict", "fake", "in", "--tile", "32", "--overlap", "32"]) == 2
    assert "--overlap 32 must be" in capsys.readouterr().err


def test_an_annotation_is_not_replaced(folder, capsys):
    annotation = '{"annotations": [{"segments_info": [{"id": 1, "area": 4}]}]}'
    Path("panoptic.json").write_text(annotation)
    assert main(["predict", "fake", "in", "--out", "."]) == 2
    assert "panoptic.json is an annotation and would be replaced" in capsys.readouterr().err
    assert Path("panoptic.json").read_text() == annotation


@pytest.mark.parametrize("name", ["panoptic", "overlays", "labels"])
def test_images_are_not_replaced_by_their_results(folder, capsys, name):
    Path("in").rename(name)
    assert main(["predict", "fake", name, "--out", "."]) == 2
    assert "could be replaced by its result" in capsys.readouterr().err


def test_a_table_never_replaces_an_image(folder, capsys):
    image = next(Path("in").iterdir())
    before = image.read_bytes()
    assert main(["predict", "fake", "in", "--out", "out", "--table", str(image)]) == 2
    assert "must end in .csv" in capsys.readouterr().err
    assert image.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_are_passed_over_and_links_in_a_circle_fail_alone(folder, capsys):
    os.mkfifo("in/pipe.png")
    Path("in/self.png").symlink_to("self.png")
    assert main(["predict", "fake", "in", "--out", "out"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 images") and "1 of 3 images failed" in err and "self.png" in err


@pytest.mark.parametrize("number", [65535, 65536, 70_000])
def test_label_pngs_tell_classes_of_any_id_apart_from_no_class(tmp_path: Path, number: int) -> None:
    from maskconver.io.results import label_writer

    rows = [{"id": number, "name": "far", "isthing": 0}, {"id": 1, "name": "near", "isthing": 1}]
    categories = Categories.from_json(rows)
    found = Segmentation.from_ids(np.array([[1, 2, 0]]), categories, labels=[0, 1])
    label_writer(tmp_path, categories)(found, "a")
    classes = json.loads((tmp_path / "classes.json").read_text())
    values = np.asarray(Image.open(tmp_path / "labels" / "a.png"))[0].tolist()
    assert values == [*(row["label"] for row in classes["classes"]), classes["ignore"]]
    assert len(set(values)) == 3


@pytest.mark.parametrize("more", [["--geojson"], ["--table", "t.csv", "--pixel-size", "0.5"]])
def test_places_and_lengths_of_the_image_are_not_given_of_a_result_of_another_size(
    folder: Path, capsys: pytest.CaptureFixture, more: list[str]
) -> None:
    assert main(["predict", "fake", "in", "--output-side", "20", *more]) == 2
    assert "leave out --output-side" in capsys.readouterr().err
