"""The losses of a pyramid: every segment on its level, and finite whatever is annotated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskconver.models import create_model
from maskconver.models.batch import Batch, at_stride
from maskconver.models.maskconver import Maps, MaskConver
from maskconver.models.maskconver.losses import LossConfig, surest_cells
from maskconver.models.maskconver.targets import Level, Targets
from maskconver.training.targets import TargetConfig
from tests.batches import ANNOTATIONS, batch_of, squares, table, total
from tests.losses import judged

LEVELS, SIZE, DIM, CLASSES = (3, 4, 5), 64, 8, 5
PUBLISHED = LossConfig(
    mask_weight=10.0, dice_weight=10.0, normalizer="batch", bce="entry", dice="image", mask_loss_stride=2
)


@pytest.fixture(scope="module")
def model() -> MaskConver:
    torch.manual_seed(0)
    narrow: dict[str, Any] = {"unet_dim": 8, "filters": DIM, "embedding_dim": DIM, "mlp_hidden": 16}
    made = create_model(
        "maskconver_r50_640",
        num_classes=CLASSES,
        backbone="mobilenetv3_small_100",
        levels=LEVELS,
        level_ranges=((0, 12), (8, 24), (24, 1e7)),
        **narrow,
    )
    assert isinstance(made, MaskConver)
    return made.train()


def some_maps(images: int, seed: int = 0) -> Maps:
    """Maps of a network's size and kind, as leaves."""
    g = torch.Generator().manual_seed(seed)

    def leaf(channels: int, level: int) -> Tensor:
        return torch.randn(images, channels, SIZE >> level, SIZE >> level, generator=g).requires_grad_()

    return Maps(tuple(leaf(CLASSES, n) for n in LEVELS), tuple(leaf(DIM, n) for n in LEVELS), leaf(DIM, 2))


def one_thing(half_diagonal: int) -> Batch:
    """A square thing of label 2 with this half diagonal, nothing else."""
    side = round(half_diagonal * 2**0.5)
    ids = np.zeros((SIZE, SIZE), np.int32)
    ids[2 : 3 + side, 2 : 3 + side] = 1
    return batch_of([(ids, table((1, 2)))], TargetConfig(ignore_void=False))


@pytest.mark.parametrize("ignore_void", [True, False])
@pytest.mark.parametrize("name", ANNOTATIONS)
def test_losses_and_gradients_are_finite(model: MaskConver, name: str, ignore_void: bool) -> None:
    targets = TargetConfig(ignore_void=ignore_void, center="mask", stuff="global")
    batch = batch_of([ANNOTATIONS[name]], targets)
    for config in (LossConfig(), PUBLISHED, LossConfig(embedding_at="surest")):
        maps = some_maps(1)
        model.zero_grad()
        terms = judged(model, maps, batch, config)
        total(terms).backward()
        assert all(v.isfinite() and v >= 0 for v in terms.values()), (config, terms)
        leaves = [*maps.heatmap_logits, *maps.embedding_map, maps.mask_features]
        gradients = [m.grad for m in leaves] + [p.grad for p in model.mlp.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients), config


def test_every_kind_in_one_batch_beside_empty_images(model: MaskConver) -> None:
    batch = batch_of(list(ANNOTATIONS.values()))
    assert total(judged(model, some_maps(len(batch)), batch, PUBLISHED)).isfinite()


@pytest.mark.parametrize(("half_diagonal", "levels"), [(5, [0]), (10, [0, 1]), (18, [1]), (30, [2])])
def test_embeddings_are_read_on_the_levels_of_the_segment(
    model: MaskConver, half_diagonal: int, levels: list[int]
) -> None:
    maps = some_maps(1)
    batch = one_thing(half_diagonal)
    terms = judged(model, maps, batch, PUBLISHED)
    (terms["mask"] + terms["dice"]).backward()
    for index, embedding in enumerate(maps.embedding_map):
        assert embedding.grad is not None
        read = embedding.grad.abs().sum(1)[0].nonzero().tolist()
        stride = 1 << LEVELS[index]
        y, x = (batch.centers[0] / stride).floor().long().tolist()
        assert read == ([[y, x]] if index in levels else [])


def test_a_segment_is_a_centre_on_its_level_and_background_on_the_others(model: MaskConver) -> None:
    maps = some_maps(1)
    judged(model, maps, one_thing(18), PUBLISHED)["center"].backward()
    for index, heatmap in enumerate(maps.heatmap_logits):
        assert heatmap.grad is not None
        wants_more = (heatmap.grad < 0).nonzero().tolist()
        assert wants_more == ([[0, 2, 0, 0]] if index == 1 else [])


def test_published_normaliser_is_the_mean_number_of_masks_of_the_batch(model: MaskConver) -> None:
    empty = (np.zeros((SIZE, SIZE), np.int32), table())
    ids = np.zeros((SIZE, SIZE), np.int32)
    ids[2:10, 2:10], ids[40:48, 40:48], ids[2:10, 40:48] = 1, 2, 3
    full, targets = (ids, table((1, 0), (2, 1), (3, 2))), TargetConfig(ignore_void=False)
    batch = batch_of([full, empty], targets)
    maps = some_maps(2)
    image = judged(model, maps, batch, LossConfig(normalizer="image"))["center"]
    mean = judged(model, maps, batch, LossConfig(normalizer="batch"))["center"]
    # sums a and b of the two images: (a/4 + b/1)/2 and (a + b)/(3/2 + 1)/2
    part = one_image(maps, 0), one_image(maps, 1)
    alone = [
        batch_of([a], TargetConfig(ignore_void=False)) for a in ((ids, table((1, 0), (2, 1), (3, 2))), empty)
    ]
    a, b = (judged(model, m, x, LossConfig())["center"] for m, x in zip(part, alone))
    torch.testing.assert_close(image, (a + b) / 2)
    torch.testing.assert_close(mean, (4 * a + b) / 2.5 / 2)


