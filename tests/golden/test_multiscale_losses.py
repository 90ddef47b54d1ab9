"""Losses of the multi-scale task and their gradients against the reference implementation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from maskconver.models.maskconver.loss_terms import center_sums, entry_bce, image_dice, joint_dice, mask_sums

from .reference import case, multiscale_input, nchw

pytestmark = pytest.mark.golden

WEIGHT = 10.0


@dataclass
class Given:
    """Logits (leaves) and what the losses are made of."""

    heatmap: Tensor
    masks: Tensor
    centers: Tensor  # (B,) focal sums
    sums: Tensor  # (n, 5) of all masks
    image: Tensor  # (n,)
    counts: Tensor  # (B,)


def given(batch: int) -> Given:
    """The inputs of cases/multiscale/README.md; the second image keeps its first three entries."""
    arrays = case("multiscale/targets_m1")
    heatmaps, classes, masks = [], [], []
    for b in range(batch):
        logits = multiscale_input(f"case.loss.hm{b}", (341, 11)) - 2
        if b == 0:
            logits[5, 3], logits[6, 4] = 12, -12
        heatmaps.append(logits)
        classes.append(arrays["classes"].copy())
        masks.append(2 * multiscale_input(f"case.loss.masks{b}", (32, 32, 24)))
    targets = np.stack([arrays["heatmaps"]] * batch)
    if batch == 2:
        targets[1][targets[1] == 1] = 0.9
        classes[1][3:] = -1
    heatmap = torch.from_numpy(np.stack(heatmaps)).requires_grad_()
    mask_logits = torch.from_numpy(np.stack(masks)).requires_grad_()
    # as one map of 341×1 positions
    logits, wanted = (v.permute(0, 2, 1)[..., None] for v in (heatmap, torch.from_numpy(targets)))
    centers = center_sums(logits, wanted, torch.ones(1, dtype=torch.bool))
    image, slot = (torch.from_numpy(v) for v in np.nonzero(np.stack(classes) >= 0))
    full = torch.nn.functional.interpolate(mask_logits.permute(0, 3, 1, 2), (64, 64), mode="bilinear")
    inside = torch.from_numpy(arrays["padding_mask"] == 0)
    sums = mask_sums(full[image, slot], nchw(arrays["masks"])[slot] == 1, inside)
    return Given(heatmap, mask_logits, centers, sums, image, torch.bincount(image, minlength=batch))


def check_gradients(g: Given, arrays: dict) -> None:
    assert g.heatmap.grad is not None and g.masks.grad is not None
    np.testing.assert_allclose(g.heatmap.grad.abs().sum(), arrays["grad_heatmap_abs_sum"], rtol=1e-5)
    np.testing.assert_allclose(g.masks.grad.abs().sum(), arrays["grad_masks_abs_sum"], rtol=1e-5)
    np.testing.assert_allclose(g.heatmap.grad[0, :8], arrays["grad_heatmap_slice"], atol=1e-6)
    np.testing.assert_allclose(g.masks.grad[0, :8, :8, :4], arrays["grad_masks_slice"], atol=1e-6)


def test_one_image_has_the_references_losses_and_gradients() -> None:
    arrays, g = case("multiscale/losses_b1"), given(1)
    normalizers = g.counts.float() + 1
    assert g.counts.tolist() == arrays["num_instances"].tolist()
    center = (g.centers / normalizers).mean()
    mask = entry_bce(g.sums, g.image, normalizers, pixels=64 * 64)
    dice = image_dice(g.sums, g.image, 1)
    total = center + WEIGHT * (mask + dice)
    total.backward()
    np.testing.assert_allclose(center.item(), arrays["center_loss"][0], rtol=1e-5)
    np.testing.assert_allclose(mask.item(), arrays["mask_loss"][0], rtol=1e-5)
    np.testing.assert_allclose(dice.item(), arrays["dice_loss"], rtol=1e-5)
    np.testing.assert_allclose(total.item(), arrays["total_loss"][0], rtol=1e-5)
    check_gradients(g, arrays)


def test_two_images_give_the_references_vector_by_arithmetic() -> None:
    """There every image's normaliser divides the sums of the whole batch, and the dice is joint over it."""
    arrays, g = case("multiscale/losses_b2"), given(2)
    normalizers = g.counts.float() + 1
    assert g.counts.tolist() == arrays["num_instances"].tolist()
    center = g.centers.sum() / normalizers
    mask = g.sums[:, 0].sum() / (64 * 64) / normalizers
    dice = joint_dice(g.sums)
    total = center + WEIGHT * (mask + dice)
    total.sum().backward()
    np.testing.assert_allclose(center.detach(), arrays["center_loss"], rtol=1e-5)
    np.testing.assert_allclose(mask.detach(), arrays["mask_loss"], rtol=1e-5)
    np.testing.assert_allclose(dice.item(), arrays["dice_loss"], rtol=1e-5)
    np.testing.assert_allclose(total.detach(), arrays["total_loss"], rtol=1e-5)
    check_gradients(g, arrays)
