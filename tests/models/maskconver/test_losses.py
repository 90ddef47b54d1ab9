"""The weighted losses of a batch, whatever its annotation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maskconver.core.categories import Categories, Category
from maskconver.errors import ConfigError
from maskconver.models import create_model
from maskconver.models.batch import Batch, at_stride
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.loss_terms import center_sums, quality_focal_loss, semantic_head_loss
from maskconver.models.maskconver.losses import LossConfig, random_cells
from maskconver.models.maskconver.model import Maps
from maskconver.models.maskconver.targets import center_targets
from maskconver.training.targets import TargetConfig
from tests.batches import ANNOTATIONS, IS_THING, batch_of, ids, squares, table, total
from tests.losses import judged

EVERYTHING = [
    LossConfig(bce=bce, dice=dice, mask_loss_stride=stride)  # type: ignore[arg-type]
    for bce, dice, stride in itertools.product(("pixel", "object"), ("per_mask", "joint", "none"), (1, 4))
] + [
    LossConfig(normalizer="batch", bce="entry", dice="image", mask_loss_stride=2),
    LossConfig(embedding_at="surest"),
    LossConfig(embedding_at="random", center="quality"),
    LossConfig(positive=0.3, samples=3),
    LossConfig(positive=0.3, samples=3, normalizer="batch", bce="entry", dice="image", mask_loss_stride=2),
]


@pytest.fixture(scope="module")
def model() -> MaskConver:
    torch.manual_seed(0)
    return create_model(
        "maskconver_mobile_256", num_classes=5, filters=16, low_level_filters=16, embedding_dim=16
    ).train()


@pytest.fixture(scope="module")
def semantic_model() -> MaskConver:
    categories = Categories([Category(i, str(i), bool(t), (0, 0, 0)) for i, t in enumerate(IS_THING)])
    narrow = {"filters": 16, "low_level_filters": 16, "embedding_dim": 16}
    return create_model("maskconver_mobile_256", categories=categories, stuff="semantic", **narrow).train()


def some_maps(model: MaskConver, batch: Batch, seed: int = 0) -> Maps:
    """Maps of a network's size and kind, as leaves."""
    g = torch.Generator().manual_seed(seed)
    b, _, h, w = batch.images.shape
    channels = [model.num_classes, model.config.embedding_dim, model.config.embedding_dim]
    if model.semantic_head is not None:
        channels.append(model.num_classes)
    s = model.stride
    heatmap, embedding, *others = (
        torch.randn(b, c, h // s, w // s, generator=g).requires_grad_() for c in channels
    )
    return Maps((heatmap,), (embedding,), *others)


def leaves(maps: Maps) -> list[Tensor]:
    semantic = [] if maps.semantic_logits is None else [maps.semantic_logits]
    return [*maps.heatmap_logits, *maps.embedding_map, maps.mask_features, *semantic]


@pytest.mark.parametrize("ignore_void", [True, False])
@pytest.mark.parametrize("name", ANNOTATIONS)
def test_losses_and_gradients_are_finite(model: MaskConver, name: str, ignore_void: bool) -> None:
    batch = batch_of([ANNOTATIONS[name]], TargetConfig(ignore_void=ignore_void))
    for config in EVERYTHING:
        maps = some_maps(model, batch)
        model.zero_grad()
        terms = judged(model, maps, batch, config)
        total(terms).backward()
        assert all(v.isfinite() and v >= 0 for v in terms.values()), (config, terms)
        gradients = [m.grad for m in leaves(maps)] + [
            p.grad for k, p in model.named_parameters() if k[:3] == "mlp"
        ]
        assert all(g is not None and g.isfinite().all() for g in gradients), config


def test_every_kind_in_one_batch_beside_empty_images(model: MaskConver) -> None:
    batch = batch_of(list(ANNOTATIONS.values()))
    terms = judged(model, some_maps(model, batch), batch, LossConfig())
    assert total(terms).isfinite()


def test_where_everything_is_void_nothing_is_learnt(model: MaskConver) -> None:
    batch = batch_of([ANNOTATIONS["everything void"]])
    terms = judged(model, some_maps(model, batch), batch, LossConfig())
    assert {k: v.item() for k, v in terms.items()} == {"center": 0, "mask": 0, "dice": 0}
    background = batch_of([ANNOTATIONS["everything void"]], TargetConfig(ignore_void=False))
    assert judged(model, some_maps(model, batch), background, LossConfig())["center"] > 0


@pytest.mark.parametrize("config", EVERYTHING, ids=lambda c: f"{c.bce}-{c.dice}-{c.mask_loss_stride}")
def test_void_and_crowd_pixels_have_no_gradient(model: MaskConver, config: LossConfig) -> None:
    ground, rows = ids(11), table((11, 3), (5, 0), (9, 1, True))
    ground[8:40, 8:24] = 5
    ground[:, 32:] = 0
    ground[32:, 32:] = 9
    batch = batch_of([(ground, rows)])
    maps = some_maps(model, batch)
    total(judged(model, maps, batch, config)).backward()
    assert maps.heatmap_logits[0].grad is not None and maps.mask_features.grad is not None
    assert not maps.heatmap_logits[0].grad[..., 4:].any() and maps.heatmap_logits[0].grad[..., :4].any()
    # bilinear resizing reaches half a cell over the edge
    assert not maps.mask_features.grad[..., 5:].any() and maps.mask_features.grad[..., :4].any()


def test_a_centre_in_a_hole_of_void_is_learnt_but_not_the_void_around_it(model: MaskConver) -> None:
    ring = ids(0)
    ring[8:56, 8:56] = 1
    ring[16:48, 16:48] = 0
    batch = batch_of([(ring, table((1, 2)))])
    maps = some_maps(model, batch)
    judged(model, maps, batch, LossConfig())["center"].backward()
    gradient = maps.heatmap_logits[0].grad
    assert gradient is not None and gradient[0, 2, 3, 3] < 0
    hole = gradient[0, :, 2:6, 2:6].clone()
    hole[2, 1, 1] = 0
    assert not hole.any()


def test_targets_beyond_the_cap_have_no_mask_loss_but_a_centre(model: MaskConver) -> None:
    annotation = ANNOTATIONS["only things"]
    capped, whole = batch_of([annotation], TargetConfig(max_segments=1)), batch_of([annotation])
    assert int(capped.dropped) == 3 and int(whole.dropped) == 0
    maps = some_maps(model, capped)
    terms = judged(model, maps, capped, LossConfig())
    all_terms = judged(model, maps, whole, LossConfig())
    # the same heatmap, divided by (instances + 1)
    torch.testing.assert_close(terms["center"] * 2, all_terms["center"] * 5)
    assert terms["mask"] != all_terms["mask"]


def test_a_segment_between_the_cells_of_the_loss_is_not_taught_as_an_empty_mask(model: MaskConver) -> None:
    alone, beside = ids(11), ids(11)
    beside[0, 0] = 1  # stride 4 looks at pixels 2, 6, 10, …
    rows = table((11, 3), (1, 0))
    config = LossConfig()
    batches = batch_of([(alone, rows)]), batch_of([(beside, rows)])
    assert len(batches[1].labels) == 2
    a, b = (judged(model, some_maps(model, batch), batch, config) for batch in batches)
    torch.testing.assert_close(a["dice"], b["dice"])
    torch.testing.assert_close(a["mask"], b["mask"])
    assert a["center"] != b["center"]


def test_weights_scale_their_terms(model: MaskConver) -> None:
    batch = batch_of([squares()])
    maps = some_maps(model, batch)
    one = judged(model, maps, batch, LossConfig(1.0, 1.0, 1.0))
    more = judged(model, maps, batch, LossConfig(2.0, 3.0, 4.0))
    for (key, value), factor in zip(one.items(), (2, 3, 4)):
        torch.testing.assert_close(more[key], value * factor)


def test_without_dice_there_is_no_such_term(model: MaskConver) -> None:
    batch = batch_of([squares()])
    assert set(judged(model, some_maps(model, batch), batch, LossConfig(dice="none"))) == {
        "center",
        "mask",
    }


def test_losses_are_computed_in_full_precision_under_autocast(model: MaskConver) -> None:
    batch = batch_of([squares(), squares()])
    maps = some_maps(model, batch)
    plain = judged(model, maps, batch, LossConfig())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = judged(model, maps, batch, LossConfig())
    for key, value in plain.items():
        assert mixed[key].dtype == torch.float32
        torch.testing.assert_close(mixed[key], value, rtol=0, atol=0)


def test_a_whole_step_under_autocast_has_finite_gradients(model: MaskConver) -> None:
    batch = batch_of([squares()])
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        maps = model(batch.images)
        terms = judged(model, maps, batch, LossConfig())
    assert maps.heatmap_logits[0].dtype == torch.bfloat16
    total(terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("stride", "first", "count"), [(1, 0, 16), (4, 2, 4), (8, 4, 2)])
def test_maps_are_read_in_the_middle_of_a_cell(stride: int, first: int, count: int) -> None:
    row = at_stride(torch.arange(16).expand(1, 16, 16), stride)[0, 0]
    assert row.tolist() == [first + stride * i for i in range(count)]


def disc_batch() -> Batch:
    """One disc of 11 cells across around cell (6, 8), on stuff whose centre is elsewhere."""
    y, x = np.mgrid[:128, :128]
    ids = np.where((y - 52) ** 2 + (x - 68) ** 2 < 44**2, 1, 11).astype(np.int32)
    return batch_of([(ids, table((1, 0), (11, 3)))])


def test_cells_near_the_middle_of_a_thing_are_positive_too(model: MaskConver) -> None:
    batch = disc_batch()

    def found(positive: float) -> tuple[Tensor, Tensor]:
        targets = center_targets(
            batch,
            [(5, 16, 16)],
            model.levels,
            ranges=None,
            stride=8,
            mask_loss_stride=4,
            min_iou=0.3,
            positive=positive,
            around=True,
            is_thing=torch.from_numpy(IS_THING),
        )
        assert targets.around is not None
        owners, cells = targets.around
        disc = targets.levels[0].heatmap[0, 0] == 1
        assert disc.nonzero().tolist() == cells[:, 1:].tolist()
        return targets.label[owners], cells

    labels, cells = found(0.5)
    assert (labels == 0).all()  # not the stuff
    assert len(cells) > 4
    assert (cells[:, 1:] - torch.tensor([6, 8])).abs().max() <= 3
    assert found(1.0)[1].tolist() == [[0, 6, 8]]
    assert len(found(1e-9)[1]) == int((at_stride(batch.regions, 8) == batch.region[0]).sum())


def test_more_positive_cells_raise_the_heatmap_around_a_centre(model: MaskConver) -> None:
    batch = disc_batch()

    def signs(config: LossConfig) -> Tensor:
        maps = some_maps(model, batch)
        terms = judged(model, maps, batch, config, min_iou=0.3)
        (gradient,) = torch.autograd.grad(terms["center"], maps.heatmap_logits[0])
        return gradient[0, 0, 5:8, 7:10] < 0  # descent raises the logit

    assert signs(LossConfig()).sum() == 1
    assert signs(LossConfig(positive=0.3)).all()


def test_embeddings_learn_at_several_cells_of_a_thing(model: MaskConver) -> None:
    batch = disc_batch()

    def read(config: LossConfig) -> int:
        maps = some_maps(model, batch)
        terms = judged(model, maps, batch, config, min_iou=0.3)
        (gradient,) = torch.autograd.grad(terms["dice"], maps.embedding_map[0])
        return int((gradient[0].abs().sum(0) > 0).sum())

    stuff = 1  # its one centre
    assert read(LossConfig(positive=0.3)) == 1 + stuff
    # the centre may be drawn again
    assert read(LossConfig(positive=0.3, samples=4)) in (3 + stuff, 4 + stuff)


def test_samples_leave_the_centre_loss_as_it_is(model: MaskConver) -> None:
    batch = disc_batch()
    maps = some_maps(model, batch)
    one, many = (
        judged(model, maps, batch, LossConfig(samples=n, positive=p), min_iou=0.3)["center"]
        for n, p in ((1, 0.3), (4, 0.3))
    )
    assert torch.equal(one, many)


@pytest.mark.parametrize(
    "wrong", [{"positive": 0}, {"positive": 1.5}, {"samples": 0}, {"semantic_balance": 2}]
)
def test_senseless_centre_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LossConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_losses_of_a_semantic_head_are_finite(semantic_model: MaskConver, name: str) -> None:
    batch = batch_of([ANNOTATIONS[name]])
    maps = some_maps(semantic_model, batch)
    terms = judged(semantic_model, maps, batch, LossConfig())
    total(terms).backward()
    assert set(terms) == {"center", "mask", "dice", "semantic"}
    assert all(v.isfinite() and v >= 0 for v in terms.values()), terms
    assert all(m.grad is not None and m.grad.isfinite().all() for m in leaves(maps))


def test_with_a_semantic_head_stuff_has_no_centres_and_no_masks(semantic_model: MaskConver) -> None:
    batch = batch_of([ANNOTATIONS["only stuff"]])
    maps = some_maps(semantic_model, batch)
    terms = judged(semantic_model, maps, batch, LossConfig())
    assert terms["mask"] == terms["dice"] == 0
    total(terms).backward()
    heatmap, semantic = maps.heatmap_logits[0].grad, maps.semantic_logits.grad  # type: ignore[union-attr]
    assert heatmap is not None and semantic is not None
    assert not heatmap[:, 3:].any() and heatmap[:, :3].any()
    # a step along the gradient brings every cell's own class up
    assert (semantic[0, 3, :4] < 0).all() and (semantic[0, 4, 4:] < 0).all()


def test_the_semantic_head_learns_nothing_from_void(semantic_model: MaskConver) -> None:
    ground, rows = ids(11), table((11, 3), (9, 1, True))
    ground[:, 32:] = 0
    ground[32:, 32:] = 9
    batch = batch_of([(ground, rows)])
    maps = some_maps(semantic_model, batch)
    judged(semantic_model, maps, batch, LossConfig())["semantic"].backward()
    assert maps.semantic_logits is not None and maps.semantic_logits.grad is not None
    # the cells on either side of the edge say what the pixels between them are
    assert not maps.semantic_logits.grad[..., 5:].any() and maps.semantic_logits.grad[..., :4].any()


@pytest.mark.parametrize(("stride", "seen"), [(1, True), (8, False), (16, False)])
def test_the_semantic_head_learns_what_lies_between_its_cells(
    semantic_model: MaskConver, stride: int, seen: bool
) -> None:
    ground = ids(11)
    ground[:, 18] = 9  # a pole; cells of 8 pixels are read at 4, 12, 20 …
    batch = batch_of([(ground, table((11, 3), (9, 4)))])
    maps = some_maps(semantic_model, batch)
    assert maps.semantic_logits is not None
    maps.semantic_logits.data.zero_()
    judged(semantic_model, maps, batch, LossConfig(mask_loss_stride=stride))["semantic"].backward()
    assert maps.semantic_logits.grad is not None
    pole = maps.semantic_logits.grad[0, 4]
    assert (pole[:, 2] < pole[:, 5]).all() == seen


def test_rare_classes_weigh_more_in_the_semantic_loss_where_it_is_balanced() -> None:
    semantic = torch.zeros(2, 8, 8, dtype=torch.long)
    semantic[0, 0, :5], semantic[1, 7, 7], semantic[1, 0] = 2, 3, -1
    logits = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    count = torch.tensor([114, 1, 5, 1, 1])  # classes 1 and 4 are not there: as rare as the rarest
    seen = logits - count.log()[:, None, None]
    each = F.cross_entropy(seen, semantic, ignore_index=-1, reduction="none")
    of_cells = each[semantic >= 0].mean()
    of_classes = torch.stack([each[semantic == c].mean() for c in (0, 2, 3)]).mean()
    balanced, plain = semantic_head_loss(logits, semantic, balance=1.0), semantic_head_loss(seen, semantic)
    torch.testing.assert_close(balanced - plain, of_classes - of_cells)
    nothing = torch.full_like(semantic, -1)
    assert semantic_head_loss(logits, nothing, balance=0.5) == 0


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_a_balanced_semantic_loss_is_least_at_the_probabilities_themselves(balance: float) -> None:
    share = torch.tensor([0.7, 0.2, 0.1])  # of cells that all look alike
    semantic = torch.repeat_interleave(torch.arange(3), (1000 * share).round().long()).view(1, 25, 40)
    logits = torch.zeros(3, requires_grad=True)
    entropy = semantic_head_loss(logits.view(1, 3, 1, 1).expand(1, 3, 25, 40), semantic, balance=balance)
    truth = share.log().requires_grad_()
    best = semantic_head_loss(truth.view(1, 3, 1, 1).expand(1, 3, 25, 40), semantic, balance=balance)
    (gradient,) = torch.autograd.grad(best, truth)
    assert best < entropy
    # what is left of the gradient is that of the dice
    weights = (1000 * share) ** -balance
    p = (truth + weights.log()).softmax(0) * 1000
    dice = (1 - (2 * p * share + 1) / (p + 1000 * share + 1)).mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(dice, truth)[0], atol=1e-4, rtol=0)


