"""Mask losses and the sums they are made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import maskconver.models.maskconver.loss_terms as masks
from maskconver.models.maskconver.loss_terms import (
    BCE,
    DICE,
    chunked_mask_sums,
    joint_dice,
    mask_sums,
    object_bce,
    per_mask_dice,
    pixel_bce,
)


def case(n: int, seed: int = 0, size: tuple[int, int] = (6, 8)) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets n×h×w, and valid h×w."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, *size, generator=g) * 3
    return logits, torch.rand(n, *size, generator=g) < 0.4, torch.rand(size, generator=g) < 0.8


@given(st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_sums_are_those_over_the_valid_pixels(n: int, seed: int) -> None:
    logits, targets, valid = case(n, seed)
    sums = mask_sums(logits, targets, valid)
    p, t = logits.sigmoid()[:, valid], targets[:, valid].float()
    bce = F.binary_cross_entropy_with_logits(logits[:, valid], t, reduction="none").sum(1)
    expected = torch.stack([bce, (p * t).sum(1), p.sum(1), t.sum(1), valid.sum().expand(n).float()], 1)
    torch.testing.assert_close(sums, expected, atol=1e-4, rtol=1e-5)


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[[1e4, -1e4, 60.0, -60.0]]], requires_grad=True)
    sums = mask_sums(logits, torch.tensor([[[False, True, True, False]]]), torch.ones(1, 4, dtype=torch.bool))
    sums.sum().backward()
    assert sums.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()


def chunk_case(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    embeddings, basis = torch.randn(n, 5, generator=g), torch.randn(5, 6, 7, generator=g)
    regions = torch.randint(0, n + 1, (12, 14), generator=g, dtype=torch.int32)
    return embeddings, basis, torch.arange(1, n + 1), regions, torch.rand(12, 14, generator=g) < 0.9


@pytest.mark.parametrize("masks_a_chunk", [1, 2, 3, 100])
def test_chunked_sums_equal_the_unchunked_in_value_and_gradient(
    monkeypatch: pytest.MonkeyPatch, masks_a_chunk: int
) -> None:
    embeddings, basis, region, regions, valid = chunk_case(7)
    weights = torch.rand(7, 5, generator=torch.Generator().manual_seed(2))
    grads = []
    for chunked in (False, True):
        e, b = embeddings.clone().requires_grad_(), basis.clone().requires_grad_()
        if chunked:
            monkeypatch.setattr(masks, "CHUNK_PIXELS", masks_a_chunk * regions.numel())
            sums = chunked_mask_sums(e, b, region, regions=regions, valid=valid)
        else:
            logits = torch.einsum("nd,dhw->nhw", e, b)
            logits = F.interpolate(logits[None], (12, 14), mode="bilinear", align_corners=False)[0]
            sums = mask_sums(logits, regions == region[:, None, None], valid)
        (sums * weights).sum().backward()
        grads.append((sums.detach(), e.grad, b.grad))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def saved_elements(n: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Elements autograd keeps for the backward pass of n masks in chunks of two, but for the inputs."""
    embeddings, basis, region, regions, valid = chunk_case(n)
    embeddings.requires_grad_()
    basis.requires_grad_()
    monkeypatch.setattr(masks, "CHUNK_PIXELS", 2 * regions.numel())
    own = {t.untyped_storage().data_ptr() for t in (embeddings, basis, region, regions, valid)}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chunked_mask_sums(embeddings, basis, region, regions=regions, valid=valid)
    return sum(t.numel() for t in kept.values())


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert saved_elements(64, monkeypatch) <= saved_elements(2, monkeypatch) + 64 * 5


def test_pixel_bce_weighs_pixels_and_object_bce_objects() -> None:
    sums = torch.tensor([[90.0, 0, 0, 1000, 2000], [10.0, 0, 0, 4, 2000]])
    assert pixel_bce(sums) == pytest.approx(100 / 4001)
    assert object_bce(sums) == pytest.approx((90 / 1016 + 10 / 20) / 2)


def test_per_mask_dice_is_zero_for_perfect_masks_and_counts_each_mask_alike() -> None:
    perfect = torch.tensor([[0.0, 50, 50, 50, 99], [0.0, 3, 3, 3, 99]])
    assert per_mask_dice(perfect) == 0
    one_missed = torch.tensor([[0.0, 50, 50, 50, 99], [0.0, 0, 0, 3, 99]])
    assert per_mask_dice(one_missed) == pytest.approx((1 - 1 / 4) / 2)


def test_joint_dice_follows_the_large_masks() -> None:
    one_missed = torch.tensor([[0.0, 5000, 5000, 5000, 9999], [0.0, 0, 0, 3, 9999]])
    assert 0 <= joint_dice(one_missed) < 1e-3


@pytest.mark.parametrize("loss", [*BCE.values(), *DICE.values()], ids=lambda f: f.__name__)
def test_without_masks_a_loss_is_zero_and_has_a_gradient(loss: Callable[[Tensor], Tensor]) -> None:
    source = torch.ones(3, requires_grad=True)
    value = loss(source.new_zeros(0, 5) + source.sum() * 0)
    assert value == 0
    value.backward()
    assert source.grad is not None and not source.grad.any()
