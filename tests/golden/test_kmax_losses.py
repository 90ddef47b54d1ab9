"""Losses, matching and relaxations of kMaX-DeepLab and ReMaX against the golden cases."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maskconver.models import create_model
from maskconver.models.batch import MaskTargets
from maskconver.models.kmax.loss_terms import (
    Assignment,
    class_loss,
    dice_loss,
    false_losses,
    mask_id_loss,
    one_hot_map,
    sampled_semantic_loss,
)
from maskconver.models.kmax.losses import KMaXCriterion, KMaXLossConfig, Output
from maskconver.models.kmax.matching import match, similarities
from maskconver.models.remax import (
    ProbabilityKind,
    branch_loss,
    class_overlap,
    probability,
    relax,
    semantic_gate,
    soften,
)

from .reference import case

pytestmark = pytest.mark.golden

CASES = ["fewer_gt", "more_gt", "kvoid", "unshared", "one_empty"]
QUERIES, CLASSES = 8, 5
# Names of the terms here and there, and their weights.
TERMS = {"class": "ce", "dice": "dice", "mask_id": "mask", "instance": "pixel_insdis"}


def masks_of(arrays: dict[str, NDArray]) -> MaskTargets:
    """The packed masks, which share no pixel, as one number a pixel."""
    size = arrays["pred_masks"].shape[2:]
    labels = [arrays[f"gt_labels_{b}"] for b in range(len(arrays["pred_masks"]))]
    owner = np.full((len(labels), *size), -1, np.int64)
    table = np.full((len(labels), max(map(len, labels))), -1, np.int64)
    for b, own in enumerate(labels):
        bits = np.unpackbits(arrays[f"gt_masks_{b}"], count=len(own) * size[0] * size[1])
        masks = bits.reshape(len(own), *size).astype(bool)
        assert masks.sum(0).max(initial=0) <= 1
        for i, mask in enumerate(masks):
            owner[b][mask] = i
        table[b, : len(own)] = own
    return MaskTargets(torch.from_numpy(owner), torch.from_numpy(table))


def auxiliary(name: str, part: str, index: int, shape: tuple[int, ...], scale: float) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(f"{name}/{part}_a{index}".encode()))
    return torch.from_numpy((rng.standard_normal(shape) * scale).astype(np.float32))


def outputs_of(name: str, arrays: dict[str, NDArray]) -> list[Output]:
    """The final output, its logits as leaves, and the two auxiliary ones."""
    logits = torch.from_numpy(arrays["pred_logits"]).requires_grad_()
    masks = torch.from_numpy(arrays["pred_masks"]).requires_grad_()
    feature = torch.from_numpy(arrays["pixel_feature_raw"])
    found = [Output(logits, masks, masks, F.normalize(feature, dim=1))]
    for i in range(2):
        m = auxiliary(name, "masks", i, masks.shape, 2.0)
        f = auxiliary(name, "feat", i, feature.shape, 1.0)
        found.append(Output(auxiliary(name, "logits", i, logits.shape, 1.5), m, m, F.normalize(f, dim=1)))
    return found


def criterion(**changes: Any) -> KMaXCriterion:
    with torch.device("meta"):
        model = create_model("kmax_r50", num_classes=CLASSES, proposals=QUERIES, semantic="none")
    return KMaXCriterion(model, KMaXLossConfig(**changes))  # type: ignore[arg-type]


@pytest.fixture(params=CASES)
def loaded(request: pytest.FixtureRequest) -> tuple[str, dict[str, NDArray]]:
    return request.param, case(f"kmax/loss_{request.param}")


def close(found: Tensor, expected: Any, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(found.detach(), np.asarray(expected), rtol=1e-5, atol=tolerance)


def test_matching_and_weights(loaded: tuple[str, dict[str, NDArray]]) -> None:
    name, arrays = loaded
    output, targets = outputs_of(name, arrays)[0], masks_of(arrays)
    assignment = criterion()._assign([output], targets)[0]
    labelled = (targets.owner >= 0)[:, None]
    dice, probability = similarities(output.class_logits, output.masks.softmax(1) * labelled, targets)
    found = match(dice, probability, targets.labels)
    for b in range(len(found)):
        queries = found[b].ge(0).nonzero()[:, 0]
        order = np.argsort(arrays[f"match_query_{b}"])
        assert queries.tolist() == arrays[f"match_query_{b}"][order].tolist()
        masks = found[b][queries]
        assert masks.tolist() == arrays[f"match_gt_{b}"][order].tolist()
        close(dice[b, queries, masks], arrays[f"match_dice_{b}"][order])
        close(probability[b, queries, masks], arrays[f"match_clsprob_{b}"][order])
    assert torch.equal(assignment.target, torch.from_numpy(arrays["target_class"]).long())
    alpha = torch.where(assignment.target < CLASSES, 0.75, 0.25)
    close(assignment.class_weight / alpha, arrays["pq_loss_class_weight"])
    close(assignment.dice_weight, arrays["pq_loss_mask_weight"])


def test_terms_total_and_gradients(loaded: tuple[str, dict[str, NDArray]]) -> None:
    name, arrays = loaded
    outputs, targets = outputs_of(name, arrays), masks_of(arrays)
    count = int(arrays["insdis_k"])
    judge = criterion(instance_samples=count, share_final_matching=name != "unshared")
    total = torch.zeros(())
    for i, (output, assignment) in enumerate(zip(outputs, judge._assign(outputs, targets))):
        for key, value in judge.terms(output, assignment, targets).items():
            theirs = f"L_loss_{TERMS[key]}" + (f"_{i - 1}" if i else "")
            close(value, arrays[theirs])
            total = total + getattr(judge.config, f"{key}_weight") * value
    semantic = torch.from_numpy(
        np.stack([arrays[f"gt_semantic_{b}"] for b in range(len(targets.owner))]).astype(np.int64)
    )
    samples = count if name == "kvoid" else semantic[0].numel()
    auxiliary_loss = sampled_semantic_loss(
        torch.from_numpy(arrays["aux_semantic_logits"]), semantic, samples, temperature=2.0
    )
    close(auxiliary_loss, arrays["L_loss_aux_semantic"])
    total = total + auxiliary_loss
    close(total, arrays["total"], 1e-5)
    total.backward()
    assert outputs[0].class_logits.grad is not None and outputs[0].masks.grad is not None
    close(outputs[0].class_logits.grad, arrays["grad_logits"])
    close(outputs[0].masks.grad, arrays["grad_masks"])


class Equations:
    """The case of equations 1 to 4: pixels × queries there, 1×N×4×5 here; float64."""

    def __init__(self) -> None:
        self.arrays = case("kmax/remax_equations")
        self.masks = self.map("m_pan").requires_grad_()
        self.semantic = self.map("m_sem")
        self.classes = torch.from_numpy(self.arrays["class_logits"])[None].requires_grad_()
        self.truth = torch.from_numpy(self.arrays["gt_semantic"]).long().view(1, 4, 5)
        self.target = torch.from_numpy(self.arrays["y_target"]).long()[None]
        # The semantic ground truth as masks: one a class. Of the queries' masks: gt_mask.
        self.segments = MaskTargets(self.truth, torch.tensor([[0, 1, 2, -1]]))
        member = self.map("gt_mask")[0] > 0
        self.owner = torch.where(member.any(0), member.int().argmax(0), -1)[None]

    def map(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name]).T.reshape(1, -1, 4, 5).clone()

    def gate(self, activation: ProbabilityKind) -> Tensor:
        classes = probability(self.classes, activation, -1)[..., :-1]
        return semantic_gate(probability(self.semantic, activation, 1), classes)

    def assignment(self) -> Assignment:
        weight = torch.from_numpy(self.arrays["class_weight"])[None]
        alpha = torch.where(self.target < 4, 0.75, 0.25)
        return Assignment(
            self.owner, self.target, alpha * weight, torch.from_numpy(self.arrays["dice_weight"])[None]
        )


@pytest.fixture
def equations() -> Equations:
    return Equations()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_equations_1_and_2(equations: Equations, activation: ProbabilityKind) -> None:
    gate = equations.gate(activation)
    close(gate, equations.map(f"m_hat_sem_{activation}"), 1e-12)
    close(relax(equations.masks, gate), equations.map(f"m_hat_pan_{activation}"), 1e-12)
    if activation == "sigmoid":
        close(relax(equations.masks, gate, False), equations.map("m_hat_pan_no_identity_sigmoid"), 1e-12)


def test_equations_1_and_2_with_the_ground_truth(equations: Equations) -> None:
    classes = probability(equations.classes, "sigmoid", -1)[..., :-1]
    gate = semantic_gate(one_hot_map(equations.truth, 4).double(), classes)
    close(gate, equations.map("m_hat_sem_gt"), 1e-12)
    close(relax(equations.masks, gate), equations.map("m_hat_pan_gt"), 1e-12)


def softened(target: Tensor, overlap: Tensor, eta: float) -> Tensor:
    """Equation 4 for hard targets, "no object" last."""
    return soften(F.one_hot(target, 5).float(), F.pad(overlap, (0, 1)), eta)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_equations_3_and_4(equations: Equations, activation: ProbabilityKind) -> None:
    masks = probability(equations.masks, activation, 1)
    overlap = class_overlap(masks, equations.segments, 4)
    close(F.pad(overlap, (0, 1))[0], equations.arrays[f"y_m_{activation}"], 1e-7)
    soft = softened(equations.target, overlap, 0.1)
    close(soft[0], equations.arrays[f"y_hat_{activation}"], 1e-7)
    if activation == "sigmoid":
        close(softened(equations.target, overlap, 0.5)[0], equations.arrays["y_hat_sigmoid_eta05"], 1e-7)
        weight = equations.assignment().class_weight
        close(class_loss(equations.classes, soft, weight), equations.arrays["class_loss_reclass"], 1e-7)
        hard = F.one_hot(equations.target, 5).float()
        close(class_loss(equations.classes, hard, weight), equations.arrays["class_loss_onehot"], 1e-7)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("kind", ["raw", "remask"])
def test_mask_losses(equations: Equations, activation: ProbabilityKind, kind: str) -> None:
    masks = equations.masks
    if kind == "remask":
        masks = relax(masks, equations.gate(activation))
    value = mask_id_loss(masks, equations.owner, activation)
    close(value, equations.arrays[f"mask_ce_{activation}_{kind}"], 1e-9)
    dice = dice_loss(probability(masks, activation, 1), equations.assignment())
    close(dice, equations.arrays[f"dice_{activation}_{kind}"], 1e-9)
    if (activation, kind) == ("sigmoid", "remask"):
        value.backward()
        assert equations.masks.grad is not None and equations.classes.grad is not None
        close(equations.masks.grad, equations.map("grad_m_pan"), 1e-9)
        close(equations.classes.grad[0], equations.arrays["grad_p"], 1e-9)


def test_false_positive_and_false_negative_losses(equations: Equations) -> None:
    positives, negatives = false_losses(equations.masks, equations.owner)
    close(positives[0], equations.arrays["fp_loss"], 1e-9)
    close(negatives[0], equations.arrays["fn_loss"], 1e-9)


def test_losses_of_the_branch(equations: Equations) -> None:
    close(branch_loss(equations.semantic, equations.truth, "bce"), equations.arrays["sem_loss_sigmoid"], 1e-9)
    close(
        branch_loss(equations.semantic, equations.truth, "softmax_ce"),
        equations.arrays["sem_loss_softmax"],
        1e-9,
    )