def drawn(batch: Batch, seed: int) -> Tensor:
    """Random cells of a batch on a grid of 8 pixels."""
    targets = center_targets(batch, [(5, 8, 8)], (3,), ranges=None, stride=8, mask_loss_stride=4, min_iou=0.7)
    targets.cells[1:, 1:] = 6
    return random_cells(targets, torch.Generator().manual_seed(seed))[:, 1:]


def test_random_centres_lie_in_the_mask_and_in_the_middle_of_its_box() -> None:
    ring = ids(11)
    ring[8:56, 8:56] = 1
    ring[24:40, 24:40] = 11
    batch = batch_of([(ring, table((1, 0), (11, 3)))])
    found = {tuple(drawn(batch, seed)[0].tolist()) for seed in range(300)}
    middle = {(y, x) for y in range(2, 5) for x in range(2, 5)}
    assert found == middle - {(y, x) for y in (3, 4) for x in (3, 4)}


def test_a_mask_between_the_cells_keeps_its_own_centre() -> None:
    batch = batch_of([ANNOTATIONS["one-pixel segments"]])
    things = batch.labels[batch.labels < 3]
    assert (drawn(batch, 0)[1 : len(things)] == 6).all()


def test_the_quality_loss_is_least_at_the_target_whatever_it_is() -> None:
    targets = torch.tensor([0.0, 0.3, 0.7, 1.0])
    grid = torch.linspace(-6, 6, 1201)
    losses = quality_focal_loss(grid[:, None].expand(-1, 4), targets.expand(1201, 4))
    best = grid[losses.argmin(0)].sigmoid()
    torch.testing.assert_close(best, targets, atol=0.01, rtol=0)
    logits, valid = torch.randn(2, 3, 4, 4), torch.rand(2, 1, 4, 4) > 0.5
    heatmap = torch.rand(2, 3, 4, 4)
    expected = (quality_focal_loss(logits, heatmap) * valid).sum((1, 2, 3))
    torch.testing.assert_close(center_sums(logits, heatmap, valid, kind="quality"), expected)
