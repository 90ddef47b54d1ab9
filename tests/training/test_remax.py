"""Training of kMaX-DeepLab and ReMaX: it learns, stops, goes on, and leaves nothing of ReMask behind."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from maskconver import Predictor, load
from maskconver.cli.main import main
from maskconver.data.synth.write import write_dataset
from maskconver.errors import ConfigError
from maskconver.models import create_model
from maskconver.models.checkpoint import read_metadata, read_state, save
from maskconver.models.inspect import count_parameters
from maskconver.models.kmax import KMaXDeepLab
from maskconver.models.kmax.losses import KMaXCriterion, KMaXLossConfig
from maskconver.models.kmax.variants import relaxed
from maskconver.models.maskconver.losses import LossConfig
from maskconver.training.config import ModelChoice, TrainConfig
from maskconver.training.optim import OptimConfig, create_optimizer
from tests.batches import ANNOTATIONS, batch_of, squares
from tests.networks import trained_looking


def small(name: str = "remax_t", **changes: Any) -> KMaXDeepLab:
    torch.manual_seed(0)
    changes = {"num_classes": 5, "proposals": 12, "bn_momentum": 0.1, **changes}
    changes["training"] = {"drop_path": 0.0, "backbone_drop_path": 0.0, **changes.get("training", {})}
    model = create_model(name, **changes)
    assert isinstance(model, KMaXDeepLab)
    return model


def learn(model: KMaXDeepLab, steps: int, lr: float = 2e-3) -> tuple[list[float], nn.Module]:
    """Steps on one batch of 64 px; the total of each, and the criterion."""
    criterion = KMaXCriterion(model.train(), relaxed())
    optimizer = torch.optim.AdamW([*model.parameters(), *criterion.parameters()], lr)
    batch = batch_of([squares(), ANNOTATIONS["only stuff"]])
    totals = []
    for _ in range(steps):
        terms = criterion(model, model(batch.images), batch)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    return totals, criterion


@pytest.fixture(scope="module")
def trained() -> tuple[KMaXDeepLab, list[float], nn.Module]:
    model = small()
    return model, *learn(model, 8)


def test_remax_t_learns_and_every_weight_has_a_gradient(
    trained: tuple[KMaXDeepLab, list[float], nn.Module],
) -> None:
    model, totals, criterion = trained
    assert totals[-1] < 0.85 * totals[0] and np.isfinite(totals).all()
    for key, parameter in (*model.named_parameters(), *criterion.named_parameters()):
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


SLOW = ("remax_m", "remax_b", "remax_convnext_t", "remax_max_s")


@pytest.mark.parametrize("name", ["remax_s", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_the_other_models_learn(name: str) -> None:
    totals, _ = learn(small(name), 6, 1e-3)
    assert totals[-1] < 0.95 * totals[0] and np.isfinite(totals).all()


class TestNothingOfReMaskIsLeft:
    def test_in_the_saved_file(
        self, trained: tuple[KMaXDeepLab, list[float], nn.Module], tmp_path: Path
    ) -> None:
        model, _, criterion = trained
        assert len(criterion.gates) == 3  # type: ignore[arg-type]
        save(model, tmp_path / "remax.safetensors")
        plain = set(small().state_dict())
        assert {k for k in plain if "num_batches" not in k} == set(read_state(tmp_path / "remax.safetensors"))
        assert load(tmp_path / "remax.safetensors").config == model.config

    @torch.no_grad()
    def test_in_the_answer_which_is_bitwise_that_of_plain_kmax(
        self, trained: tuple[KMaXDeepLab, list[float], nn.Module]
    ) -> None:
        model, images = trained[0].eval(), torch.randn(1, 3, 64, 64)
        plain = small()
        plain.load_state_dict(model.state_dict())
        ours, theirs = model(images).final, plain.eval()(images).final
        assert torch.equal(ours.mask_logits, theirs.mask_logits)
        assert torch.equal(ours.class_logits, theirs.class_logits)


class TestBranchesThatAreKept:
    LOSS = replace(relaxed(), remax=replace(relaxed().remax, keep_branches=True))

    @torch.no_grad()
    def test_are_in_the_file_and_change_nothing_until_they_are_put_to_work(self, tmp_path: Path) -> None:
        model = trained_looking("remax_t", num_classes=5, proposals=12)
        for layer in model.decoder.layers:  # queries of one opinion would all be relaxed alike
            layer.predictor.class_head.weight.normal_()
        plain = copy.deepcopy(model)
        criterion = KMaXCriterion(model, self.LOSS)
        assert not list(criterion.parameters()) and len(model.kept_gates) == 3
        for gate in model.kept_gates:
            gate.branch.out.weight.normal_(0, 5)
        save(model, tmp_path / "kept.safetensors")
        loaded, images = load(tmp_path / "kept.safetensors"), torch.randn(1, 3, 64, 64)
        own = loaded.predict(images).mask_logits
        assert torch.equal(own, plain.eval().predict(images).mask_logits)
        assert count_parameters(loaded) == count_parameters(plain)
        relaxing = loaded.with_remask()
        assert relaxing.kept_gates is None and loaded.kept_gates is not None
        found = relaxing.predict(images).mask_logits
        assert not torch.equal(found, own)
        torch.testing.assert_close(relaxing.optimized().predict(images).mask_logits, found, rtol=0, atol=0.01)
        fewer = loaded.optimized().predict(images).mask_logits
        torch.testing.assert_close(fewer, own, rtol=0, atol=0.01)

    def test_learn_as_those_of_the_criterion_do(self) -> None:
        batch, found = batch_of([squares()]), []
        for loss in (relaxed(), self.LOSS):
            torch.manual_seed(4)
            model = small().train()
            criterion = KMaXCriterion(model, loss)
            torch.manual_seed(5)
            terms = criterion(model, model(batch.images), batch)
            torch.stack(list(terms.values())).sum().backward()
            found.append(terms)
        assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
        assert all(p.grad is not None for p in model.kept_gates.parameters())

    def test_of_another_run_are_dropped_where_this_one_keeps_none(self) -> None:
        model = small()
        KMaXCriterion(model, self.LOSS)
        KMaXCriterion(model, relaxed())
        assert model.kept_gates is None and model.config.remask_kept is None

    def test_a_model_without_them_says_how_to_get_them(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_dataset(tmp_path / "d", style="scenes", count=1, size=(64, 64), seed=0, split="val")
        save(small(), tmp_path / "m.safetensors")
        words = ["evaluate", str(tmp_path / "m.safetensors"), "--remask", "--data", str(tmp_path / "d")]
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "--loss.remax.keep_branches true" in error or "loss.remax.keep_branches true" in error
        assert error.count("\n") == 1

    def test_where_there_are_none_to_keep_is_refused(self) -> None:
        for more in ({"semantic_source": "ground_truth"}, {"remask_layers": 0}):
            with pytest.raises(ConfigError, match="no branches to keep"):
                replace(self.LOSS.remax, **more)


def test_masks_cannot_be_trained_as_one_thing_and_read_as_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", "--config", "remax_coco", "--loss.remax.mask_id_loss", "softmax", "--print_config"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "set both to softmax or both to sigmoid" in error and error.count("\n") == 1
    assert main([*words, "--model.postprocess.mask_activation", "softmax"]) == 0


def test_switched_off_it_is_kmax(trained: tuple[KMaXDeepLab, list[float], nn.Module]) -> None:
    batch = batch_of([squares()])
    found = []
    for name in ("remax_t", "kmax_r50"):
        small_network = {"backbone": "mobilenetv3_small_100", "pixel_blocks": (1, 1, 1, 1)}
        model = small(name, **small_network, decoder_layers=(1, 1, 1))
        criterion = KMaXCriterion(model, KMaXLossConfig())
        torch.manual_seed(3)
        found.append(criterion(model.train(), model(batch.images), batch))
    assert found[0].keys() == found[1].keys() and "remask" not in found[0]
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


@pytest.mark.parametrize("at_test", [False, True])
def test_a_file_of_an_earlier_version_is_loaded(at_test: bool, tmp_path: Path) -> None:
    remax = {"mask_id_loss": "sigmoid", "remask_layers": 2, "eta": 0.1}
    model = small(remask_at_test=remax if at_test else None)
    save(model, tmp_path / "model.safetensors")
    meta = read_metadata(tmp_path / "model.safetensors")
    old = {"remax": {**remax, "remask_at_test": at_test}, "drop_path": 0.2, "mask_start": [0.1, 0.0]}
    meta["config"] = {**meta["config"], **old}
    del meta["config"]["remask_at_test"]
    state = read_state(tmp_path / "model.safetensors")
    save_file(state, tmp_path / "old.safetensors", metadata={"maskconver": json.dumps(meta)})
    assert load(tmp_path / "old.safetensors").config == model.config


@torch.no_grad()
def test_relaxed_at_test_the_branch_is_a_part_of_the_network(tmp_path: Path) -> None:
    relax = {"mask_id_loss": "sigmoid", "remask_layers": 2, "eta": 0.1}
    model = small(remask_at_test=relax, training={"mask_start": (1.0, 0.0)}).eval()
    assert not list(KMaXCriterion(model, KMaXLossConfig()).parameters())
    keys = [k for k in model.state_dict() if ".gate." in k]
    assert {k.split(".")[2] for k in keys} == {"0", "1"}
    for layer in model.decoder.layers:
        nn.init.ones_(layer.kmeans_out.bn.weight)  # starts at 0: what the pixels say would not be heard
        layer.predictor.class_head.weight.normal_()  # queries of one opinion would all be relaxed alike
        if layer.gate is not None:
            layer.gate.branch.out.weight.normal_(0, 5)
    images = torch.randn(1, 3, 64, 64)
    save(model, tmp_path / "model.safetensors")
    answer = model.predict(images)
    assert torch.equal(load(tmp_path / "model.safetensors").predict(images).mask_logits, answer.mask_logits)
    plain = small()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k not in keys})
    assert not torch.equal(plain.eval().predict(images).mask_logits, answer.mask_logits)
    # Training looks at the same relaxed masks.
    batch = batch_of([squares()])
    with torch.enable_grad():
        terms = KMaXCriterion(model, KMaXLossConfig())(model.train(), model(batch.images), batch)
        torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for k, p in model.named_parameters() if k in keys)


@pytest.mark.parametrize("name", ["everything void", "no segments", "more masks than queries"])
def test_images_of_64_px_with_any_annotation_give_finite_gradients(name: str) -> None:
    model = small(proposals=4)
    criterion = KMaXCriterion(model.train(), relaxed())
    batch = batch_of([ANNOTATIONS[name]])
    terms = criterion(model, model(batch.images), batch)
    torch.stack(list(terms.values())).sum().backward()
    for key, parameter in (*model.named_parameters(), *criterion.named_parameters()):
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


class TestSeam:
    def test_a_family_has_its_criterion_and_losses_of_another_are_refused(self) -> None:
        config = TrainConfig(ModelChoice("remax_t"))
        assert type(config.loss) is KMaXLossConfig
        assert isinstance(small().family.criterion(small(), config.loss), KMaXCriterion)
        with pytest.raises(ConfigError, match="remax_t is trained with a loss of KMaXLossConfig"):
            TrainConfig(ModelChoice("remax_t"), loss=LossConfig())
        with pytest.raises(ConfigError, match="maskconver_mobile_256 is trained with"):
            TrainConfig(loss=KMaXLossConfig())

    def test_the_backbone_can_have_a_rate_of_its_own(self) -> None:
        model = small()
        groups = create_optimizer(model, OptimConfig(backbone_lr=0.1, decay="depthwise"), 0.01).param_groups
        rate = {id(p): group["lr"] for group in groups for p in group["params"]}
        assert all(rate[id(p)] == pytest.approx(0.001) for p in model.backbone.parameters())
        assert all(rate[id(p)] == 0.01 for p in model.decoder.parameters())
        assert len(rate) == len(list(model.parameters()))

    def test_tables_norms_biases_and_centres_do_not_decay(self) -> None:
        model = small()
        groups = create_optimizer(model, OptimConfig(decay="depthwise", weight_decay=0.1), 0.01).param_groups
        decays = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        for key, parameter in model.named_parameters():
            kernel = key.endswith(".weight") and parameter.ndim == 4
            assert (id(parameter) in decays) == kernel, key


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for split in ("train", "val"):
        write_dataset(folder, style="scenes", count=2, size=(64, 64), split=split)
    return folder


def words(data: Path, out: Path, *more: str) -> list[str]:
    return [
        "train", f"--data={data}", f"--out={out}", "--model.name=remax_t", "--model.input.size=[64,64]",
        "--model.proposals=12", "--loss.remax.aspp=separable", "--data.batch_size=2", "--data.workers=0",
        "--steps=4", "--val_every=4", "--checkpoint_every=2", "--schedule.warmup=1", "--log_every=1",
        "--threads=1", "--device=cpu", "--log_images=1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert main(words(scenes, out)) == 0
    return out


def test_a_run_leaves_what_a_maskconver_s_does(run: Path) -> None:
    row = json.loads((run / "curve.jsonl").read_text())
    assert row["step"] == 4 and 0 <= row["val/pq"] <= 1
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    terms = ("class", "dice", "mask_id", "instance", "semantic", "remask", "fp_fn", "fp_fn_unrelaxed")
    assert {f"train/{t}" for t in terms} <= set(header)
    recipe = read_metadata(run / "best.safetensors")["extra"]["recipe"]
    assert "remask_layers: 4" in recipe and "\nloss:\n  class_weight:" in recipe
    assert not [k for k in read_state(run / "best.safetensors") if "gate" in k]
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert [k for k in state if k.startswith("criterion.gates.0")]  # a run goes on with its branches


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(scenes: Path, run: Path, tmp_path: Path) -> None:
    assert main(words(scenes, tmp_path, "--steps=2", "--val_every=2", "--schedule.kind=constant")) == 0
    whole, again = tmp_path / "whole", tmp_path
    assert main(words(scenes, whole, "--schedule.kind=constant")) == 0
    assert main(words(scenes, again, "--schedule.kind=constant", "--resume=auto")) == 0
    a, b = read_state(whole / "last.safetensors"), read_state(again / "last.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_trained_model_is_evaluated_predicts_and_is_fine_tuned(
    scenes: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(run / "last.safetensors")
    assert main(["evaluate", model, "--data", str(scenes), "--split", "val", "--json"]) == 0
    capsys.readouterr()
    found = Predictor(model)(np.zeros((50, 70, 3), np.uint8))
    assert found.ids.shape == (50, 70)
    more = (f"--init-from={model}", "--steps=1", "--val_every=1", "--model.proposals=9")
    assert main(words(scenes, tmp_path, *more, "--loss.remax.keep_branches=true")) == 0
    assert "tensors loaded" in capsys.readouterr().out
    kept = str(tmp_path / "last.safetensors")
    assert read_state(kept)["decoder.centers"].shape == (256, 9)
    assert [k for k in read_state(kept) if k.startswith("kept_gates.0.")]
    assert main(["evaluate", kept, "--remask", "--data", str(scenes), "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mIoU"]["from"] == "scores"


def test_matching_s_share_of_the_step_is_logged(scenes: Path, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from maskconver.training.callbacks import Throughput

    logged: dict[str, float] = {}
    module = SimpleNamespace(
        criterion=SimpleNamespace(matching_seconds=0.5),
        device=torch.device("cpu"),
        log=lambda k, v, **_: logged.update({k: v}),
    )
    throughput = Throughput(2)
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.001}])])
    for _ in range(20):
        throughput.on_train_batch_start(trainer, module)  # type: ignore[arg-type]
        throughput.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
    assert logged["matching share"] > 0
