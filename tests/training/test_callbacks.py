"""What a run writes after each validation."""

# ruff: noqa: E402  (the imports need torch)
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

import maskconver as mc
from maskconver.core.categories import Categories, Category
from maskconver.models.checkpoint import read_metadata
from maskconver.training.callbacks import ModelFiles


def test_the_best_file_is_that_of_the_highest_figure_and_the_last_of_the_last_step(
    tmp_path: Path,
) -> None:
    categories = Categories([Category(1, "cell", True, (1, 1, 1))])
    options = {"filters": 16, "embedding_dim": 16, "proposals": 5}
    model = mc.create_model("maskconver_mobile_dense_512", categories=categories, **options)
    files = ModelFiles(tmp_path, "steps: 3")
    for step, value in enumerate((0.5, 0.7, 0.6, float("nan")), 1):
        trainer = SimpleNamespace(
            global_step=step,
            sanity_checking=False,
            is_global_zero=True,
            strategy=None,
            callback_metrics={"val/pq": torch.tensor(value)},
        )
        files.on_validation_end(trainer, SimpleNamespace(model=model))  # type: ignore[arg-type]
    steps = {
        name: read_metadata(tmp_path / f"{name}.safetensors")["extra"]["step"] for name in ("best", "last")
    }
    assert steps == {"best": 2, "last": 4}
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 4
