"""Centre heatmaps of a batch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import maskconver.models.maskconver.targets as heatmaps
from maskconver.models.maskconver.targets import (
    center_cells,
    center_heatmaps,
    gaussian_sigma,
    gaussian_sigmas,
)

SHAPE = (2, 3, 12, 16)  # B, C, h, w


def objects(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, centres, labels and images of n objects on canvases of 96×128 px."""
    g = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=g) * torch.tensor([95.0, 127.0])
    boxes = torch.cat([corners.amin(1).floor(), corners.amax(1).floor()], 1)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return boxes, centers, torch.randint(0, 3, (n,), generator=g), torch.randint(0, 2, (n,), generator=g)


def plain(boxes: Tensor, centers: Tensor, labels: Tensor, batch: Tensor) -> Tensor:
    """The formula, one object at a time over the whole map."""
    result = torch.zeros(SHAPE)
    y, x = torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij")
    for box, center, label, image in zip(boxes, centers, labels, batch):
        cy, cx = (center / 8).floor()
        sigma = gaussian_sigma(box[None], 8)[0]
        gaussian = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
        result[image, label] = torch.maximum(result[image, label], gaussian)
    return result


def drawn(boxes: torch.Tensor, centers: torch.Tensor, labels: torch.Tensor, batch: torch.Tensor, **more):  # type: ignore[no-untyped-def]
    return center_heatmaps(boxes, centers, labels, batch=batch, shape=SHAPE, stride=8, **more)


@given(st.integers(0, 20), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_heatmaps_are_those_of_the_formula(n: int, seed: int) -> None:
    rows = objects(n, seed)
    torch.testing.assert_close(drawn(*rows), plain(*rows), atol=1e-6, rtol=1e-5)


@given(st.integers(1, 20), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_every_centre_is_exactly_one_and_nothing_else_is(n: int, seed: int) -> None:
    boxes, centers, labels, batch = objects(n, seed)
    result = drawn(boxes, centers, labels, batch)
    cells = center_cells(centers, 8, SHAPE[2:])
    assert (result[batch, labels, cells[:, 0], cells[:, 1]] == 1).all()
    distinct = {(int(b), int(c), int(y), int(x)) for b, c, (y, x) in zip(batch, labels, cells)}
    assert (result == 1).sum() == len(distinct)


def test_an_image_without_objects_is_all_zero() -> None:
    boxes, centers, labels, _ = objects(5)
    result = drawn(boxes, centers, labels, torch.ones(5, dtype=torch.long))
    assert not result[0].any() and result[1].any()
    empty = drawn(boxes[:0], centers[:0], labels[:0], labels[:0])
    assert empty.shape == SHAPE and not empty.any()


def test_objects_are_drawn_in_portions_with_the_same_result(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    rows = objects(30, 3)
    whole = drawn(*rows)
    monkeypatch.setattr(heatmaps, "CHUNK_CELLS", 12 * 16 * 4)
    torch.testing.assert_close(drawn(*rows), whole, atol=0, rtol=0)


def test_a_centre_on_the_last_pixel_stays_on_the_map() -> None:
    assert center_cells(torch.tensor([[95.9, 127.9], [100.0, 130.0]]), 8, (12, 16)).tolist() == [[11, 15]] * 2


def test_gaussians_by_size_follow_both_sides_of_the_box_between_half_a_cell_and_two() -> None:
    boxes = torch.tensor([[0.0, 0.0, 31.0, 63.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 95.0, 127.0]])
    expected = torch.tensor([[0.72, 1.44], [0.5, 0.5], [2.0, 2.0]])
    torch.testing.assert_close(gaussian_sigmas(boxes, 8, gaussian="size"), expected)
    row = boxes[:1], torch.tensor([[16.0, 32.0]]), torch.tensor([1]), torch.tensor([0])
    by_size = drawn(*row, gaussian="size")[0, 1]
    assert by_size[2, 4] == 1 and by_size[2, 5] > by_size[3, 4] > 0
    torch.testing.assert_close(by_size[3, 5], torch.exp(torch.tensor(-0.5 / 0.72**2 - 0.5 / 1.44**2)))
