"""`maskconver models`."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from maskconver.cli.main import main


def test_a_row_says_what_a_model_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "maskconver_r50_fpn*", "--num-classes", "201", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert (row["name"], row["parameters"], row["input"]) == (
        "maskconver_r50_fpn_640",
        42_066_569,
        [640, 640],
    )
    assert row["macs"] / 1e9 == pytest.approx(138.45, abs=0.005)


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
