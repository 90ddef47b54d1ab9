"""The losses of kMaX-DeepLab and ReMaX, whatever the annotation; their values are golden cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskconver.errors import ConfigError
from maskconver.models import create_model
from maskconver.models.batch import Batch, MaskTargets, mask_targets, region_sums
from maskconver.models.kmax import KMaXConfig, KMaXDeepLab, KMaXOutput, ReMaXConfig
from maskconver.models.kmax import losses as module
from maskconver.models.kmax.gate import Prediction
from maskconver.models.kmax.loss_terms import (
    false_losses,
    one_hot_map,
    sample_pixels,
    sampled_semantic_loss,
)
from maskconver.models.kmax.losses import KMaXCriterion, KMaXLossConfig, features_at
from maskconver.models.kmax.matching import match
from maskconver.models.kmax.pixel_decoder import resize_aligned
from maskconver.training.targets import TargetConfig
from tests.batches import ANNOTATIONS, batch_of, ids, squares, table, total

CLASSES, QUERIES = 5, 6
PAPER: dict[str, Any] = {"mask_id_loss": "sigmoid", "remask_layers": 4, "eta": 0.1}


def network() -> KMaXDeepLab:
    """A network without weights: only its config and its number of layers are asked for."""
    with torch.device("meta"):
        model = create_model("remax_t", num_classes=CLASSES, proposals=QUERIES)
    assert isinstance(model, KMaXDeepLab)
    return model


def loss(remax: dict[str, Any], **losses: Any) -> KMaXLossConfig:
    return KMaXLossConfig(remax=ReMaXConfig(**remax), **losses)


def some_output(batch: Batch, seed: int = 0, classes: int = CLASSES) -> KMaXOutput:
    """An output of the network's sizes, as leaves."""
    g = torch.Generator().manual_seed(seed)
    b, _, height, width = batch.images.shape

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).requires_grad_()

    def prediction(stride: int, key: bool) -> Prediction:
        h, w = -(-height // stride), -(-width // stride)
        feature = torch.nn.functional.normalize(torch.randn(b, 128, h, w, generator=g), dim=1)
        return Prediction(
            leaf(b, QUERIES, classes + 1),
            leaf(b, QUERIES, h, w),
            feature.requires_grad_(),
            leaf(b, 256, h, w) if key else None,
        )

    layers = tuple(prediction(stride, True) for stride in (32, 16, 8))
    return KMaXOutput(prediction(4, False), layers, leaf(b, classes + 1, -(-height // 4), -(-width // 4)))


def leaves(output: KMaXOutput) -> list[Tensor]:
    found = [output.semantic_logits, *(v for p in (output.final, *output.layers) for v in p)]
    return [v for v in found if v is not None]


def judged(
    batch: Batch, seed: int = 0, losses: dict[str, Any] | None = None, **remax: Any
) -> dict[str, float]:
    """The terms of an output; branches have the same weights whatever the choices."""
    model = network()
    torch.manual_seed(7)
    criterion = KMaXCriterion(model, loss(remax, **(losses or {}))).eval()
    return {k: v.item() for k, v in criterion(model, some_output(batch, seed), batch).items()}


CHOICES: dict[str, dict[str, Any]] = {
    "kmax": {},
    "remax": PAPER,
    "softmax": {**PAPER, "mask_id_loss": "softmax"},
    "truth": {**PAPER, "semantic_source": "ground_truth"},
}


class TestTargets:
    def test_void_crowd_and_padding_belong_to_nobody(self) -> None:
        batch = batch_of([squares()])
        batch.valid[0, :8] = False
        targets = mask_targets(batch, (16, 16))
        assert (targets.owner[0, :2] == -1).all() and (targets.owner[0, 2:15, :12] >= 0).all()
        assert (targets.owner[0, :, 15] == -1).all()  # crowd

    def test_stuff_is_one_mask_a_class_and_things_are_one_each(self) -> None:
        batch = batch_of([ANNOTATIONS["the same stuff in two segments"], ANNOTATIONS["only stuff"]])
        labels = mask_targets(batch, (16, 16)).labels
        assert sorted(labels[0].tolist()) == [-1, 3] and sorted(labels[1].tolist()) == [3, 4]
        things = mask_targets(batch_of([ANNOTATIONS["more masks than queries"]]), (64, 64))
        assert (things.labels >= 0).sum() == 16

    def test_masks_beyond_the_cap_are_void(self) -> None:
        batch = batch_of([ANNOTATIONS["more masks than queries"]], TargetConfig(max_segments=3))
        targets = mask_targets(batch, (64, 64))
        assert (targets.labels >= 0).sum() == 3 and (targets.owner >= 0).float().mean() == 3 / 16

    def test_a_mask_between_the_cells_is_none(self) -> None:
        ground = ids(11)
        ground[0, 1] = 1
        targets = mask_targets(batch_of([(ground, table((11, 3), (1, 0)))]), (16, 16))
        assert sorted(targets.labels[0].tolist()) == [-1, 3]

    @pytest.mark.parametrize(("size", "stride", "first"), [(64, 4, 2), (65, 4, 0), (64, 32, 16), (33, 8, 0)])
    def test_cells_are_read_where_enlarging_puts_them(self, size: int, stride: int, first: int) -> None:
        columns = np.arange(1, size + 1, dtype=np.int32)[None].repeat(size, 0)
        rows = table(*((int(n), 0) for n in columns[0]))
        batch = batch_of([(columns, rows)], TargetConfig(max_segments=100))
        cells = -(-size // stride)
        found = mask_targets(batch, (cells, cells)).owner[0, 0]
        assert found.tolist() == [min(first + stride * i, size - 1) for i in range(cells)]

    def test_the_semantic_map_has_the_classes(self) -> None:
        semantic = mask_targets(batch_of([squares()]), (64, 64)).semantic
        image = squares()[0]
        assert semantic[0, image == 70000].unique().tolist() == [2]
        assert (semantic[0, image == 0] == -1).all()


class TestMatching:
    def test_sums_over_masks_are_those_of_masks_drawn_out(self) -> None:
        targets = mask_targets(batch_of([squares(), ANNOTATIONS["only stuff"]]), (16, 16))
        values = torch.rand(2, 3, 16, 16)
        sums = region_sums(values, targets)
        for b in range(2):
            for r in range(targets.labels.shape[1]):
                expected = (values[b] * (targets.owner[b] == r)).sum((1, 2))
                torch.testing.assert_close(sums[b, :, r], expected)

    def test_the_assignment_is_the_best_one_to_one(self) -> None:
        dice = torch.tensor([[[0.9, 0.8], [0.8, 0.1], [0.0, 0.0]]])
        found = match(dice, torch.ones_like(dice), torch.tensor([[0, 1]]))
        assert found.tolist() == [[1, 0, -1]]  # not the greedy one

    def test_with_more_masks_than_queries_every_query_has_one(self) -> None:
        dice = torch.rand(1, 2, 5)
        found = match(dice, torch.ones_like(dice), torch.tensor([[0, 1, -1, 0, 0]]))
        assert (found >= 0).all() and found.unique().numel() == 2 and not (found == 2).any()

    @pytest.mark.parametrize("masks", [0, 3])
    def test_without_masks_nobody_is_matched(self, masks: int) -> None:
        none = torch.zeros(2, 4, masks)
        assert (match(none, none, torch.full((2, masks), -1)) == -1).all()

    def test_costs_that_are_not_numbers_do_not_stop_a_run_here(self) -> None:
        dice = torch.full((1, 2, 2), float("nan"))
        assert sorted(match(dice, dice, torch.tensor([[0, 1]]))[0].tolist()) == [0, 1]

    @pytest.mark.parametrize("shared", [True, False])
    def test_all_costs_of_a_step_are_solved_together(
        self, shared: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[int, ...]] = []

        def counted(dice: Tensor, *rest: Tensor) -> Tensor:
            calls.append(tuple(dice.shape[:2]))
            return match(dice, *rest)

        monkeypatch.setattr(module, "match", counted)
        judged(batch_of([squares(), squares()]), losses={"share_final_matching": shared}, **PAPER)
        assert calls == [(1 if shared else 4, 2)]


class TestSampling:
    def test_small_masks_are_drawn_more_often_and_no_pixel_twice(self) -> None:
        owner = torch.zeros(1, 1000, dtype=torch.int64)
        owner[:, :50] = 1
        drawn = []
        for seed in range(20):
            torch.manual_seed(seed)
            pixels = sample_pixels(owner, 2, 100, temperature=1.5)
            assert pixels is not None and pixels.unique().numel() == 100
            drawn.append(int((pixels < 50).sum()))
        assert np.mean(drawn) > 25  # evenly it would be 5

    def test_void_comes_last_and_everything_is_drawn_without_drawing(self) -> None:
        owner = torch.full((1, 100), -1)
        owner[:, 40:50] = 3
        pixels = sample_pixels(owner, 6, 20, temperature=1.5)
        assert pixels is not None and ((pixels >= 40) & (pixels < 50)).sum() == 10
        assert sample_pixels(owner, 6, 100, temperature=1.5) is None

    @pytest.mark.parametrize("size", [(16, 16), (17, 17)])
    def test_features_of_pixels_are_those_of_the_enlarged_map(self, size: tuple[int, int]) -> None:
        feature = torch.randn(2, 5, 5, 5)
        whole = resize_aligned(feature, size, size[0] % 2 == 1).flatten(2).transpose(1, 2)
        pixels = torch.randperm(size[0] * size[1])[:50].expand(2, -1)
        torch.testing.assert_close(features_at(feature, None, size), whole)
        torch.testing.assert_close(features_at(feature, pixels, size), whole[:, pixels[0]])

    def test_only_the_hardest_pixels_can_be_taken(self) -> None:
        logits, labels = torch.randn(1, 3, 4, 5), torch.randint(0, 3, (1, 4, 5))
        every = torch.nn.functional.cross_entropy(logits, labels, reduction="none").flatten()
        found = sampled_semantic_loss(logits, labels, 100, temperature=2.0, hardest=0.2)
        torch.testing.assert_close(found, every.topk(4).values.mean())


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ANNOTATIONS)
def test_losses_and_gradients_are_finite(name: str, choice: str) -> None:
    batch, model = batch_of([ANNOTATIONS[name]]), network()
    for shared in (True, False):
        criterion = KMaXCriterion(
            model, loss(CHOICES[choice], share_final_matching=shared, instance_samples=100)
        )
        output = some_output(batch)
        terms = criterion(model, output, batch)
        total(terms).backward()
        assert all(v.isfinite() and v >= 0 for v in terms.values()), terms
        found = [v.grad for v in leaves(output)] + [p.grad for p in criterion.parameters()]
        assert all(g is None or g.isfinite().all() for g in found)


def test_every_annotation_in_one_batch() -> None:
    assert all(np.isfinite(v) for v in judged(batch_of(list(ANNOTATIONS.values())), **PAPER).values())


def test_where_everything_is_void_only_classes_and_branches_learn() -> None:
    terms = judged(batch_of([ANNOTATIONS["everything void"]]), **PAPER)
    assert terms["class"] > 0
    assert {k for k, v in terms.items() if v != 0} == {"class"}


@pytest.mark.parametrize("choice", ["kmax", "remax"])
def test_void_pixels_have_no_gradient(choice: str) -> None:
    batch, model = batch_of([squares()]), network()
    output = some_output(batch)
    total(KMaXCriterion(model, loss(CHOICES[choice]))(model, output, batch)).backward()
    grad = output.final.mask_logits.grad
    owner = mask_targets(batch, (16, 16)).owner[0]
    assert grad is not None and not grad[0, :, owner < 0].any() and grad[0, :, owner >= 0].any()


def test_one_class_only_trains() -> None:
    with torch.device("meta"):
        model = create_model("remax_t", num_classes=1, proposals=QUERIES)
    assert isinstance(model, KMaXDeepLab)
    batch = batch_of([(ids(1), table((1, 0)))])
    criterion = KMaXCriterion(model, KMaXLossConfig())
    terms = criterion(model, some_output(batch, classes=1), batch)
    total(terms).backward()
    assert all(v.isfinite() for v in terms.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in criterion.parameters())


class TestReMask:
    """What the relaxation touches, and what each of its switches changes."""

    # switch → the terms it changes
    SWITCHES = (
        ({"mask_id_loss": "softmax"}, {"class", "dice", "mask_id", "remask"}),
        ({"remask_layers": 0}, {"dice", "mask_id", "remask"}),
        ({"remask_layers": 1}, {"dice", "mask_id", "remask"}),
        ({"remask_layers": 99}, set()),
        ({"eta": 0.0}, {"class"}),
        ({"eta": 0.5}, {"class"}),
        ({"identity_mapping": False}, {"dice", "mask_id"}),
        ({"stop_gradient": False}, set()),
        ({"detach_class": True}, set()),
        ({"semantic_source": "ground_truth"}, {"dice", "mask_id", "remask"}),
        ({"aspp": "separable"}, {"dice", "mask_id", "remask"}),
        ({"x_sem": "pixel_feature"}, {"dice", "mask_id", "remask"}),
        ({"semantic_loss": "softmax_ce"}, {"remask"}),
        ({"semantic_weight": 1.0}, {"remask"}),
    )

    @pytest.mark.parametrize(("switch", "changed"), SWITCHES, ids=lambda v: "-".join(sorted(v)))
    def test_each_switch_changes_what_it_should(self, switch: dict[str, Any], changed: set[str]) -> None:
        batch = batch_of([squares()])
        losses = {"instance_samples": 10**6, "semantic_samples": 10**6}  # nothing drawn
        before, after = (
            judged(batch, losses=losses, **PAPER),
            judged(batch, losses=losses, **{**PAPER, **switch}),
        )
        assert {k for k in before if before[k] != after.get(k)} == changed

    def test_the_unrelaxed_masks_match_and_soften_the_classes(self) -> None:
        batch = batch_of([squares()])
        plain = judged(batch, **{**PAPER, "remask_layers": 0})
        assert judged(batch, **PAPER)["class"] == plain["class"]

    def gradients(self, **changes: Any) -> tuple[KMaXCriterion, KMaXOutput]:
        """After the backward pass of the mask terms alone."""
        batch, model = batch_of([squares()]), network()
        criterion, output = KMaXCriterion(model, loss({**PAPER, **changes})), some_output(batch)
        terms = criterion(model, output, batch)
        (terms["dice"] + terms["mask_id"]).backward()
        return criterion, output

    def test_the_branch_learns_from_its_own_loss_only(self) -> None:
        criterion, output = self.gradients()
        assert all(p.grad is None for p in criterion.parameters())
        assert output.layers[0].key is not None and output.layers[0].key.grad is None
        logits = output.layers[0].class_logits
        assert logits is not None and logits.grad is not None and logits.grad[..., :-1].any()
        assert not logits.grad[..., -1].any()  # "no object" is no class of equation 1

    def test_unless_the_gradient_is_let_through(self) -> None:
        criterion, output = self.gradients(stop_gradient=False)
        assert all(p.grad is not None and p.grad.any() for k, p in criterion.named_parameters() if "out" in k)
        assert output.layers[0].key is not None and output.layers[0].key.grad is not None

    def test_the_gradient_into_the_classes_can_be_stopped(self) -> None:
        _, output = self.gradients(detach_class=True)
        logits = output.layers[0].class_logits
        assert logits is not None and logits.grad is None

    def test_the_branch_starts_at_one_class_in_k(self) -> None:
        gate = KMaXCriterion(network(), loss(PAPER)).gates[0].branch
        probability = gate(torch.zeros(1, 256, 4, 4)).sigmoid()
        torch.testing.assert_close(probability.mean().item(), 1 / CLASSES, atol=0.01, rtol=0)


def test_losses_are_computed_in_full_precision_under_autocast() -> None:
    batch, model = batch_of([squares()]), network()
    output, criterion = (
        some_output(batch),
        KMaXCriterion(network(), loss({"mask_id_loss": "sigmoid", "eta": 0.1})),
    )
    plain = criterion(model, output, batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = criterion(model, output, batch)
    for key, value in plain.items():
        torch.testing.assert_close(mixed[key], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReMaXConfig(eta=1.5), "remax.eta is 1.5; it must be from 0 to 1"),
        (lambda: ReMaXConfig(eta=-0.1), "it must be from 0 to 1"),
        (lambda: ReMaXConfig(remask_layers=-1), "it must be 0 .none. or more"),
        (lambda: ReMaXConfig(semantic_weight=float("nan")), "it must be 0 or more"),
        (lambda: KMaXConfig(remask_at_test=ReMaXConfig(semantic_source="ground_truth")), "no ground truth"),
        (lambda: KMaXLossConfig(instance_samples=0), "it must be 1 or more"),
        (lambda: KMaXLossConfig(semantic_hardest=0.0), "must be above 0"),
        (lambda: create_model("remax_t", remask_at_test={"eta": 2}), "it must be from 0 to 1"),
        (lambda: create_model("remax_t", proposals=-3), "at least one query"),
    ],
)
def test_values_out_of_range_are_refused_with_the_range(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_no_masks_at_all_is_a_batch_like_any_other() -> None:
    targets = mask_targets(batch_of([ANNOTATIONS["no segments"]]), (16, 16))
    assert targets.labels.shape == (1, 0) and (targets.owner == -1).all()
    assert isinstance(targets, MaskTargets)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_false_positives_and_negatives_are_told_apart(activation: Any) -> None:
    torch.manual_seed(0)
    logits, owner = torch.randn(2, QUERIES, 3, 4), torch.randint(0, QUERIES, (2, 3, 4))
    owner[0, 0] = -1
    probability = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    truth = one_hot_map(owner, QUERIES)
    counted = (owner >= 0)[:, None]
    positives, negatives = false_losses(logits, owner, activation)
    wanted = -((1 - truth) * (1 - probability).log() * counted).sum((1, 2, 3))
    torch.testing.assert_close(positives, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        negatives, -(truth * probability.log() * counted).sum((1, 2, 3)), rtol=1e-4, atol=1e-4
    )


def test_the_ratio_of_false_positives_is_measured_where_it_is_asked_for() -> None:
    batch, model = batch_of([squares(), ANNOTATIONS["no segments"]]), network()
    output = some_output(batch)
    with torch.no_grad():
        for prediction in output.layers:
            prediction.mask_logits.zero_()
    criterion = KMaXCriterion(model, loss(PAPER))
    criterion.gates.eval()
    criterion(model, output, batch)
    assert criterion.measures == {}
    criterion.watching = True
    criterion(model, output, batch)
    # Masks that say nothing are wrong on all queries but one; relaxed they stay 0.
    assert criterion.measures.keys() == {"fp_fn", "fp_fn_unrelaxed"}
    assert all(v.item() == pytest.approx(QUERIES - 1, rel=1e-5) for v in criterion.measures.values())
