"""`data stats`: figures that can be worked out by hand, and recipes that `train` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from maskconver.cli.main import main
from maskconver.data import dataset_stats, suggest_recipe
from maskconver.data.synth.write import write_dataset
from maskconver.errors import DataError

from .conftest import Spoil


def test_figures_of_three_segments(spoiled: Spoil) -> None:
    stats = dataset_stats(spoiled())
    assert (stats.images, len(stats.labels), stats.proposals) == (1, 3, 10)
    assert stats.sizes.tolist() == [[24, 32]]
    by_name = {row["name"]: row for row in stats.classes()}
    assert by_name["car"]["objects"] == 1 and by_name["car"]["median_side"] == pytest.approx(48**0.5)
    assert by_name["road"]["pixel_share"] == pytest.approx(608 / 768)
    assert sorted(map(tuple, stats.centers.tolist())) == [(6.5, 7.5), (12.5, 15.5), (15.5, 20.5)]
    assert (stats.channels, stats.bits) == (1, 8) or stats.mean == (pytest.approx(90 / 255, abs=1e-4),) * 3
    assert stats.grey and stats.span == 0


def test_png_files_are_opened_where_the_json_says_too_little(spoiled: Spoil) -> None:
    whole = dataset_stats(spoiled())

    def bare(content: dict) -> None:
        for row in content["annotations"][0]["segments_info"]:
            del row["bbox"]

    other = dataset_stats(spoiled(bare))
    assert other.centers.tolist() == whole.centers.tolist() and other.areas.tolist() == whole.areas.tolist()


def test_two_centres_in_one_cell(spoiled: Spoil) -> None:
    def close(content: dict) -> None:
        rows = content["annotations"][0]["segments_info"]
        rows[1]["bbox"], rows[2]["bbox"] = [8, 8, 2, 2], [9, 9, 3, 3]  # centres 8.5 and 10 of two classes

    stats = dataset_stats(spoiled(close))
    assert stats.collisions(4) == (pytest.approx(2 / 3), 0.0)
    assert stats.collisions(2) == (0.0, 0.0)
    assert stats.collisions(8, (96, 128)) == (0.0, 0.0)  # four times as large

    def of_one_class(content: dict) -> None:
        close(content)
        content["annotations"][0]["segments_info"][2]["category_id"] = 1

    assert dataset_stats(spoiled(of_one_class)).collisions(4) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_stuff_of_several_segments_counts_once_and_crowds_do_not(spoiled: Spoil) -> None:
    def change(content: dict) -> None:
        rows = content["annotations"][0]["segments_info"]
        rows[1]["category_id"], rows[2]["iscrowd"] = 40, 1

    stats = dataset_stats(spoiled(change))
    assert stats.labels.tolist() == [2] and stats.areas.tolist() == [608 + 48]


def test_a_label_folder_and_max_images(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for k in range(5):
        mask = np.zeros((20, 30), np.uint8)
        mask[:, :10] = 1
        Image.fromarray(mask).save(tmp_path / "labels" / f"{k}.png")
        Image.fromarray(np.full((20, 30, 3), (255, 0, 51), np.uint8)).save(tmp_path / "images" / f"{k}.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    stats = dataset_stats(tmp_path, max_images=3)
    assert stats.images == 5 and len(stats.sizes) == 3
    assert [row["pixel_share"] for row in stats.classes()] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert stats.mean == (1.0, 0.0, 0.2) and stats.std == (0.0, 0.0, 0.0) and not stats.grey
    recipe, reasons = suggest_recipe(stats)
    assert "no class is a thing" in reasons[0] and recipe["model"]["input"]["size"] == [96, 128]
    assert recipe["loss"]["semantic_balance"] == 0.5
    for label in (tmp_path / "labels").iterdir():
        label.write_bytes(b"")
    with pytest.raises(DataError, match="no annotation can be read"):
        dataset_stats(tmp_path)


def test_the_command_writes_a_recipe_and_does_not_replace_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", "cells", 2, size=(64, 80))
    words = ["data", "stats", str(tmp_path / "data"), "--write-recipe", str(tmp_path / "my.yaml")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "shares a heatmap cell" in shown and "proposals are enough" in shown
    recipe = yaml.safe_load((tmp_path / "my.yaml").read_text())
    assert recipe["model"]["name"].startswith("maskconver_")
    assert main(words) == 2 and "exists" in capsys.readouterr().err
    assert main([*words[:3], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == recipe
    assert main(["data", "stats", str(tmp_path / "nothing")]) == 2


@pytest.mark.parametrize("kind", ["scenes", "semantic", "six channels of 16 bits"])
def test_train_takes_every_suggestion(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    write_dataset(tmp_path, "scenes" if kind == "scenes" else "cells", 2, size=(64, 80))
    if kind == "semantic":
        content = json.loads((tmp_path / "panoptic_train.json").read_text())
        for category in content["categories"]:
            category["isthing"] = 0
        (tmp_path / "panoptic_train.json").write_text(json.dumps(content))
    if kind == "six channels of 16 bits":
        tifffile = pytest.importorskip("tifffile")
        for path in (tmp_path / "images" / "train").iterdir():  # the content decides, not the name
            grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
            bands = np.stack([grey * (k + 9) for k in range(6)], 2)
            tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    assert main(["train", "--config", "auto", "--data", str(tmp_path), "--print_config"]) == 0
    answer = capsys.readouterr()
    recipe = yaml.safe_load(answer.out)
    assert answer.err.count("auto: ") >= 4 and recipe["data"]["data"] == str(tmp_path)
    assert (recipe["init_from"], recipe["model"]["stuff"]) == ("facade", "semantic")
    if kind == "six channels of 16 bits":
        assert recipe["model"]["in_channels"] == 6 == len(recipe["model"]["input"]["mean"])
        assert recipe["model"]["input"]["bits"] == 16


@pytest.mark.parametrize(("kind", "start"), [("cells", "nuclei"), ("scenes", "facade")])
def test_one_kind_of_small_thing_in_grey_images_starts_from_nuclei(
    kind: str, start: str, tmp_path: Path
) -> None:
    write_dataset(tmp_path, kind, 2, size=(128, 160))
    recipe, reasons = suggest_recipe(dataset_stats(tmp_path))
    assert recipe["init_from"] == start and f"bundled model {start}" in reasons[-1]


def test_auto_without_data_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main(["train", "--config", "auto"]) == 2
    assert "--data DIR" in capsys.readouterr().err
