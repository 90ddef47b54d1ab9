"""How a run begins from other weights: what is taken, frozen for a while, and kept still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maskconver.cli.main import main
from maskconver.core.files import WEIGHTS
from maskconver.errors import CheckpointError, ConfigError
from maskconver.models import create_model
from maskconver.models.checkpoint import init_from, save
from maskconver.training.config import ModelChoice, TrainConfig
from maskconver.training.loader import DataConfig
from maskconver.training.run import _still

from .conftest import tiny

SMALL: dict[str, Any] = {"filters": 8, "embedding_dim": 8, "proposals": 5}


def model(name: str = "maskconver_mobile_dense_512", **changes: Any) -> Any:
    return create_model(name, **{"num_classes": 2, **SMALL, **changes})


def kept(a: Path, b: Path, *prefixes: str) -> set[bool]:
    """Whether each tensor of these modules is equal in the models of two runs."""
    mine, other = (load_file(run / "last.safetensors") for run in (a, b))
    return {torch.equal(mine[k], other[k]) for k in mine if k.startswith(prefixes)}


def test_what_is_frozen_for_some_steps_learns_afterwards_and_resuming_changes_nothing(
    cells: Path, tmp_path: Path
) -> None:
    whole, parts, early = tmp_path / "whole", tmp_path / "parts", tmp_path / "early"
    words = ("--freeze=backbone", "--freeze-steps=2", "--ema=0", "--schedule.kind=constant")
    words += ("--schedule.warmup=0", "--optim.backbone_lr=0.5")
    for out, steps in ((whole, 4), (parts, 1), (early, 2), (parts, 4)):
        assert main(tiny(cells, out, *words, f"--steps={steps}", "--val_every=9", "--resume=auto")) == 0
        if (out, steps) == (parts, 1):
            (tmp_path / "first").mkdir()
            (parts / "last.safetensors").rename(tmp_path / "first/last.safetensors")
    assert kept(tmp_path / "first", early, "backbone.") == {True}
    assert False in kept(tmp_path / "first", early, "decoder.")
    assert False in kept(early, whole, "backbone.")
    assert kept(whole, parts, "") == {True}


def test_resuming_with_other_weights_frozen_is_refused_in_one_line(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny(cells, tmp_path, "--freeze=backbone", "--steps=1", "--val_every=9")) == 0
    assert main(tiny(cells, tmp_path, "--steps=2", "--resume=auto")) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert "other weights frozen" in said


def test_small_batches_keep_the_statistics_of_the_start_also_when_resumed(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    save(model(filters=16, embedding_dim=16), base / "last.safetensors")
    words = (f"--init-from={base / 'last.safetensors'}", "--init-modules=backbone,decoder", "--ema=0")
    words += ("--schedule.kind=constant", "--schedule.warmup=0")
    for steps in (1, 2):
        assert main(tiny(cells, out, *words, f"--steps={steps}", "--val_every=9", "--resume=auto")) == 0
    assert "batch norms keep their initial statistics (--batch-norm)" in capsys.readouterr().out
    before, after = (load_file(run / "last.safetensors") for run in (base, out))
    same = {k: torch.equal(before[k], after[k]) for k in before if k.endswith("running_mean")}
    assert all(equal for k, equal in same.items() if k.startswith(("backbone.", "decoder.")))
    assert not any(equal for k, equal in same.items() if k.startswith("class_head."))
    scales = [k for k in before if k.startswith("decoder.") and k.endswith("bn.weight")]
    assert not all(torch.equal(before[k], after[k]) for k in scales)


def test_what_backbone_weights_gave_does_not_begin_at_random(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = model(filters=16, embedding_dim=16)
    save(base, tmp_path / "base.safetensors")
    torch.save(base.backbone.state_dict(), tmp_path / "backbone.pth")
    words = f"--init-from={tmp_path / 'base.safetensors'}", "--init-modules=decoder", "--steps=1"
    weights = f"--model.backbone_weights={tmp_path / 'backbone.pth'}"
    assert main(tiny(cells, tmp_path / "run", *words, weights)) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("init from"))
    assert "begin at random (class_" in said and "backbone." not in said


@pytest.mark.parametrize(
    ("kind", "batch", "started", "still"),
    [
        ("auto", 2, True, True), ("auto", 4, True, False), ("auto", 2, False, False),
        ("train", 2, True, False), ("frozen", 4, True, True),
    ],
)  # fmt: skip
def test_batch_norms_that_stand_still(kind: Any, batch: int, started: bool, still: bool) -> None:
    config = TrainConfig(ModelChoice("maskconver_mobile_dense_512"), DataConfig(batch_size=batch))
    config.batch_norm = kind
    names = _still(model(), config, {"backbone.block0.bn.running_mean"} if started else set())
    assert names == (["backbone.block0.bn"] if still else [])


def test_there_are_no_statistics_to_keep_without_a_start() -> None:
    config = TrainConfig(ModelChoice("maskconver_mobile_dense_512"), batch_norm="frozen")
    with pytest.raises(ConfigError, match="give `init_from` or `backbone_weights`"):
        _still(model(), config, set())


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_start_from_those_of_colour(channels: int, tmp_path: Path) -> None:
    base, other = model(), model(in_channels=channels)
    save(base, tmp_path / "base.safetensors")
    report = init_from(other, tmp_path / "base.safetensors", ("backbone", "decoder"))
    assert list(report.adapted) == ["backbone.block0.conv.weight"] and not report.mismatched
    theirs, own = base.backbone.block0.conv.weight, other.backbone.block0.conv.weight
    if channels == 1:
        torch.testing.assert_close(own, theirs.sum(1, keepdim=True))
    else:
        torch.testing.assert_close(own[:, :3] * channels / 3, theirs)


def test_a_module_for_which_the_start_has_nothing_is_named(tmp_path: Path) -> None:
    save(model(), tmp_path / "base.safetensors")
    other = model(backbone="mobilenetv4_conv_small")
    with pytest.raises(CheckpointError, match=r"fits the module backbone .* leave it out of `init_modules`"):
        init_from(other, tmp_path / "base.safetensors", ("backbone", "decoder"))


@pytest.mark.skipif(
    not (WEIGHTS / "facade.safetensors").is_file(), reason="the base model is not in this checkout"
)
def test_start_begins_from_the_bundled_base(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train", "--config=start", f"--data={cells}", f"--out={tmp_path}", "--steps=1", "--val_every=1",
        "--data.workers=0", "--model.input.size=[64,64]", "--data.augment.crop=[64,64]", "--device=cpu",
        "--threads=1", "--log_images=0", "--data.val_images=1",
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "init from facade: 305 tensors loaded" in said and "batch norms keep" not in said
    assert main([*words, "--init-from=none", "--overwrite=true"]) == 0
    assert "init from" not in capsys.readouterr().out
