"""The streaming metric: what it counts, what it refuses, and that it equals a plain definition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maskconver.core.categories import Categories, Category
from maskconver.core.segments import SegmentTable
from maskconver.errors import DataError
from maskconver.metrics.panoptic_quality import PanopticQuality

CATEGORIES = Categories(
    [
        Category(10, "cell", True, (255, 0, 0)),
        Category(20, "dust", True, (0, 255, 0)),
        Category(30, "background", False, (0, 0, 255)),
    ]
)


def table(
    ids: list[int], labels: list[int], crowd: list[bool] | None = None, areas: list[int] | None = None
) -> SegmentTable:
    n = len(ids)
    return SegmentTable(
        np.array(ids, np.int32),
        np.array(labels, np.int64),
        np.array(crowd or [False] * n, bool),
        np.array(areas or [0] * n, np.int64),
    )


def counts(metric: PanopticQuality, label: int) -> tuple[int, int, int]:
    tp, fp, fn, _ = metric.state[label]
    return int(tp), int(fp), int(fn)


def line(*runs: tuple[int, int]) -> NDArray[np.int32]:
    """A map of one row: (id, length) after (id, length)."""
    return np.repeat([i for i, _ in runs], [n for _, n in runs]).astype(np.int32)[None]


def evaluate(pred: NDArray, pred_rows: object, gt: NDArray, gt_rows: object) -> PanopticQuality:
    metric = PanopticQuality(CATEGORIES)
    metric.update(pred, pred_rows, gt, gt_rows)  # type: ignore[arg-type]
    return metric


def test_the_prediction_itself_has_quality_one() -> None:
    ids = line((7, 5), (9, 3), (0, 2))
    result = evaluate(ids, ([7, 9], [0, 2]), ids, ([7, 9], [0, 2])).compute()
    assert (result.all.pq, result.things.pq, result.stuff.pq) == (1, 1, 1)
    assert (result.all.n, result.things.n, result.stuff.n) == (2, 1, 1)


def test_an_iou_of_one_half_is_no_match() -> None:
    assert counts(evaluate(line((1, 4), (0, 4)), ([1], [0]), line((1, 8)), ([1], [0])), 0) == (0, 1, 1)


def test_void_is_left_out_of_the_union() -> None:
    metric = evaluate(line((1, 10)), ([1], [0]), line((1, 4), (0, 6)), ([1], [0]))
    assert counts(metric, 0) == (1, 0, 0)
    assert metric.state[0, 3] == 1


def test_predictions_mostly_in_void_are_ignored() -> None:
    metric = evaluate(line((1, 5), (2, 5)), ([1, 2], [0, 0]), line((0, 3), (4, 7)), ([4], [2]))
    assert counts(metric, 0) == (0, 1, 0)


def test_crowd_pixels_do_not_count_as_false_positives() -> None:
    ids = line((1, 5), (2, 5))
    crowd = table([3], [0], [True])
    assert counts(evaluate(ids, ([1, 2], [0, 0]), line((3, 10)), crowd), 0) == (0, 0, 0)


def test_crowd_excuses_only_its_own_class() -> None:
    assert counts(evaluate(line((1, 10)), ([1], [1]), line((3, 10)), table([3], [0], [True])), 1) == (0, 1, 0)


def test_crowd_is_never_a_miss() -> None:
    metric = evaluate(line((0, 10)), ([], []), line((3, 10)), table([3], [0], [True]))
    assert not metric.state.any()


def test_a_segment_without_pixels_in_the_ground_truth_is_a_miss() -> None:
    assert counts(evaluate(line((0, 4)), ([], []), line((0, 4)), ([5], [1])), 1) == (0, 0, 1)


def test_the_area_that_the_ground_truth_states_is_believed() -> None:
    ids = line((1, 10))
    metric = evaluate(ids, ([1], [0]), ids, table([1], [0], areas=[16]))
    assert metric.state[0, 3] == 10 / 16


def test_a_stated_area_that_would_give_an_iou_above_one_is_refused() -> None:
    ids = line((1, 10))
    with pytest.raises(DataError, match="more pixels than the stated area 3"):
        evaluate(ids, ([1], [0]), ids, table([1], [0], areas=[3]))


def test_groups_without_a_class_have_no_number() -> None:
    ids = line((1, 10))
    result = evaluate(ids, ([1], [0]), ids, ([1], [0])).compute()
    assert math.isnan(result.stuff.pq)
    assert result.to_json()["Stuff"] is None
    assert result.to_json()["per_class"]["30"]["tp"] == 0


def test_images_add_up_as_states_do() -> None:
    ids = line((1, 6), (2, 4))
    images = [
        (ids, ([1, 2], [0, 2]), ids[:, ::-1].copy(), ([1, 2], [0, 2])),
        (ids, ([1, 2], [1, 2]), ids, ([1, 2], [1, 2])),
    ]
    together, parts = PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES)
    for image in images:
        together.update(*image)
        parts.merge_state(evaluate(*image).state)
    np.testing.assert_array_equal(together.state, parts.state)


def test_a_state_of_other_categories_is_refused() -> None:
    with pytest.raises(DataError, match="3 categories"):
        PanopticQuality(CATEGORIES).merge_state(np.zeros((2, 4)))


def test_reset_forgets_everything() -> None:
    metric = evaluate(line((1, 4)), ([1], [0]), line((1, 4)), ([1], [0]))
    metric.reset()
    assert not metric.state.any()


@dataclass
class Row:
    id: int
    label: int


@pytest.mark.parametrize(
    "rows",
    [
        table([7, 9], [0, 2]),
        ([7, 9], [0, 2]),
        (np.array([7, 9]), np.array([0, 2])),
        [Row(7, 0), Row(9, 2)],
        (Row(7, 0), Row(9, 2)),
        [{"id": 7, "category_id": 10}, {"id": 9, "category_id": 30, "iscrowd": 0}],
        [{"id": n, "category_id": c, "iscrowd": None, "area": None} for n, c in ((7, 10), (9, 30))],
    ],
    ids=["table", "lists", "arrays", "segments", "tuple-of-segments", "coco-rows", "nulls"],
)
def test_segments_may_be_given_in_any_usual_form(rows: object) -> None:
    ids = line((7, 5), (9, 3), (0, 2))
    assert evaluate(ids, rows, ids, rows).compute().all.pq == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint32])
def test_id_maps_may_be_any_integers(dtype: type) -> None:
    ids = line((7, 5), (9, 3)).astype(dtype)
    assert evaluate(ids, ([7, 9], [0, 2]), ids.astype(np.int64), ([7, 9], [0, 2])).compute().all.pq == 1


@pytest.mark.parametrize(
    ("pred", "rows", "message"),
    [
        (line((1, 6), (2, 4)), ([1], [0]), "holds id 2, which is not listed"),
        (line((1, 10)), ([1, 2], [0, 0]), "lists segment 2, which has no pixel"),
        (line((1, 10)), ([1, 1], [0, 2]), "segment id 1 is listed twice"),
        (line((1, 10)), ([0, 1], [0, 2]), "segment id 0 is not possible"),
        (line((1, 10)), ([1], [3]), "labels 3…3 do not fit 0…2"),
        (line((1, 10)), ([1], [-1]), "labels -1…-1 do not fit"),
        (line((1, 10)), [{"id": 1, "category_id": 5}], "category 5 is not one of"),
        (line((1, 10)), [{"id": 1}], "a segment is a row with id and label"),
        (line((1, 10)), ([1], [0, 1]), "two lists of the same length"),
        (line((1, 11)), ([1], [0]), "11×1 pixels, the ground truth 10×1"),
        (line((1, 10)).astype(float), ([1], [0]), "H×W integers, not float64"),
        (line((1, 10))[0], ([1], [0]), "H×W integers"),
        (line((0x050000, 10)), ([5], [0]), "red and blue exchanged"),
    ],
)
def test_nonsense_is_refused_in_one_line(pred: NDArray, rows: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        evaluate(pred, rows, line((1, 10)), ([1], [0]))
    assert "\n" not in str(error.value)


def test_messages_name_the_image() -> None:
    with pytest.raises(DataError, match="image plate 7: "):
        PanopticQuality(CATEGORIES).update(line((1, 2)), ([], []), line((0, 2)), ([], []), image="plate 7")


def plain_definition(pred: NDArray, pred_rows: SegmentTable, gt: NDArray, gt_rows: SegmentTable) -> NDArray:
    """PQ's counts by masks and loops, straight from the rules."""
    counts = np.zeros((3, 4))
    void = gt == 0
    matched_gt, matched_pred = set(), set()
    for g, g_label, crowd in zip(gt_rows.ids, gt_rows.labels, gt_rows.crowd):
        for p, p_label in zip(pred_rows.ids, pred_rows.labels):
            a, b = gt == g, pred == p
            union = (a | b).sum() - (b & void).sum()
            if g_label == p_label and not crowd and union and (a & b).sum() / union > 0.5:
                counts[g_label] += [1, 0, 0, (a & b).sum() / union]
                matched_gt.add(g)
                matched_pred.add(p)
    for g, g_label, crowd in zip(gt_rows.ids, gt_rows.labels, gt_rows.crowd):
        counts[g_label, 2] += g not in matched_gt and not crowd
    for p, p_label in zip(pred_rows.ids, pred_rows.labels):
        excuse = void.copy()
        crowds = [
            g
            for g, c in zip(gt_rows.ids[gt_rows.labels == p_label], gt_rows.crowd[gt_rows.labels == p_label])
            if c
        ]
        excuse |= gt == crowds[-1] if crowds else False
        b = pred == p
        counts[p_label, 1] += p not in matched_pred and not (b & excuse).sum() / b.sum() > 0.5
    return counts


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_counts_equal_the_plain_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, n = rng.integers(1, 9, 3)
    coarse = rng.integers(0, n + 1, (height, width))
    gt = coarse * 65793 % (1 << 24)
    wrong = rng.random((height, width)) < rng.choice([0.1, 0.4])
    pred = np.where(wrong, rng.integers(0, n + 1, (height, width)), coarse) * 7
    gt_ids = np.arange(1, n + 1) * 65793 % (1 << 24)
    gt_rows = table(gt_ids.tolist(), rng.integers(0, 3, n).tolist(), (rng.random(n) < 0.3).tolist())
    pred_ids = np.unique(pred[pred > 0])
    labels = [
        int(gt_rows.labels[i // 7 - 1]) if rng.random() < 0.7 else int(rng.integers(3)) for i in pred_ids
    ]
    pred_rows = table(pred_ids.tolist(), labels)
    metric = evaluate(pred.astype(np.int32), pred_rows, gt.astype(np.int32), gt_rows)
    np.testing.assert_allclose(metric.state, plain_definition(pred, pred_rows, gt, gt_rows), atol=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64"])
def test_maps_of_every_integer_type_give_the_same(dtype: str) -> None:
    categories = Categories([Category(1, "a", True, (1, 2, 3)), Category(2, "b", False, (3, 4, 5))])
    gt = np.array([[1, 1, 2, 2], [1, 1, 2, 120]]).astype(dtype)  # 120 has no row: unlabelled
    pred = np.array([[1, 1, 2, 2], [1, 1, 2, 2]]).astype(dtype)
    metric = PanopticQuality(categories)
    metric.update(pred, ([1, 2], [0, 1]), gt, ([1, 2], [0, 1]))
    assert metric.compute().all.pq == 0.875


def test_a_map_that_has_listed_ids_is_not_called_bgr() -> None:
    categories = Categories([Category(1, "a", True, (1, 2, 3))])
    metric = PanopticQuality(categories)
    metric.update(np.array([[5, 5, 0]]), ([5], [0]), np.array([[5, 5, 5 << 16]]), ([5], [0]))
    assert metric.compute().all.pq == 1