def one_image(maps: Maps, i: int) -> Maps:
    return Maps(
        tuple(m[i : i + 1] for m in maps.heatmap_logits),
        tuple(m[i : i + 1] for m in maps.embedding_map),
        maps.mask_features[i : i + 1],
    )


class TestPredictedCentres:
    def test_lie_where_the_network_is_surest_within_the_mask(self) -> None:
        logits = torch.zeros(1, 3, 4, 4)
        logits[0, 1, 0, 0] = 9  # surer, but outside the mask
        logits[0, 2, 2, 3] = 9  # of another class
        logits[0, 1, 3, 2] = 5
        regions = torch.zeros(1, 4, 4, dtype=torch.int32)
        regions[0, 2:, 2:] = 1  # the second mask has no cell at all
        targets = Targets(
            levels=(Level(logits, logits > 0, regions, 4),),
            image=torch.zeros(2, dtype=torch.long),
            label=torch.tensor([1, 1]),
            region=torch.tensor([1, 2]),
            boxes=torch.zeros(2, 4),
            cells=torch.tensor([[0, 2, 2], [0, 1, 1]]),
            masked=torch.ones(2, dtype=torch.bool),
            regions=regions,
            valid=regions > 0,
            size=(4, 4),
        )
        assert surest_cells([logits], targets).tolist() == [[0, 3, 2], [0, 1, 1]]

    def test_are_where_the_embeddings_are_read_if_the_config_says_so(self, model: MaskConver) -> None:
        batch = one_thing(18)  # on level 4, cells of 16 pixels; its mask covers cells 0 and 1
        maps = some_maps(1)
        with torch.no_grad():
            maps.heatmap_logits[1][0, 2] = 0
            maps.heatmap_logits[1][0, 2, 1, 0] = 4
            maps.heatmap_logits[1][0, 2, 3, 3] = 8
        terms = judged(model, maps, batch, LossConfig(embedding_at="surest"))
        (terms["mask"] + terms["dice"]).backward()
        grad = maps.embedding_map[1].grad
        assert grad is not None and grad.abs().sum(1)[0].nonzero().tolist() == [[1, 0]]
        truth = judged(model, maps, batch, LossConfig())
        torch.testing.assert_close(truth["center"], terms["center"])
        assert truth["mask"] != terms["mask"]


def test_cells_of_a_stride_that_does_not_divide_the_sides() -> None:
    maps = torch.arange(20).expand(1, 3, 20)
    # middles 4, 12, 20: the third lies behind the edge and reads the last pixel; a fourth has no pixel
    assert at_stride(maps, 8, (1, 4))[0, 0].tolist() == [4, 12, 19, 0]
    whole = torch.arange(64).view(1, 8, 8)
    assert torch.equal(at_stride(whole, 4, (2, 2)), at_stride(whole, 4))


def test_a_whole_step_with_the_published_losses_lowers_them(model: MaskConver) -> None:
    targets = TargetConfig(center="mask", stuff="global", ignore_void=False)
    batch = batch_of([squares(), squares()], targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    losses = []
    for _ in range(6):
        loss = total(judged(model, model(batch.images), batch, PUBLISHED))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("size", [96, 100, 75, 33])
def test_canvases_off_the_stride_have_losses_too(model: MaskConver, size: int) -> None:
    mobile = create_model(
        "maskconver_mobile_256", num_classes=CLASSES, filters=8, low_level_filters=8, embedding_dim=8
    )
    batch = batch_of([squares(size), squares(size)])
    for network in (model, mobile.train()):
        for config in (LossConfig(), PUBLISHED):
            terms = judged(network, network(batch.images), batch, config)
            assert total(terms).isfinite()


def test_the_padding_of_a_canvas_off_the_stride_is_not_among_the_masks(model: MaskConver) -> None:
    batch = one_thing(18)
    wide = Batch(torch.zeros(1, 3, SIZE, SIZE - 4), batch.valid[..., :-4], batch.regions[..., :-4],
                 batch.batch, batch.labels, batch.region, batch.boxes, batch.centers, batch.keep)  # fmt: skip
    maps = some_maps(1)  # of the padded canvas
    terms = judged(model, maps, wide, PUBLISHED)
    (terms["mask"] + terms["dice"]).backward()
    gradient = maps.mask_features.grad
    assert gradient is not None and not gradient[..., -1:].any() and gradient[..., -2].any()


def test_a_whole_step_under_autocast_has_finite_gradients(model: MaskConver) -> None:
    batch = batch_of([squares()])
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        maps = model(batch.images)
        terms = judged(model, maps, batch, PUBLISHED)
    assert maps.mask_features.dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for t in terms.values())
    total(terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
