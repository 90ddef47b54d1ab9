"""Mean IoU: ignored pixels, missing predictions, and agreement of label maps with id maps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskconver.core.categories import Categories, Category
from maskconver.errors import DataError
from maskconver.metrics.mean_iou import MeanIoU
from maskconver.metrics.overlap import Overlap

CATEGORIES = Categories(
    [Category(i, name, False, (i, i, i)) for i, name in ((3, "sky"), (5, "road"), (9, "rail"))]
)


def test_iou_is_right_pixels_over_the_union() -> None:
    metric = MeanIoU(CATEGORIES)
    metric.update(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]))
    result = metric.compute()
    assert result.per_class[3] == 1 / 2
    assert result.per_class[5] == 2 / 3
    assert result.miou == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result.pixel_accuracy == 3 / 4


def test_ignored_pixels_do_not_count_at_all() -> None:
    metric = MeanIoU(CATEGORIES)
    metric.update(np.array([[0, 2, 1]]), np.array([[0, -1, -1]]))
    assert metric.compute().miou == 1
    assert metric.state.sum() == 1


def test_a_pixel_without_prediction_is_a_miss() -> None:
    metric = MeanIoU(CATEGORIES)
    metric.update(np.array([[0, -1]]), np.array([[0, 0]]))
    assert metric.compute().per_class[3] == 1 / 2


def test_classes_that_do_not_occur_are_not_in_the_mean() -> None:
    metric = MeanIoU(CATEGORIES)
    metric.update(np.array([[0]]), np.array([[0]]))
    assert metric.compute().miou == 1
    assert metric.compute().to_json() == {
        "miou": 1.0,
        "pixel_accuracy": 1.0,
        "per_class": {"3": 1.0, "5": None, "9": None},
    }


def test_nothing_seen_gives_no_number() -> None:
    assert math.isnan(MeanIoU(CATEGORIES).compute().miou)


def test_id_maps_give_what_their_label_maps_give() -> None:
    rng = np.random.default_rng(3)
    pred, gt = rng.integers(0, 5, (2, 9, 11))
    labels = np.array([-1, 0, 1, 2, 1])
    by_labels, by_ids = MeanIoU(CATEGORIES), MeanIoU(CATEGORIES)
    by_labels.update(labels[pred], labels[gt])
    rows = ([1, 2, 3, 4], labels[1:])
    by_ids.add(Overlap.of(pred, rows, gt, rows, categories=CATEGORIES))
    np.testing.assert_array_equal(by_labels.state, by_ids.state)


def test_states_add_up() -> None:
    one, two, both = (MeanIoU(CATEGORIES) for _ in range(3))
    a, b = np.array([[0, 1]]), np.array([[1, 1]])
    one.update(a, b)
    two.update(b, a)
    both.update(a, b)
    both.update(b, a)
    one.merge_state(two.state)
    assert one.compute().to_json() == both.compute().to_json()


@pytest.mark.parametrize(
    ("pred", "gt", "message"),
    [
        ([[0, 3]], [[0, 0]], "prediction has labels 0…3; possible are -1…2"),
        ([[0, 0]], [[0, 255]], "ground truth has labels 0…255"),
        ([[0]], [[0, 0]], "shape"),
        ([[0.5]], [[0]], "not integers"),
    ],
)
def test_nonsense_is_refused(pred: list, gt: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MeanIoU(CATEGORIES).update(np.array(pred), np.array(gt))
