"""Targets against the reference implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskconver.core.config import InputConfig
from maskconver.core.preprocess import prepare, resize_nearest
from maskconver.core.segments import SegmentTable
from maskconver.models.batch import at_stride
from maskconver.models.maskconver.targets import (
    assign_levels,
    center_cells,
    center_heatmaps,
    gaussian_radius,
    gaussian_sigma,
)
from maskconver.training.targets import TargetConfig, assign_targets, stuff_islands

from .reference import case

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("name", ["heatmap_gaussian", "heatmap_gaussian_s16"])
def test_gaussians(name: str) -> None:
    arrays = case(f"maskconver/{name}")
    boxes = torch.from_numpy(arrays["boxes"])
    stride, classes = int(arrays["stride"]), int(arrays["num_classes"])
    size = tuple(int(n) // stride for n in arrays["image_size"])
    iou = float(arrays["min_iou"])
    sides = (boxes[:, 2:] - boxes[:, :2]) / stride
    if "distance" in arrays:
        np.testing.assert_allclose(
            gaussian_radius(*sides.unbind(1), iou), arrays["distance"], rtol=1e-6, atol=1e-6
        )
        np.testing.assert_allclose(gaussian_sigma(boxes, stride, iou), arrays["sigma"], rtol=1e-6)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    cells = center_cells(centers, stride, size)
    if "centers_yx" in arrays:
        np.testing.assert_array_equal(cells, arrays["centers_yx"])
    labels = torch.from_numpy(arrays["classes"]).long()
    heatmap = center_heatmaps(
        boxes,
        centers,
        labels,
        batch=torch.zeros_like(labels),
        shape=(1, classes, *size),
        stride=stride,
        min_iou=iou,
    )
    np.testing.assert_allclose(heatmap[0].permute(1, 2, 0), arrays["heatmap"], atol=1e-6)
    assert (heatmap[0, labels, cells[:, 0], cells[:, 1]] == 1).all()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_islands(k: int) -> None:
    arrays = case("maskconver/stuff_islands")
    islands = stuff_islands(arrays["mask"] > 0, k, "reference", min_area=1024)
    np.testing.assert_array_equal([_box(i) for i in islands], arrays[f"boxes_k{k}"])


def test_islands_with_two_dimensional_dilation() -> None:
    arrays = case("maskconver/stuff_islands")
    islands = stuff_islands(arrays["mask"] > 0, 9, "2d", min_area=0)
    np.testing.assert_array_equal([_box(i) for i in islands], arrays["pool2d_boxes"])
    np.testing.assert_array_equal([i.sum() for i in islands], arrays["pool2d_original_sizes"])


def _box(mask: np.ndarray) -> list[int]:
    y, x = np.nonzero(mask)
    return [y.min(), x.min(), y.max(), x.max()]


def _table(category: np.ndarray, instance: np.ndarray, first_stuff: int) -> tuple[np.ndarray, SegmentTable]:
    """The reference's two maps as an id map and table; a thing category without instance has no segment."""
    ids = np.zeros(category.shape, np.int32)
    rows = []
    for i in np.unique(instance[instance > 0]):
        ids[instance == i] = i
        rows.append((int(i), int(np.bincount(category[instance == i]).argmax())))
    for c in np.unique(category[(category >= first_stuff) & (instance == 0)]):
        ids[(category == c) & (instance == 0)] = 1000 + c
        rows.append((1000 + int(c), int(c)))
    n = len(rows)
    table = SegmentTable(
        np.array([r[0] for r in rows], np.int32),
        np.array([r[1] for r in rows], np.int64),
        np.zeros(n, bool),
        np.zeros(n, np.int64),
    )
    return ids, table


