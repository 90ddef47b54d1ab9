"""What every model must do, whatever its family; each family's tests inherit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskconver.errors import ConfigError
from maskconver.export.driver import FORMATS
from maskconver.export.network import describe
from maskconver.export.options import ExportOptions
from maskconver.models import create_model
from maskconver.models.base import SegmentationModel
from maskconver.models.checkpoint import load, save
from maskconver.models.registry import model_config
from maskconver.models.topk import operator_topk
from tests.batches import batch_of, squares
from tests.fakes import CATEGORIES
from tests.networks import trained_looking

CLASSES = 5
SAME_TRAINING = frozenset({"input", "postprocess"})
SAME_ANSWERS = SAME_TRAINING | {"proposals", "bn_momentum", "level_ranges"}


class Tester:
    """Makes the models of a family.

    Attributes:
        changes: fields of the config that make the networks small.
    """

    changes: ClassVar[dict[str, Any]] = {}

    def make(self, name: str, **changes: Any) -> Any:
        """The model of a name."""
        return create_model(name, **{"num_classes": CLASSES, **self.changes, **changes})


class TrainingTester(Tester):
    """Tests of a network with its family's losses.

    Attributes:
        steps: of training, at the end of which the loss is lower.
    """

    steps = 8

    def test_a_few_training_steps_lower_the_loss_and_reach_every_parameter(self, name: str) -> None:
        torch.manual_seed(0)
        model = self.make(name).train()
        criterion = model.family.criterion(model, model.family.loss())
        batch = batch_of([squares(), squares()])
        optimizer = torch.optim.AdamW([*model.parameters(), *criterion.parameters()], lr=1e-4)
        losses = []
        for _ in range(self.steps):
            terms = criterion(model, model(batch.images), batch)
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            for key, parameter in model.named_parameters():
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
            optimizer.step()
        assert losses[-1] < losses[0]


class ModelTester(Tester):
    """Tests of one network; a family inherits them as below and says what its networks give.

    ```python
    @pytest.mark.parametrize("name", quick(networks(list_models("mine*")), slow=["mine_large"]))
    class TestEveryNetwork(ModelTester):
        changes = {"proposals": 12}
    ```
    """

    def maps(self, output: Any) -> list[Tensor]:
        """The tensors of what a network gives in training that must be finite."""
        raise NotImplementedError

    @torch.no_grad()
    def test_proposals_have_their_shapes_and_are_finite(self, name: str) -> None:
        model, images = self.make(name).eval(), torch.randn(2, 3, 64, 96)
        assert isinstance(model, SegmentationModel)
        proposals = model.predict(images, 7)
        assert proposals.scores.shape == proposals.labels.shape == (2, 7)
        assert proposals.mask_logits.shape == (2, 7, 64 // model.stride, 96 // model.stride)
        found = (*self.maps(model(images)), proposals.scores, proposals.mask_logits)
        assert all(part.isfinite().all() for part in found)
        assert (proposals.scores.diff(dim=1) <= 0).all()
        assert ((proposals.labels >= 0) & (proposals.labels < CLASSES)).all()

    def test_a_saved_model_answers_bitwise_the_same(self, name: str, tmp_path: Path) -> None:
        torch.manual_seed(1)
        model, images = self.make(name).train(), torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            model(images)  # moves the batch-norm statistics away from their start
        save(model.eval(), tmp_path / "model.safetensors")
        loaded = load(tmp_path / "model.safetensors")
        assert loaded.config == model.config and loaded.name == name and not loaded.training
        a, b = model.predict(images, 10), loaded.predict(images, 10)
        for field in ("scores", "labels", "mask_logits", "class_logits"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))

    @torch.no_grad()
    def test_the_copy_for_inference_answers_the_same_and_the_model_stays(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = trained_looking(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        copy, images = model.optimized(), torch.randn(1, 3, 128, 192)
        assert copy is not model and not copy.training
        after = model.state_dict()
        assert list(after) == list(before) and all(torch.equal(after[k], v) for k, v in before.items())
        norms = [[m for m in net.modules() if isinstance(m, nn.BatchNorm2d)] for net in (model, copy)]
        assert len(norms[1]) <= len(norms[0]) // 2
        rounding, ranked = 1e-3, {}
        if name.endswith("max_s"):  # float32 turns 1e-7 of the image into 5e-2 of a score: so in float64
            rounding, images, ranked = 1e-4, images.double(), {"topk": operator_topk}
            model, copy = model.double(), model.optimized(topk=operator_topk).double()
            monkeypatch.setattr(Tensor, "float", Tensor.double)
        plain, other = model.predict(images, **ranked), copy.predict(images)
        torch.testing.assert_close(other.scores, plain.scores, rtol=rounding, atol=rounding / 10)

    @pytest.mark.parametrize("classes", [1, 1000])
    def test_one_and_a_thousand_categories_work(self, name: str, classes: int) -> None:
        proposals = self.make(name, num_classes=classes).eval().predict(torch.randn(1, 3, 64, 64), 5)
        assert proposals.scores.shape == (1, 5) and (proposals.labels < classes).all()

    def test_what_the_family_is_not_exported_to_is_refused(self, name: str) -> None:
        with torch.device("meta"):
            model = self.make(name, num_classes=None, categories=CATEGORIES)
        limits, size = model.family.limits, (64, 64)
        cases = {form.name: (form, ExportOptions(size=size)) for form in FORMATS.values()}
        refused = {form: form not in limits.formats for form in cases}
        onnx = FORMATS["onnx"]
        cases |= {
            "panoptic": (onnx, ExportOptions(size=size, output="panoptic")),
            "hard sigmoid": (onnx, ExportOptions(size=size, hard_sigmoid=True)),
            "fewer": (onnx, ExportOptions(size=size, proposals=model.config.proposals - 1)),
        }
        refused |= {"panoptic": not limits.panoptic, "hard sigmoid": not limits.hard_sigmoid}
        refused["fewer"] = not limits.fewer_proposals
        for case, (form, options) in cases.items():
            if refused[case]:
                with pytest.raises(ConfigError, match=model.family.name):
                    describe(model, options, form)
            else:
                assert describe(model, options, form).size == size

    @pytest.mark.slow
    @torch.no_grad()
    def test_the_network_is_one_graph_to_the_compiler(self, name: str) -> None:
        model, images = self.make(name).eval(), torch.randn(1, 3, 64, 64)
        torch.compiler.reset()  # else networks of one class count as recompilations of the first
        plain = self.maps(model(images))
        compiled = self.maps(torch.compile(model, fullgraph=True, backend="aot_eager")(images))
        for a, b in zip(compiled, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def networks(names: list[str], same: frozenset[str] = SAME_ANSWERS) -> list[str]:
    """The first name of each network: those that differ in the given fields alone are one."""
    first: dict[str, str] = {}
    for name in names:
        config = model_config(name)
        first.setdefault(repr((type(config), {k: v for k, v in vars(config).items() if k not in same})), name)
    return list(first.values())


def quick(names: list[str], slow: list[str]) -> list[Any]:
    """Parameters of the tests; those of the slow names are marked so."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]
