"""Averaged weights, what a run writes after each validation, and the figures of the progress bar."""

# ruff: noqa: E402  (the imports need torch)
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

import maskconver as mc
from maskconver.core.categories import Categories, Category
from maskconver.models.checkpoint import read_metadata
from maskconver.training import callbacks
from maskconver.training.callbacks import EMA, ModelFiles, Throughput


def validate(files: ModelFiles, *values: float) -> None:
    """Validations of steps 1, 2, … with these figures."""
    categories = Categories([Category(1, "cell", True, (1, 1, 1))])
    options = {"filters": 16, "embedding_dim": 16, "proposals": 5}
    model = mc.create_model("maskconver_mobile_dense_512", categories=categories, **options)
    for step, value in enumerate(values, 1):
        trainer = SimpleNamespace(
            global_step=step,
            sanity_checking=False,
            is_global_zero=True,
            strategy=None,
            callback_metrics={"val/pq": torch.tensor(value)},
        )
        files.on_validation_end(trainer, SimpleNamespace(model=model))  # type: ignore[arg-type]


def test_the_best_file_is_that_of_the_highest_figure_and_the_last_of_the_last_step(
    tmp_path: Path,
) -> None:
    validate(ModelFiles(tmp_path, "steps: 3"), 0.5, 0.7, 0.6, float("nan"))
    steps = {
        name: read_metadata(tmp_path / f"{name}.safetensors")["extra"]["step"] for name in ("best", "last")
    }
    assert steps == {"best": 2, "last": 4}
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 4


def test_a_run_that_goes_on_in_another_folder_has_a_best_model_there(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, "steps: 3")
    files.load_state_dict({"best": 0.9})
    validate(files, 0.5, 0.7, 0.6)
    assert read_metadata(tmp_path / "best.safetensors")["extra"]["step"] == 2


def test_ema_follows_the_warmed_up_decay_and_is_what_validation_sees() -> None:
    module = SimpleNamespace(model=torch.nn.Linear(1, 1, bias=False))
    module.model.weight.data.fill_(0.0)
    trainer = SimpleNamespace(global_step=0)
    ema = EMA(0.9)
    ema.on_fit_start(trainer, module)  # type: ignore[arg-type]
    expected = 0.0
    for step in range(1, 200):
        module.model.weight.data.fill_(float(step))
        trainer.global_step = step
        ema.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    ema.on_validation_start(trainer, module)  # type: ignore[arg-type]
    assert module.model.weight.item() == pytest.approx(expected, rel=1e-5)
    ema.on_validation_end(trainer, module)  # type: ignore[arg-type]
    assert module.model.weight.item() == 199


def test_images_a_second_and_the_wait_for_the_loader_are_on_the_progress_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(10_000))  # a second a look: every step takes one, and every wait
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: float(next(clock)))
    logged: dict[str, tuple[float, bool]] = {}

    class Module:
        device = torch.device("cpu")

        def log(self, name: str, value: float, prog_bar: bool = False) -> None:
            logged[name] = value, prog_bar

    throughput, module = Throughput(batch=4), Module()
    trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.25}])])
    for _ in range(20):
        throughput.on_train_batch_start(trainer, module)  # type: ignore[arg-type]
        throughput.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
    assert logged["images/s"] == (80 / 39, True) and logged["wait share"] == (19 / 39, True)
    assert logged["step images/s"][0] == 4
    assert logged["learning rate"] == (0.25, True)
    assert 0 < logged["memory GB"][0] < 1e4 and logged["memory GB"][1]
