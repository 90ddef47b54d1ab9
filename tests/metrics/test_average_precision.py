"""AP at one IoU pooled over the set, and COCO mask AP."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from maskconver.core.categories import Categories, Category
from maskconver.core.rle import encode_segments
from maskconver.core.segmentation import Instances
from maskconver.errors import DataError, MissingExtraError
from maskconver.metrics.average_precision import PooledAPResult, pooled_average_precision
from maskconver.metrics.mask_ap import MaskAveragePrecision
from maskconver.metrics.panoptic_quality import PanopticQuality

CATEGORIES = Categories([Category(1, "cell", True, (1, 1, 1)), Category(2, "background", False, (2, 2, 2))])


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A prediction with one cell right, one too small, one invented, against three cells."""
    gt, pred = np.full((12, 30), 9, np.int32), np.full((12, 30), 9, np.int32)
    gt[2:10, 1:9], gt[2:10, 11:19], gt[0:2, 21:29] = 1, 2, 3
    pred[2:10, 1:9], pred[2:5, 11:19], pred[6:10, 21:29] = 4, 5, 6
    return pred, gt


PRED, GT = ([4, 5, 6, 9], [0, 0, 0, 1]), ([1, 2, 3, 9], [0, 0, 0, 1])


def pooled(pred: np.ndarray, pred_rows: tuple, gt: np.ndarray, gt_rows: tuple) -> PooledAPResult:
    metric = PanopticQuality(CATEGORIES)
    metric.update(pred, pred_rows, gt, gt_rows)
    return pooled_average_precision(metric.state, CATEGORIES)


def test_ap_is_hits_over_hits_misses_and_inventions() -> None:
    pred, gt = scene()
    result = pooled(pred, PRED, gt, GT)
    assert (result.tp, result.fp, result.fn) == (1, 2, 2)
    assert result.ap == 1 / 5
    assert result.to_json()["per_class"] == {"1": 1 / 5}


def test_stuff_is_left_out() -> None:
    ids = np.full((2, 2), 9)
    result = pooled(ids, ([9], [1]), ids, ([9], [1]))
    assert math.isnan(result.ap)
    assert result.to_json()["ap"] is None


def test_run_length_codes_decode_to_the_segments() -> None:
    rng = np.random.default_rng(5)
    ids = np.repeat(np.repeat(rng.integers(0, 6, (5, 7)), 3, 0), 2, 1)
    for segment, (rle, area) in zip((1, 4, 77), encode_segments(ids, np.array([1, 4, 77]))):
        values = np.arange(len(rle["counts"])) % 2
        mask = np.repeat(values, rle["counts"]).reshape(ids.shape[::-1]).T
        np.testing.assert_array_equal(mask, ids == segment)
        assert area == (ids == segment).sum()


def mask_ap(scores: list[float], **options: int) -> float:
    pytest.importorskip("hotcoco")
    metric = MaskAveragePrecision(CATEGORIES, **options)
    pred, gt = scene()
    metric.update(pred, PRED, scores, gt, GT)
    return metric.compute().ap50


def test_mask_ap_rewards_scores_that_put_hits_first() -> None:
    # One of three cells is found; if ranked first, precision is 1 up to recall 1/3 (34 of 101 recall points).
    assert mask_ap([0.9, 0.5, 0.4, 1.0]) == pytest.approx(34 / 101)
    assert mask_ap([0.4, 0.9, 0.5, 1.0]) == pytest.approx(34 / 101 / 3)


def test_mask_ap_counts_no_more_detections_than_asked() -> None:
    assert mask_ap([0.4, 0.9, 0.5, 1.0], max_detections=1) == 0


def test_mask_ap_without_detections_is_zero_and_without_objects_no_number() -> None:
    pytest.importorskip("hotcoco")
    metric = MaskAveragePrecision(CATEGORIES)
    assert math.isnan(metric.compute().ap)
    metric.update(np.zeros((12, 30), int), ([], []), [], scene()[1], GT)
    assert metric.compute().ap == 0
    assert metric.compute().to_json()["APl"] is None


@pytest.mark.parametrize("found", [0, 4])
def test_mask_ap_of_crowds_alone_is_no_number(found: int) -> None:
    pytest.importorskip("hotcoco")
    metric = MaskAveragePrecision(CATEGORIES)
    gt = np.full((4, 4), 1, np.int32)
    pred = ([found], [0]) if found else ([], [])
    crowd = [{"id": 1, "category_id": 1, "iscrowd": 1}]
    metric.update(gt * found, pred, [0.5] * len(pred[0]), gt, crowd)
    assert math.isnan(metric.compute().ap) and metric.errors() is None


def test_mask_ap_of_merged_parts_is_that_of_the_whole() -> None:
    pytest.importorskip("hotcoco")
    pred, gt = scene()
    one, two, whole = (MaskAveragePrecision(CATEGORIES) for _ in range(3))
    for metric, scores in ((one, [0.9, 0.5, 0.4, 1]), (two, [0.3, 0.6, 0.2, 1])):
        metric.update(pred, PRED, scores, gt, GT)
        whole.update(pred, PRED, scores, gt, GT)
    one.merge_state(two.state)
    assert one.compute().to_json() == whole.compute().to_json()


def test_mask_ap_wants_one_score_a_segment() -> None:
    with pytest.raises(DataError, match="4 segments need one score each"):
        mask_ap([0.5])


def test_mask_ap_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(MissingExtraError, match=r"maskconver\[ap\]"):
        MaskAveragePrecision(CATEGORIES)


def test_mask_ap_takes_instances_that_overlap() -> None:
    pytest.importorskip("hotcoco")
    metric = MaskAveragePrecision(CATEGORIES)
    pred, gt = scene()
    masks = np.stack([pred == 4, np.isin(pred, (4, 5)), pred == 9])
    metric.update_instances(Instances(masks, np.array([0, 0, 1]), np.float32([0.9, 0.8, 1])), gt, GT)
    assert metric.compute().ap50 == pytest.approx(34 / 101)  # the hit comes first, stuff counts nowhere
    with pytest.raises(DataError, match="the masks have shape"):
        metric.update_instances(Instances(masks, np.array([0, 0, 1]), np.ones(3)), gt[1:], GT)
