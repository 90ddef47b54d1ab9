"""Losses and their gradients against the reference implementation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskconver.models.batch import Batch, at_stride
from maskconver.models.maskconver.loss_terms import center_sums, focal_loss, joint_dice, mask_sums, pixel_bce
from maskconver.models.maskconver.losses import LossConfig
from maskconver.models.maskconver.model import Maps
from tests.losses import judged

from .reference import case, nchw

pytestmark = pytest.mark.golden


def test_focal_loss_and_gradient_with_clipping() -> None:
    arrays = case("maskconver/loss_focal")
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    loss = focal_loss(logits, torch.from_numpy(arrays["targets"]))
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach(), arrays["loss"], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(logits.grad, arrays["grad_of_sum"], rtol=1e-5, atol=1e-8)


def test_joint_dice_and_gradient() -> None:
    arrays = case("maskconver/loss_dice")
    p = torch.from_numpy(arrays["probabilities"]).requires_grad_()
    t = torch.from_numpy(arrays["labels"]).float()
    sums = torch.stack([torch.zeros(()), (p * t).sum(), p.sum(), t.sum(), torch.zeros(())])[None]
    loss = joint_dice(sums)
    loss.backward()
    np.testing.assert_allclose(loss.detach(), arrays["loss"], atol=1e-6)
    # Mask 2 stands for one of weight 0: its p are exact zeros, which no sigmoid gives, and the reference lets
    # no gradient through them. Here a mask of weight 0 is never among the sums.
    real = arrays["probabilities"] > 0
    np.testing.assert_allclose(p.grad[torch.from_numpy(real)], arrays["grad"][real], atol=1e-6)
    assert not arrays["grad"][~real].any()


class LogitsModel(nn.Module):
    """Its mask embeddings pick given mask logits: embedding = one-hot of the instance's slot."""

    stride, levels, level_ranges = 8, (3,), None

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots = slots

    def mask_embeddings(self, embedding_map: Tensor, batch: Tensor, cells: Tensor, labels: Tensor) -> Tensor:
        position = torch.cat([torch.arange(int(n)) for n in batch.bincount()])
        return torch.eye(self.slots)[position]

    def mask_basis(self, mask_features: Tensor) -> Tensor:
        return mask_features


class TestTotal:
    names: ClassVar = ["loss_total", "loss_total_empty", "loss_total_none", "loss_total_semantic"]

    @pytest.mark.parametrize("name", names)
    def test_terms_and_gradients(self, name: str) -> None:
        arrays = case(f"maskconver/{name}")
        heatmap = nchw(arrays["heatmap_logits"]).requires_grad_()
        masks = nchw(arrays["mask_logits"]).requires_grad_()
        semantic = "valid_mask" in arrays
        valid = torch.from_numpy(arrays["valid_mask"] > 0 if semantic else arrays["padding_mask"] == 0)
        classes, targets = arrays["classes"], arrays["mask_targets"]
        b = len(classes)
        image, slot = (torch.from_numpy(v) for v in np.nonzero(classes >= 0))
        # Overlapping targets cannot share an id map, so each slot's loss is computed on a map of its own.
        counts = torch.bincount(image, minlength=b)
        center = center_sums(
            heatmap,
            nchw(arrays["heatmap_targets"]),
            at_stride(valid, valid.shape[-1] // heatmap.shape[-1])[:, None],
        )
        center = (center / (counts + 1)).mean()
        full = nn.functional.interpolate(masks, valid.shape[-2:], mode="bilinear", align_corners=False)
        sums = mask_sums(full[image, slot], nchw(targets)[image, slot] == 1, valid[image])
        bce = pixel_bce(sums)
        dice = joint_dice(sums)
        weight = float(arrays["mask_weight"])
        total = center + weight * bce + (0 if semantic else weight * dice)
        total.backward()
        np.testing.assert_allclose(center.detach(), arrays["center_loss"], rtol=1e-5)
        np.testing.assert_allclose(bce.detach(), arrays["mask_loss"], rtol=1e-5, atol=1e-7)
        if not semantic:
            np.testing.assert_allclose(dice.detach(), arrays["dice_loss"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(total.detach(), arrays["total_loss"], rtol=1e-5)
        np.testing.assert_allclose(heatmap.grad, nchw(arrays["grad_heatmap"]), atol=1e-5)
        np.testing.assert_allclose(masks.grad, nchw(arrays["grad_mask"]), atol=1e-5)

    def test_chunked_sums_from_an_id_map_give_the_same_terms(self) -> None:
        arrays = case("maskconver/loss_total")
        classes, targets = arrays["classes"], arrays["mask_targets"]
        image, slot = (torch.from_numpy(v) for v in np.nonzero(classes >= 0))
        disjoint = (targets == 1).sum(-1).max() <= 1
        regions = torch.zeros(targets.shape[:3], dtype=torch.int32)
        for i, s in zip(image, slot):
            regions[i][torch.from_numpy(targets[i, ..., s] == 1)] = int(s) + 1
        valid = torch.from_numpy(arrays["padding_mask"] == 0)
        n = len(image)
        batch = Batch(
            torch.zeros(2, 3, *targets.shape[1:3]), valid, regions, image,
            torch.from_numpy(classes[image, slot]), slot + 1, torch.zeros(n, 4), torch.zeros(n, 2),
            torch.ones(n, dtype=torch.bool),
        )  # fmt: skip
        masks = nchw(arrays["mask_logits"])
        maps = Maps((nchw(arrays["heatmap_logits"]),), (masks,), masks)
        config = LossConfig(dice="joint", mask_loss_stride=1)
        terms = judged(LogitsModel(masks.shape[1]), maps, batch, config)  # type: ignore[arg-type]
        if disjoint:
            np.testing.assert_allclose(terms["mask"] / 5, arrays["mask_loss"], rtol=1e-5)
            np.testing.assert_allclose(terms["dice"] / 5, arrays["dice_loss"], rtol=1e-5)
        full = nn.functional.interpolate(masks, valid.shape[-2:], mode="bilinear", align_corners=False)
        plain = mask_sums(full[image, slot], regions[image] == (slot + 1)[:, None, None], valid[image])
        torch.testing.assert_close(terms["mask"] / 5, pixel_bce(plain))
        torch.testing.assert_close(terms["dice"] / 5, joint_dice(plain))
