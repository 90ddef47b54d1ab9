"""ReMask and ReClass on MaskConver models: what they change, and that nothing of them stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maskconver.models import create_model
from maskconver.models.batch import Batch, mask_targets
from maskconver.models.maskconver.losses import LossConfig, MaskConverCriterion
from maskconver.models.maskconver.remask import center_classes, class_cover, soften_centers
from maskconver.models.remax import ETA
from maskconver.training.targets import TargetConfig
from tests.batches import ANNOTATIONS, batch_of, squares

NETWORKS: dict[str, dict[str, Any]] = {
    "maskconver_mobile_256": {"filters": 16, "low_level_filters": 16, "embedding_dim": 16},
    "maskconver_mobile_dense_512": {"filters": 16, "embedding_dim": 16},
    "maskconver_r50_fpn_640": {"filters": 16, "embedding_dim": 16},
}


def small(name: str = "maskconver_mobile_256") -> Any:
    torch.manual_seed(0)
    return create_model(name, num_classes=5, **NETWORKS[name]).train()


def judged(model: Any, batch: Batch, **config: Any) -> tuple[dict[str, Tensor], MaskConverCriterion]:
    torch.manual_seed(1)
    criterion = MaskConverCriterion(model, LossConfig(**config))
    return criterion(model, model(batch.images), batch), criterion


@pytest.mark.parametrize("name", NETWORKS)
def test_one_value_relaxes_any_model(name: str) -> None:
    model, batch = small(name), batch_of([squares(128), squares(128)])
    keys = set(model.state_dict())
    plain, without = judged(model, batch)
    relaxed, criterion = judged(model, batch, remask=True)
    assert not list(without.parameters()) and set(model.state_dict()) == keys
    assert set(relaxed) - set(plain) == {"remask"}
    assert all(relaxed[k] != plain[k] for k in plain)
    torch.stack(list(relaxed.values())).sum().backward()
    for key, parameter in (*model.named_parameters(), *criterion.named_parameters()):
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_any_annotation_gives_finite_losses_and_gradients(name: str) -> None:
    model = small()
    for ignore_void in (True, False):
        batch = batch_of([ANNOTATIONS[name]], TargetConfig(ignore_void=ignore_void))
        terms, criterion = judged(model, batch, remask=True)
        model.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        assert all(v.isfinite() and v >= 0 for v in terms.values()), terms
        found = [p.grad for p in (*model.parameters(), *criterion.parameters()) if p.grad is not None]
        assert all(g.isfinite().all() for g in found)


def test_masks_teach_neither_the_branch_nor_the_heatmap() -> None:
    model = small()
    terms, criterion = judged(model, batch_of([squares()]), remask=True)
    (terms["mask"] + terms["dice"]).backward()
    assert all(p.grad is None for p in criterion.parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.class_head.parameters())


def test_a_mask_covers_a_class_by_the_share_of_its_pixels() -> None:
    batch = batch_of([squares(), ANNOTATIONS["only stuff"]])
    masks = mask_targets(batch, (8, 8))
    truth = masks.semantic
    embeddings, basis = torch.randn(3, 4), torch.randn(2, 4, 8, 8)
    cover = class_cover(embeddings, basis, torch.tensor([2, 1]), masks=masks, num_classes=5)
    for row, image in enumerate((0, 0, 1)):
        mask = torch.einsum("d,dhw->hw", embeddings[row], basis[image]).sigmoid()
        for label in range(5):
            inside = truth[image] == label
            expected = mask[inside].mean() if inside.any() else torch.zeros(())
            torch.testing.assert_close(cover[row, label], expected)


def test_a_centre_s_other_classes_soften_and_its_own_stays() -> None:
    targets = torch.zeros(2, 3, 4, 4)
    targets[1, 0, 2, 3] = 1
    targets[1, 2, 2, 3] = 0.09  # of a neighbour's Gaussian: more than what follows
    cover = torch.tensor([[0.9, 0.5, 0.4]])
    soft = soften_centers(targets, torch.tensor([1]), torch.tensor([[2, 3]]), cover)
    torch.testing.assert_close(soft[1, :, 2, 3], torch.tensor([1.0, ETA * 0.5, 0.09]))
    assert soft.sum() == soft[1, :, 2, 3].sum()


def test_the_classes_of_a_centre_are_read_at_its_cell_and_level() -> None:
    heatmaps = [torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)]
    cells = torch.tensor([[1, 0, 1], [0, 3, 2]])
    found = center_classes(heatmaps, torch.tensor([0, 1]), cells)
    torch.testing.assert_close(found[0], heatmaps[1][0, :, 0, 1].sigmoid())
    torch.testing.assert_close(found[1], heatmaps[0][1, :, 3, 2].sigmoid())
