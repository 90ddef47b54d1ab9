"""Mean intersection over union of semantic segmentation, from a confusion matrix of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.categories import VOID_LABEL, Categories
from ..errors import DataError
from .overlap import Counts, Overlap


@dataclass(frozen=True, slots=True)
class MeanIoUResult:
    """Fractions 0…1.

    Attributes:
        miou: mean over the classes that occur in prediction or ground truth; NaN if none does.
        pixel_accuracy: share of the labelled pixels that are right; NaN if none is labelled.
        per_class: IoU by category id, NaN for a class that does not occur.
    """

    miou: float
    pixel_accuracy: float
    per_class: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        """The same with null for NaN and category ids as text."""
        classes = {str(i): None if math.isnan(v) else v for i, v in self.per_class.items()}
        figures = {"miou": self.miou, "pixel_accuracy": self.pixel_accuracy}
        return {k: None if math.isnan(v) else v for k, v in figures.items()} | {"per_class": classes}


def mean_iou(confusion: NDArray[np.int64], categories: Categories) -> MeanIoUResult:
    """IoU = TP / (TP + FP + FN) of each class over all pixels of the set, and its mean.

    Args:
        confusion: (C, C+1) int64 pixels. Rows: true label; columns: predicted label, void last.
        categories: the C categories.
    """
    right = np.diagonal(confusion).astype(float)
    union = confusion.sum(axis=1) + confusion[:, :-1].sum(axis=0) - right
    iou = np.full(len(categories), np.nan)
    np.divide(right, union, out=iou, where=union > 0)
    total = int(confusion.sum())
    return MeanIoUResult(
        float(np.nanmean(iou)) if total else math.nan,
        float(right.sum() / total) if total else math.nan,
        {c.id: float(v) for c, v in zip(categories, iou)},
    )


class MeanIoU(Counts):
    """Mean IoU, image by image; the state is one confusion matrix, (C, C+1).

    Pixels without a label in the ground truth are left out; a prediction without a label there is a miss.

    Args:
        categories: the label set.
    """

    def __init__(self, categories: Categories) -> None:
        super().__init__(categories, columns=len(categories) + 1)

    def update(self, pred_labels: ArrayLike, gt_labels: ArrayLike, *, image: int | str | None = None) -> None:
        """Add an image given as label maps.

        Args:
            pred_labels: (H, W) integers, 0…C-1, -1 = no label.
            gt_labels: (H, W) integers, 0…C-1, -1 = ignore.
            image: what messages call the image.

        Raises:
            DataError: sizes differ or a label is out of range.
        """
        pred, gt = np.asarray(pred_labels), np.asarray(gt_labels)
        where = "" if image is None else f"image {image}: "
        if pred.shape != gt.shape:
            raise DataError(f"{where}the prediction has shape {pred.shape}, the ground truth {gt.shape}")
        classes = len(self.categories)
        for labels, what in ((pred, "prediction"), (gt, "ground truth")):
            if labels.dtype.kind not in "iu":
                raise DataError(f"{where}the labels of the {what} are {labels.dtype}, not integers")
            if labels.size and not (labels.min() >= VOID_LABEL and labels.max() < classes):
                raise DataError(
                    f"{where}the {what} has labels {labels.min()}…{labels.max()}; possible are "
                    f"{VOID_LABEL}…{classes - 1}"
                )
        labelled = gt != VOID_LABEL
        columns = pred[labelled].astype(np.int64)
        columns[columns == VOID_LABEL] = classes
        cells = gt[labelled].astype(np.int64) * (classes + 1) + columns
        self._counts += np.bincount(cells, minlength=self._counts.size).reshape(self._counts.shape)

    def add(self, overlap: Overlap) -> None:
        """Add an image whose joint histogram is there already.

        Crowd counts as its class; void and unlisted ids of the ground truth are left out.
        """
        rows = overlap.gt.labels
        columns = np.append(overlap.pred.labels, len(self.categories))
        np.add.at(self._counts, (rows[:, None], columns[None, :]), overlap.joint[: len(rows)])

    def compute(self) -> MeanIoUResult:
        """The figures over all images so far."""
        return mean_iou(self._counts, self.categories)
