"""COCO mask AP of things, computed by hotcoco (the extra "ap")."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.categories import Categories
from ..core.rle import encode_segments
from ..core.segmentation import Instances
from ..core.segments import SegmentTable
from ..errors import DataError, MissingExtraError
from .overlap import Segments, segment_table

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True, slots=True)
class MaskAPResult:
    """COCO's figures as fractions 0…1; NaN where there is nothing to measure.

    Attributes:
        ap: mean over IoU 0.50…0.95 and classes; ap50, ap75: at one IoU.
        ap_small, ap_medium, ap_large: for objects below 32², up to 96², and above, in pixels.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float

    def to_json(self) -> dict[str, float | None]:
        """By COCO's names (AP, AP50, …), null for NaN."""
        values = (self.ap, self.ap50, self.ap75, self.ap_small, self.ap_medium, self.ap_large)
        return {name: None if np.isnan(v) else v for name, v in zip(NAMES, values)}


TIDE = {
    "Cls": "the right place under another name",
    "Loc": "the right name, but the mask overlaps too little (IoU of 0.1 to 0.5)",
    "Both": "another name, and the mask overlaps too little",
    "Dupe": "an object that was found already with a higher score",
    "Bkg": "there is nothing",
    "Miss": "not found by any detection",
}
"""Kinds of errors of a detector (Bolya et al., TIDE, ECCV 2020)."""


@dataclass(frozen=True, slots=True)
class MaskAPErrors:
    """What AP at an IoU of 0.5 lacks.

    Attributes:
        ap50: 0…1.
        gain: for each of `TIDE`, by how much AP50 would rise without these errors.
        counts: how many there are.
        confusion: (true class, predicted class, number) of pairs with an IoU of at least 0.5 and other
            classes; "" stands for nothing.
    """

    ap50: float
    gain: dict[str, float]
    counts: dict[str, int]
    confusion: list[tuple[str, str, int]]

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        rows = [{"true": a, "predicted": b, "number": n} for a, b, n in self.confusion]
        return {"AP50": self.ap50, "gain": self.gain, "counts": self.counts, "confusion": rows}


