"""`maskconver models`."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from maskconver.cli.main import main
from maskconver.core.files import WEIGHTS
from maskconver.models.checkpoint import read_metadata


def test_a_row_says_what_a_model_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "maskconver_r50_fpn*", "--num-classes", "201", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert (row["name"], row["parameters"], row["input"]) == (
        "maskconver_r50_fpn_640",
        42_066_569,
        [640, 640],
    )
    assert row["macs"] / 1e9 == pytest.approx(138.45, abs=0.005)


def test_our_own_figures_stand_beside_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "maskconver_mobile_*", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in answer["models"]}
    assert rows["maskconver_mobile_256"]["published"] == "COCO PQ 29.7"
    shipped = read_metadata(WEIGHTS / "nuclei.safetensors")
    ours = rows[shipped["model"]]["ours"]
    assert f"nuclei PQ {100 * shipped['extra']['metrics']['val/pq_things']:.1f} (things)" in ours
    assert main(["models", "maskconver_mobile_dense*"]) == 0
    assert "nuclei PQ 77.3 (things)" in capsys.readouterr().out


def test_the_graph_lists_modules_with_their_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "maskconver_mobile_256", "--graph", "--depth", "1"]) == 0
    out = capsys.readouterr().out
    assert "MobileNetMH" in out and "3: 64×32×32" in out
    assert main(["models", "maskconver_mobile_256", "--graph", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["maskconver_mobile_256"]
    assert rows[0]["name"] == "backbone" and rows[0]["parameters"] == 1_661_280


def test_a_pattern_without_a_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "nothing*"]) == 2
    assert 'no model matches "nothing*"' in capsys.readouterr().err
