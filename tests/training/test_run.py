"""A run from the command line: what it writes, how it stops, how it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskconver import Predictor, load
from maskconver.cli.main import main
from maskconver.data.synth.write import write_dataset
from maskconver.models import create_model
from maskconver.models.checkpoint import read_metadata, read_state

from .conftest import tiny


def same_weights(a: Path, b: Path) -> bool:
    mine, other = read_state(a), read_state(b)
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


@pytest.fixture(scope="module")
def unbroken(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    assert main(tiny(cells, out)) == 0
    return out


def test_a_run_leaves_models_log_curve_images_and_the_recipe(unbroken: Path) -> None:
    for name in ("last.ckpt", "last.safetensors", "best.safetensors", "recipe.yaml", "metrics.csv"):
        assert (unbroken / name).stat().st_size > 0, name
    assert list((unbroken / "images").glob("*.jpg"))
    assert list(unbroken.glob("events.out.tfevents*"))
    rows = [json.loads(line) for line in (unbroken / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [6]
    assert 0 <= rows[0]["val/pq"] <= 1
    header = (unbroken / "metrics.csv").read_text().splitlines()[0]
    assert {"train/center", "train/mask", "train/dice"} <= set(header.split(","))


def test_the_end_of_a_run_is_validated_whatever_the_interval(
    cells: Path, unbroken: Path, tmp_path: Path
) -> None:
    assert main(tiny(cells, tmp_path, "--val_every=4")) == 0
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 6]
    assert same_weights(tmp_path / "last.safetensors", unbroken / "last.safetensors")


def test_the_model_file_carries_recipe_categories_and_figures(unbroken: Path) -> None:
    extra = read_metadata(unbroken / "best.safetensors")["extra"]
    assert extra["recipe"] == (unbroken / "recipe.yaml").read_text()
    assert extra["step"] == 6
    assert "val/pq" in extra["metrics"]
    model = load(unbroken)
    assert model.categories is not None
    assert model.categories.names == ("nucleus", "background")


def test_a_recipe_written_by_a_run_starts_the_same_run(cells: Path, unbroken: Path, tmp_path: Path) -> None:
    assert main(["train", "--config", str(unbroken / "recipe.yaml"), "--out", str(tmp_path)]) == 0
    assert same_weights(tmp_path / "last.safetensors", unbroken / "last.safetensors")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_resumed_run_ends_with_the_same_weights(
    cells: Path, unbroken: Path, tmp_path: Path, number: signal.Signals
) -> None:
    _stop_after(cells, tmp_path, 3, number)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
    before = (tmp_path / "metrics.csv").read_text()
    assert main(tiny(cells, tmp_path, "--resume=auto")) == 0
    assert same_weights(tmp_path / "last.safetensors", unbroken / "last.safetensors")
    assert (tmp_path / "metrics_before_3.csv").read_text() == before != (tmp_path / "metrics.csv").read_text()


def _stop_after(cells: Path, out: Path, steps: int, number: signal.Signals = signal.SIGINT) -> None:
    """Runs the unbroken run's recipe in this process and stops it as a signal would."""
    import lightning.pytorch as pl

    from maskconver.training import run as module

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == steps:
                os.kill(os.getpid(), number)

    original = module.Throughput
    module.Throughput = lambda batch: Stop()  # type: ignore[assignment, misc]
    try:
        assert main(tiny(cells, out)) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    finally:
        module.Throughput = original  # type: ignore[misc]


