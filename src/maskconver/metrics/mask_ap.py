"""COCO mask AP of the things of panoptic segmentations, computed by hotcoco (the extra "ap")."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.categories import Categories
from ..core.rle import encode_segments
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


class MaskAveragePrecision:
    """COCO mask AP, image by image; the detections are the thing segments with their scores.

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
            DataError: sizes differ, or there is not one score a segment.
        """
        pred, gt = segment_table(pred_segments, self.categories), segment_table(gt_segments, self.categories)
        values = np.asarray(scores, float)
        pred_map, gt_map = np.asarray(pred_ids), np.asarray(gt_ids)
        if pred_map.shape != gt_map.shape:
            raise DataError(f"the prediction has shape {pred_map.shape}, the ground truth {gt_map.shape}")
        if values.shape != (len(pred),):
            raise DataError(f"{len(pred)} segments need as many scores, not {values.shape}")
        self._images.append((gt_map.shape[0], gt_map.shape[1]))
        image, things, ids = len(self._images), self.categories.is_thing, self.categories.ids
        chosen = np.flatnonzero(things[gt.labels])
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
        chosen = np.flatnonzero(things[pred.labels])
        for row, (rle, _) in zip(chosen.tolist(), encode_segments(pred_map, pred.ids[chosen])):
            category_id, score = int(ids[pred.labels[row]]), float(values[row])
            self._detections.append(
                {"image_id": image, "category_id": category_id, "segmentation": rle, "score": score}
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
        from hotcoco import COCO, COCOeval

        if not self._objects:
            return MaskAPResult(*[float("nan")] * 6)
        things = [c for c in self.categories if c.is_thing]
        sizes = enumerate(self._images, 1)
        gt = COCO(
            {
                "images": [{"id": i, "file_name": "", "height": h, "width": w} for i, (h, w) in sizes],
                "annotations": [{"id": i} | row for i, row in enumerate(self._objects, 1)],
                "categories": [{"id": c.id, "name": c.name} for c in things],
            }
        )
        if not self._detections:
            return MaskAPResult(0.0, 0.0, 0.0, *self._no_detections())
        evaluation = COCOeval(gt, gt.load_res(self._detections), "segm")
        evaluation.params.max_dets = [min(n, self.max_detections) for n in (1, 10, self.max_detections)]
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # that recall lines, which are not read, are named for 100 detections
            evaluation.run()
        stats = [float("nan") if v < 0 else float(v) for v in evaluation.stats[:6]]
        return MaskAPResult(*stats)

    def _no_detections(self) -> list[float]:
        areas = np.array([row["area"] for row in self._objects if not row["iscrowd"]])
        bins = (areas < 32**2, (areas >= 32**2) & (areas <= 96**2), areas > 96**2)
        return [0.0 if b.any() else float("nan") for b in bins]
