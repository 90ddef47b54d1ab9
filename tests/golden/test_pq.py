"""Panoptic quality equals the COCO evaluation (panopticapi) on every case, from files and from arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskconver.io.panoptic_json import read_panoptic_json, read_panoptic_png
from maskconver.metrics.files import panoptic_quality_files
from maskconver.metrics.panoptic_quality import PanopticQuality

OWN = sorted((Path(__file__).parent / "cases" / "pq").glob("[0-9]*"))
REAL = ("40_nuclei", "41_coco", "42_camvid_stuff")
FIGURES = ("All", "Things", "Stuff", "per_class", "per_image")

pytestmark = pytest.mark.golden


def assert_as_expected(found: Any, expected: Any, where: str) -> None:
    """Counts, ids and keys exactly, floats to 1e-9."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_as_expected(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, pair in enumerate(zip(found, expected)):
            assert_as_expected(*pair, f"{where}/{i}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-9, rel=0), where
    else:
        assert found == expected, where


def check_files(case: Path) -> None:
    result = panoptic_quality_files(case / "gt.json", case / "pred.json", details=True)
    expected = json.loads((case / "expected.json").read_text())
    for key in FIGURES:
        assert_as_expected(result.quality.to_json()[key], expected[key], key)


@pytest.mark.parametrize("case", OWN, ids=lambda case: case.name)
def test_evaluation_of_files_gives_the_official_figures(case: Path) -> None:
    check_files(case)


@pytest.mark.parametrize("name", REAL)
def test_evaluation_of_real_annotations_gives_the_official_figures(name: str, shared: Path) -> None:
    check_files(shared / "golden" / "pq" / name)


# What case 29 is about, the area stated in the JSON, is not in the arrays.
@pytest.mark.parametrize("case", [c for c in OWN if not c.name.startswith("29")], ids=lambda case: case.name)
def test_streaming_over_arrays_gives_the_official_figures(case: Path) -> None:
    gt = read_panoptic_json(case / "gt.json")
    pred = read_panoptic_json(case / "pred.json", categories=gt.categories)
    metric = PanopticQuality(gt.categories, details=True)
    for i, image_id in enumerate(gt.image_ids):
        j = pred.index_of[image_id]
        pred_ids = read_panoptic_png(case / "pred" / pred.png_names[j])
        gt_ids = read_panoptic_png(case / "gt" / gt.png_names[i])
        table = gt.table(i)
        table.areas[:] = 0
        pred_rows = (pred.table(j).ids, pred.table(j).labels)
        metric.update(pred_ids, pred_rows, gt_ids, table, image=image_id)
    expected = json.loads((case / "expected.json").read_text())
    for key in FIGURES:
        assert_as_expected(metric.compute().to_json()[key], expected[key], key)


def test_there_are_31_cases() -> None:
    assert [int(case.name[:2]) for case in OWN] == list(range(1, 32))