def test_a_run_broken_off_in_its_last_validation_is_validated_when_it_is_resumed(
    cells: Path, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    for name in ("last.safetensors", "best.safetensors", "curve.jsonl"):
        (out / name).unlink()
    assert main(tiny(cells, out, "--resume=auto")) == 0
    assert same_weights(out / "last.safetensors", unbroken / "last.safetensors")
    assert json.loads((out / "curve.jsonl").read_text())["step"] == 6
    assert main(tiny(cells, out, "--resume=auto")) == 2  # now it has done everything


@pytest.mark.parametrize(("batch", "accumulate"), [(2, 2), (4, 1)])
def test_a_run_stopped_within_a_step_goes_on_with_that_step_and_sees_each_example_once(
    cells: Path, tmp_path: Path, batch: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning.pytorch as pl

    from maskconver.training import run as module
    from maskconver.training.loader import TrainDataset

    positions, steps = [], []
    example = TrainDataset.__getitem__

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            steps.append(trainer.global_step)
            if len(steps) == 3 and not resumed:  # the first of the two batches of the second step
                os.kill(os.getpid(), signal.SIGINT)

    def watched(self: TrainDataset, key: tuple[int, int]) -> object:
        positions.append(key[0])
        return example(self, key)

    monkeypatch.setattr(TrainDataset, "__getitem__", watched)
    monkeypatch.setattr(module, "Throughput", lambda batch: Watch())
    common = "--steps=3", "--val_every=3", "--log_images=0"
    resumed = False
    assert main(tiny(cells, tmp_path, *common, "--accumulate=2")) == 130
    assert positions == [*range(6)] and steps == [0, 1, 1]
    resumed = True
    positions.clear()
    steps.clear()
    more = f"--data.batch_size={batch}", f"--accumulate={accumulate}", "--resume=auto"
    assert main(tiny(cells, tmp_path, *common, *more)) == 0
    assert positions == [*range(4, 4 + 2 * batch * accumulate)]  # two steps
    assert steps == [1 + i // accumulate for i in range(1, 2 * accumulate + 1)]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs groups of processes")
def test_a_signal_to_all_processes_of_a_run_saves_it(cells: Path, tmp_path: Path) -> None:
    argv = tiny(cells, tmp_path, "--steps=5000", "--val_every=5000", "--data.workers=1", "--log_every=1")
    words = [sys.executable, "-m", "maskconver.cli", *argv]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step 2/"))
    os.killpg(process.pid, signal.SIGTERM)
    said = process.stdout.read()
    assert process.wait(60) == 143 and "continue with --resume auto" in said
    assert (tmp_path / "last.ckpt").is_file()


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(cells: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maskconver.cli"]
    steps = ("--steps=60", "--val_every=60")
    assert subprocess.run([*command, *tiny(cells, tmp_path / "whole", *steps)], check=False).returncode == 0
    process = subprocess.Popen([*command, *tiny(cells, tmp_path / "broken", *steps)])
    checkpoint = tmp_path / "broken" / "last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.load(checkpoint, weights_only=True)["global_step"] < 60
    again = subprocess.run(
        [*command, *tiny(cells, tmp_path / "broken", *steps, "--resume=auto")], check=False
    )
    assert again.returncode == 0
    assert same_weights(tmp_path / "broken" / "last.safetensors", tmp_path / "whole" / "last.safetensors")


@pytest.mark.slow
def test_two_images_are_learned_by_heart(cells: Path, tmp_path: Path) -> None:
    more = (
        "--steps=400",  # with 200 the last bit of a pixel decides how far it gets
        "--val_every=400",
        "--overfit=2",
        "--loss.mask_loss_stride=2",
        "--optim.lr=0.003",
        "--ema=0.9",
        "--model.bn_momentum=0.1",
    )
    assert main(tiny(cells, tmp_path, *more)) == 0
    row = json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[-1])
    assert row["val/pq_things"] > 0.5


def test_resuming_on_other_categories_names_init_from(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        write_dataset(tmp_path / "scenes", style="scenes", count=2, size=(64, 64), seed=0, split=split)
    arguments = tiny(tmp_path / "scenes", tmp_path / "out", f"--resume={unbroken / 'last.ckpt'}")
    assert main(arguments) == 2
    assert "other categories" in (message := capsys.readouterr().err)
    assert "--init-from" in message


@pytest.mark.parametrize(
    ("option", "weights"),
    [("--model.embedding_dim=24", "model.embedding"), ("--loss.remask=true", "criterion.relaxation")],
)
def test_resuming_with_options_that_change_the_weights_names_them_in_one_line(
    option: str, weights: str, cells: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (unbroken / "recipe.yaml").read_text()
    assert main(tiny(cells, unbroken, "--resume=auto", "--steps=9", option)) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert "other options" in said and weights in said and "--init-from" in said
    assert (unbroken / "recipe.yaml").read_text() == recipe


def test_a_damaged_checkpoint_is_refused_in_one_line(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    assert main(tiny(cells, tmp_path, "--resume=auto")) == 2
    assert "damaged or not a checkpoint" in capsys.readouterr().err


def test_resuming_a_finished_run_says_so(
    cells: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny(cells, unbroken, "--resume=auto")) == 2
    assert "raise --steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--data DIR"),
        (["train", "--data=/no/such/folder"], "/no/such/folder"),
        (["train", "--config=nothing"], "no recipe"),
        (["train", "--data={cells}", "--model.name=maskconver_mobil_256"], "did you mean"),
        (["train", "--data={cells}", "--resume=/no/such.ckpt"], "no such checkpoint"),
        (["train", "--data={cells}", "--init-from=/no/such.safetensors"], "no model file"),
        (["train", "--data={cells}", "--data.balance=nothing"], "balance"),
        (["train", "--data={cells}", "--out=/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    cells: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [a.format(cells=cells) for a in arguments]
    if not any(w.startswith("--out") for w in words):
        words.append(f"--out={tmp_path}")
    assert main([*words, "--device=cpu", "--data.workers=0"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]


def test_fine_tuning_takes_the_classes_that_have_the_same_name(
    cells: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny(cells, tmp_path, f"--init-from={unbroken}", "--steps=1", "--val_every=1")) == 0
    assert "class_embedding.weight (2 classes by name)" in capsys.readouterr().out


def test_print_config_shows_every_field_with_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config=nuclei", "--print-config", "--model.proposals=20"]) == 0
    printed = capsys.readouterr().out
    assert "proposals: 20" in printed
    assert "backbone: mobilenet_mh" in printed


def test_a_semantic_run_keeps_the_model_of_the_best_miou(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        labels = np.zeros((64, 64), np.uint8)
        labels[32:], labels[:, 60:] = 1, 255
        for kind, image in (("images", np.repeat(labels[..., None] * 90, 3, 2)), ("labels", labels)):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
            Image.fromarray(image).save(tmp_path / "data" / kind / split / "a.png")
    (tmp_path / "data" / "classes.txt").write_text("sky\nroad\n")
    out = tmp_path / "out"
    assert main(tiny(tmp_path / "data", out, "--steps=2", "--val_every=1", "--data.batch_size=1")) == 0
    rows = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    extra = read_metadata(out / "best.safetensors")["extra"]
    best = max(row["val/miou"] for row in rows)
    assert extra["metrics"]["val/miou"] == best and rows[0]["val/pq_things"] is None

    capsys.readouterr()
    once = tiny(tmp_path / "data", out, "--steps=1", "--data.batch_size=1", "--model.stuff=semantic")
    for threshold, warned in (0.4, True), (0, False):
        words = f"--model.postprocess.score_threshold={threshold}", "--overwrite=true"
        assert main([*once, *words]) == 0
        assert ("no class is a thing" in capsys.readouterr().out) == warned


def test_a_multi_scale_model_trains_resumes_evaluates_and_predicts_as_the_others(
    cells: Path, tmp_path: Path
) -> None:
    argv = [
        "train", f"--data={cells}", f"--out={tmp_path}", "--model.name=maskconver_r50_640",
        "--model.input.size=[64,64]", "--model.backbone=mobilenetv3_small_100", "--model.unet_dim=16",
        "--model.unet_depths=[1,1,1]", "--model.filters=16", "--model.embedding_dim=16",
        "--model.mlp_hidden=32", "--model.head_depths=[1,1,1]", "--model.proposals=20",
        "--model.frozen_bn=true", "--data.targets.center=mask", "--data.targets.stuff=global",
        "--loss.bce=entry", "--loss.dice=image", "--loss.normalizer=batch", "--loss.mask_loss_stride=2",
        "--optim.eps=1e-7", "--optim.decay=depthwise", "--data.batch_size=2", "--data.workers=0",
        "--val_every=4", "--checkpoint_every=2", "--schedule.warmup=2", "--log_every=1", "--threads=1",
        "--device=cpu", "--steps=4",
    ]  # fmt: skip
    assert main(argv) == 0
    assert main([*argv[:-1], "--steps=6", "--resume=auto"]) == 0
    model = load(tmp_path / "last.safetensors")
    assert model.name == "maskconver_r50_640" and model.config.backbone == "mobilenetv3_small_100"
    assert "frozen_bn: true" in read_metadata(tmp_path / "last.safetensors")["extra"]["recipe"]
    image = next((cells / "images" / "val").iterdir())
    assert Predictor(tmp_path / "last.safetensors")(image).ids.shape == (64, 64)
    assert main(["evaluate", str(tmp_path / "last.safetensors"), f"--data={cells}", "--split=val"]) == 0


def test_backbone_weights_of_a_file_are_reported_and_used(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    backbone = create_model("maskconver_mobile_256", num_classes=2).backbone
    torch.save({"state_dict": backbone.state_dict()}, tmp_path / "backbone.pth")
    weights = f"--model.backbone_weights={tmp_path / 'backbone.pth'}"
    assert main(tiny(cells, tmp_path / "run", weights, "--steps=1", "--ema=0")) == 0
    assert "tensors loaded" in capsys.readouterr().out
    trained = read_state(tmp_path / "run" / "last.safetensors")
    assert torch.equal(trained["backbone.block0.conv.weight"], backbone.state_dict()["block0.conv.weight"])


def test_the_files_of_a_split_may_lie_anywhere(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(cells / "images" / "train")
    words = [w for w in tiny(cells, tmp_path / "out", "--steps=2", "--val_every=2") if "--data=" not in w]
    for split in ("train", "val"):
        images = tmp_path / "images" if split == "train" else cells / "images" / "val"
        words += [
            f"--data.{split}.images={images}",
            f"--data.{split}.panoptic_pngs={cells / 'panoptic' / split}",
        ]
        words += [f"--data.{split}.panoptic_json={cells / f'panoptic_{split}.json'}"]
    assert main(words) == 0
    assert (tmp_path / "out" / "last.safetensors").is_file()


def test_without_data_the_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([w for w in tiny(tmp_path, tmp_path / "out") if "--data=" not in w]) == 2
    assert "no data set given: --data DIR, or --data.train.images" in capsys.readouterr().err


def test_a_run_is_not_written_over(unbroken: Path, cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (unbroken / "last.ckpt").read_bytes()
    assert main(tiny(cells, unbroken)) == 2
    said = capsys.readouterr().err
    assert "already holds a run" in said and "--overwrite true" in said and said.count("\n") == 1
    assert (unbroken / "last.ckpt").read_bytes() == before


def test_a_checkpoint_of_another_run_is_not_written_over_a_run(
    unbroken: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("last.ckpt", b"other"), ("best.safetensors", b"x")):
        (tmp_path / name).write_bytes(value)
    resume = f"--resume={unbroken / 'last.ckpt'}"
    assert main(tiny(cells, tmp_path, resume, "--steps=9")) == 2
    assert "already holds a run" in capsys.readouterr().err
    for own in ("auto", tmp_path / "last.ckpt"):  # which would be removed before it is read
        assert main(tiny(cells, tmp_path, f"--resume={own}", "--overwrite=true")) == 2
        assert "give only one of them" in capsys.readouterr().err
    assert (tmp_path / "last.ckpt").read_bytes() == b"other"


def test_a_new_run_in_the_same_folder_leaves_nothing_of_the_old(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("best.safetensors", "last.ckpt", "images/step_0000900.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "curve.jsonl").write_text('{"step": 900}\n')
    assert main(tiny(cells, tmp_path, "--steps=1", "--val_every=9", "--overwrite=true")) == 0
    assert "900" not in (tmp_path / "curve.jsonl").read_text()
    assert not (tmp_path / "images" / "step_0000900.jpg").exists()
    assert (tmp_path / "best.safetensors").read_bytes() != b"old" and (tmp_path / "notes.txt").exists()


def test_resuming_with_other_batch_norms_is_refused(
    unbroken: Path, cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny(cells, unbroken, "--batch-norm=frozen", "--steps=9", "--resume=auto")) == 2
    assert "--batch-norm frozen" in capsys.readouterr().err


def test_a_resumed_run_takes_the_rate_and_decay_it_is_given(cells: Path, tmp_path: Path) -> None:
    flat = ("--schedule.kind=constant", "--schedule.warmup=0", "--optim.lr_scaling=none")
    assert main(tiny(cells, tmp_path, *flat, "--steps=1")) == 0
    new = ("--optim.lr=1e-5", "--optim.weight_decay=0.5")
    assert main(tiny(cells, tmp_path, *flat, "--steps=2", *new, "--resume=auto")) == 0
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    groups = state["optimizer_states"][0]["param_groups"]
    assert [g["lr"] for g in groups] == pytest.approx([1e-5] * len(groups))
    assert max(g["weight_decay"] for g in groups) == 0.5


def test_resuming_with_another_optimizer_is_refused_in_one_line(
    unbroken: Path, cells: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny(cells, unbroken, "--optim.name=sgd", "--steps=9", "--resume=auto")) == 2
    said = capsys.readouterr().err
    assert "another optimizer" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    [
        "--seed=-1",
        "--data.batch_size=0",
        "--data.workers=-1",
        "--val-every=0",
        "--checkpoint-every=0",
        "--accumulate=0",
        "--model.proposals=0",
        "--devices=0",
        "--steps=0",
        "--ema=1.5",
        "--overfit=0",
        "--data.val_images=0",
        "--log-images=-1",
        "--optim.lr=nan",
        "--freeze-steps=3",
        "--freeze-steps=-3",
        "--init-modules=backbone",
        "--optim.base_batch=0",
        "--loss.mask_loss_stride=0",
        "--data.targets.islands=0",
        "--data.augment.flip=50",
        "--data.augment.crop=[0,0]",
        "--data.augment.scale=[0,1]",
        "--data.augment.scale=[2,0.5]",
        "--data.augment.color.hue=20",
        "--data.augment.color.brightness=-1",
        "--data.augment.copy_paste.probability=-1",
    ],
)
def test_numbers_that_mean_nothing_are_refused_before_the_data_are_read(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "run"), option]) == 2
    said = capsys.readouterr().err
    name = option.partition("=")[0].strip("-").replace("-", "_").rpartition(".")[2]
    assert name in said.replace("-", "_") and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_refused_when_the_data_are_read_leaves_no_folder(tmp_path: Path) -> None:
    assert main(["train", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()