class MaskAveragePrecision:
    """COCO mask AP, image by image; the detections are thing segments with their scores, or instances.

    Unlike the other metrics it keeps a run-length code of every object until `compute`. COCO AP knows no
    void: a detection there is a false positive.

    Args:
        categories: the label set; stuff is left out.
        max_detections: the highest scored detections of an image and class that count; 100 is COCO's rule,
            data with more objects an image need more.

    Raises:
        MissingExtraError: hotcoco is not installed.
    """

    def __init__(self, categories: Categories, max_detections: int = 100) -> None:
        try:
            import hotcoco  # noqa: F401
        except ModuleNotFoundError:
            raise MissingExtraError("COCO mask AP", "ap") from None
        self.categories = categories
        self.max_detections = max_detections
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._images: list[tuple[int, int]] = []
        self._objects: list[dict[str, Any]] = []
        self._detections: list[dict[str, Any]] = []

    def update(
        self,
        pred_ids: ArrayLike,
        pred_segments: Segments,
        scores: ArrayLike,
        gt_ids: ArrayLike,
        gt_segments: Segments,
    ) -> None:
        """Add an image.

        Args:
            pred_ids, gt_ids: (H, W) integers, 0 = void.
            pred_segments, gt_segments: their rows, as for `PanopticQuality.update`.
            scores: of the predicted segments, in the same order, 0…1.

        Raises:
            DataError: sizes differ, or there is not one score per segment.
        """
        pred, gt = segment_table(pred_segments, self.categories), segment_table(gt_segments, self.categories)
        values = np.asarray(scores, float)
        pred_map, gt_map = np.asarray(pred_ids), np.asarray(gt_ids)
        if pred_map.shape != gt_map.shape:
            raise DataError(f"the prediction has shape {pred_map.shape}, the ground truth {gt_map.shape}")
        if values.shape != (len(pred),):
            raise DataError(f"{len(pred)} segments need one score each, not scores of shape {values.shape}")
        self._add_truth(gt_map, gt)
        chosen = np.flatnonzero(self.categories.is_thing[pred.labels])
        for row, (rle, _) in zip(chosen.tolist(), encode_segments(pred_map, pred.ids[chosen])):
            self._detect(int(pred.labels[row]), rle, float(values[row]))

    def update_instances(self, found: Instances, gt_ids: ArrayLike, gt_segments: Segments) -> None:
        """Add an image whose detections may overlap.

        Args:
            found: of the size of the ground truth; stuff is left out.
            gt_ids, gt_segments: as for `update`.

        Raises:
            DataError: sizes differ.
        """
        gt, gt_map = segment_table(gt_segments, self.categories), np.asarray(gt_ids)
        if found.masks.shape[1:] != gt_map.shape:
            raise DataError(f"the masks have shape {found.masks.shape[1:]}, the ground truth {gt_map.shape}")
        self._add_truth(gt_map, gt)
        for mask, label, score in zip(found.masks, found.labels.tolist(), found.scores.tolist()):
            if self.categories.is_thing[label]:
                ((rle, _),) = encode_segments(mask.view(np.uint8), np.array([1]))
                self._detect(label, rle, score)

    def _detect(self, label: int, rle: dict[str, Any], score: float) -> None:
        category_id = int(self.categories.ids[label])
        row = {"image_id": len(self._images), "category_id": category_id, "segmentation": rle, "score": score}
        self._detections.append(row)

    def _add_truth(self, gt_map: NDArray[np.integer], gt: SegmentTable) -> None:
        self._images.append((gt_map.shape[0], gt_map.shape[1]))
        image, ids = len(self._images), self.categories.ids
        chosen = np.flatnonzero(self.categories.is_thing[gt.labels])
        for row, (rle, area) in zip(chosen.tolist(), encode_segments(gt_map, gt.ids[chosen])):
            self._objects.append(
                {
                    "image_id": image,
                    "category_id": int(ids[gt.labels[row]]),
                    "segmentation": rle,
                    "area": int(gt.areas[row]) or area,
                    "iscrowd": int(gt.crowd[row]),
                }
            )

    @property
    def state(self) -> tuple[list[tuple[int, int]], list[dict[str, Any]], list[dict[str, Any]]]:
        """Everything so far, for `merge_state` in another process (gather it; it is no array)."""
        return list(self._images), list(self._objects), list(self._detections)

    def merge_state(
        self, state: tuple[list[tuple[int, int]], list[dict[str, Any]], list[dict[str, Any]]]
    ) -> None:
        """Add the images of another process or part."""
        shift = len(self._images)
        self._images += state[0]
        for mine, theirs in ((self._objects, state[1]), (self._detections, state[2])):
            mine += [row | {"image_id": row["image_id"] + shift} for row in theirs]

    def compute(self) -> MaskAPResult:
        """The figures over all images so far."""
        if all(row["iscrowd"] for row in self._objects):
            return MaskAPResult(*[float("nan")] * 6)
        if not self._detections:
            return MaskAPResult(0.0, 0.0, 0.0, *self._no_detections())
        evaluation = self._evaluation()
        stats = [float("nan") if v < 0 else float(v) for v in evaluation.stats[:6]]
        return MaskAPResult(*stats)

    def errors(self) -> MaskAPErrors | None:
        """What AP50 lacks, by kind of error; None where nothing is annotated or nothing was found."""
        if not self._detections or all(row["iscrowd"] for row in self._objects):
            return None
        evaluation = self._evaluation()
        with _quiet():
            tide = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
            found = evaluation.confusion_matrix(iou_thr=0.5, max_det=self.max_detections)
        names = [*found["cat_names"], ""]
        rows = [
            (names[i], names[j], int(found["matrix"][i, j]))
            for i, j in np.argwhere(found["matrix"]).tolist()
            if i != j
        ]
        kinds = {name: float(value) for name, value in tide["delta_ap"].items() if name in TIDE}
        counts = {name: int(value) for name, value in tide["counts"].items()}
        return MaskAPErrors(float(tide["ap_base"]), kinds, counts, sorted(rows, key=lambda row: -row[2]))

    def _evaluation(self) -> Any:
        """hotcoco's, after it has run."""
        from hotcoco import COCO, COCOeval

        things = [c for c in self.categories if c.is_thing]
        sizes = enumerate(self._images, 1)
        gt = COCO(
            {
                "images": [{"id": i, "file_name": "", "height": h, "width": w} for i, (h, w) in sizes],
                "annotations": [{"id": i} | row for i, row in enumerate(self._objects, 1)],
                "categories": [{"id": c.id, "name": c.name} for c in things],
            }
        )
        evaluation = COCOeval(gt, gt.load_res(self._detections), "segm")
        evaluation.params.max_dets = [min(n, self.max_detections) for n in (1, 10, self.max_detections)]
        with _quiet():
            evaluation.run()
        return evaluation

    def _no_detections(self) -> list[float]:
        areas = np.array([row["area"] for row in self._objects if not row["iscrowd"]])
        bins = (areas < 32**2, (areas >= 32**2) & (areas <= 96**2), areas > 96**2)
        return [0.0 if b.any() else float("nan") for b in bins]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tables that are printed, and the note on recall lines, which are not read."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