@pytest.mark.parametrize(
    "name", ["targets_panoptic_k1", "targets_panoptic_k3", "targets_panoptic_cap6", "targets_semantic"]
)
def test_whole_assignment(name: str) -> None:
    arrays = case(f"maskconver/{name}")
    semantic = "label" in arrays
    size = tuple(int(n) for n in arrays["output_size"])
    if semantic:
        category, is_thing = arrays["label"].astype(int), np.zeros(int(arrays["num_classes"]), bool)
        ids = np.where(category == int(arrays["ignore_label"]), 0, category + 1000).astype(np.int32)
        found = np.unique(category[ids > 0])
        table = SegmentTable(
            (found + 1000).astype(np.int32), found, np.zeros(len(found), bool), np.zeros(len(found), np.int64)
        )
    else:
        category = arrays["category_mask"].astype(int)
        is_thing = np.arange(201) <= 90
        ids, table = _table(category, arrays["instance_mask"].astype(int), 91)
    height, width = ids.shape
    canvas = np.zeros(size, np.int32)
    canvas[:height, :width] = ids
    inside = np.zeros(size, bool)
    inside[:height, :width] = True
    config = TargetConfig(
        islands=int(arrays["max_num_stuff_centers"]),
        islands_dilation="reference",
        islands_min_area=1024,
        max_segments=int(arrays["max_num_instances"]),
        order="reference",
        ignore_void=semantic,
    )
    targets = assign_targets(canvas, table, is_thing, config=config, inside=inside)
    keep, n = targets.keep, int(arrays["num_instances"])
    assert keep.sum() == n
    np.testing.assert_array_equal(targets.labels[keep], arrays["classes"][:n])
    np.testing.assert_array_equal(targets.boxes[keep], arrays["boxes"][:n])
    stride, iou = int(arrays["stride"]), float(arrays["min_iou"])
    shape = (size[0] // stride, size[1] // stride)
    boxes, centers, labels = (torch.from_numpy(v) for v in (targets.boxes, targets.centers, targets.labels))
    np.testing.assert_array_equal(
        center_cells(centers, stride, shape)[torch.from_numpy(keep)], arrays["box_indices"][:n]
    )
    masks = np.stack([targets.regions == r for r in targets.region[keep]], -1)
    np.testing.assert_array_equal(masks, arrays["masks_valid"][..., :n] > 0)
    valid = arrays["valid_mask"] > 0 if semantic else arrays["padding_mask"] == 0
    np.testing.assert_array_equal(targets.valid, valid)
    heatmap = center_heatmaps(
        boxes,
        centers,
        labels,
        batch=torch.zeros_like(labels),
        shape=(1, len(is_thing), *shape),
        stride=stride,
        min_iou=iou,
    )[0]
    channels = arrays.get("heatmap_channels", np.arange(len(is_thing)))
    np.testing.assert_allclose(
        heatmap[torch.from_numpy(channels).long()].permute(1, 2, 0), arrays["heatmap"], atol=1e-6
    )
    others = np.setdiff1d(np.arange(len(is_thing)), channels)
    assert not heatmap[others].any()


# Ranges of the multi-scale cases; they overlap, so that some segments lie on two levels.
RANGES = ((0.0, 12.0), (7.0, 24.0), (20.0, 40.0), (40.0, 70.0), (60.0, 1e7))


@pytest.mark.parametrize("mask_level", [0, 1])
def test_whole_assignment_to_a_pyramid(mask_level: int) -> None:
    arrays = case(f"multiscale/targets_m{mask_level}")
    unit = 1 << mask_level  # the reference computes everything in pixels of the masks
    category = arrays["category_resized"].astype(int)
    ids, table = _table(category, arrays["instance_resized"].astype(int), 6)
    is_thing = (np.arange(11) >= 1) & (np.arange(11) <= 5)
    inside = category >= 0
    np.testing.assert_array_equal(inside, arrays["padding_mask"] == 0)
    config = TargetConfig(center="mask", stuff="global", max_segments=100, ignore_void=False)
    targets = assign_targets(ids, table, is_thing, config=config, inside=inside)
    np.testing.assert_array_equal(targets.valid, inside)
    boxes, centers = (torch.from_numpy(v) * unit for v in (targets.boxes, targets.centers))
    labels = torch.from_numpy(targets.labels)
    rows, level = assign_levels(boxes, torch.zeros_like(labels), RANGES)
    n = int(arrays["num_instances"])
    assert len(rows) == n == (arrays["classes"] >= 0).sum()  # the cap of 24 is not reached
    np.testing.assert_array_equal(labels[rows], arrays["classes"][:n])
    np.testing.assert_array_equal(boxes[rows] / unit, arrays["boxes"][:n])
    masks = np.stack([targets.regions == r for r in targets.region[rows]], -1)
    np.testing.assert_array_equal(masks, arrays["masks"][..., :n] == 1)
    # Of stuff the reference truncates the mean of the coordinates; the cells are the same.
    things = is_thing[labels[rows].numpy()]
    found, expected = (centers[rows] / unit).numpy(), arrays["centers"]
    np.testing.assert_allclose(found[things], expected[things], atol=1e-4)
    np.testing.assert_array_equal(np.floor(found[~things]), expected[~things])
    heatmaps, positions, start = [], torch.zeros_like(rows), 0
    for index, exponent in enumerate((3, 4, 5, 6, 7)):
        side, stride = 128 >> exponent, 1 << exponent
        here = level == index
        own = rows[here]
        batch = torch.zeros_like(own)
        shape = (1, 11, side, side)
        heatmap = center_heatmaps(
            boxes[own], centers[own], labels[own], batch=batch, shape=shape, stride=stride
        )
        heatmaps.append(heatmap[0].flatten(1).T)
        cells = center_cells(centers[own], stride, (side, side))
        positions[here] = start + cells[:, 0] * side + cells[:, 1]
        start += side * side
    np.testing.assert_array_equal(positions, arrays["box_indices"][:n])
    np.testing.assert_allclose(torch.cat(heatmaps), arrays["heatmaps"], atol=1e-6)


def test_masks_of_half_the_size_are_read_as_the_reference_reads_them() -> None:
    full, half = case("multiscale/targets_m0"), case("multiscale/targets_m1")
    for name in ("category_resized", "instance_resized"):
        reduced = at_stride(torch.from_numpy(full[name].astype(np.int32))[None], 2)[0]
        np.testing.assert_array_equal(reduced, half[name])


def test_the_canvas_of_the_multiscale_cases_is_the_references() -> None:
    arrays, full = case("multiscale/targets_m1"), case("multiscale/targets_m0")
    canvas, geometry = prepare(arrays["image"], InputConfig(size=(128, 128)))
    np.testing.assert_allclose(canvas.transpose(1, 2, 0)[::4, ::4], arrays["network_input"], atol=1e-4)
    height, width = (round(n * k) for n, k in zip(geometry.image_size, geometry.scale))
    for name, padding in (("category", -1), ("instance", 0)):
        expected = np.full((128, 128), padding)
        expected[:height, :width] = resize_nearest(arrays[name].astype(np.int32), (height, width))
        np.testing.assert_array_equal(full[f"{name}_resized"], expected)
