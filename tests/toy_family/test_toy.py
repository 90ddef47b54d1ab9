"""A family outside the package trains, predicts, evaluates and is exported like those inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module, reload
from pathlib import Path

import numpy as np
import pytest

import maskconver as mc
from maskconver.cli.main import main
from maskconver.data.synth.write import write_dataset
from maskconver.models import registry

pytest.importorskip("lightning")


@pytest.fixture(scope="module")
def toy() -> Iterator[None]:
    """The family is known in these tests and forgotten after them."""
    before = dict(registry._FAMILIES), dict(registry._MODELS)
    module = import_module("tests.toy_family.family")
    if "toy" not in registry._FAMILIES:
        reload(module)
    yield
    for known, old in zip((registry._FAMILIES, registry._MODELS), before):
        for name in set(known) - set(old):
            del known[name]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(toy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a run of two steps on it."""
    folder = tmp_path_factory.mktemp("toy")
    for split in ("train", "val"):
        write_dataset(folder / "data", style="scenes", count=2, size=(64, 64), split=split)
    words = [
        "train", f"--data={folder / 'data'}", f"--out={folder / 'run'}", "--model.name=toy_64",
        "--model.width=6", "--loss.weight=2", "--data.batch_size=2", "--data.workers=0", "--steps=2",
        "--val_every=2", "--log_every=1", "--schedule.warmup=0", "--threads=1", "--device=cpu",
        "--log_images=0",
    ]  # fmt: skip
    assert main(words) == 0
    return folder


def test_it_trains_and_its_files_are_loaded(folder: Path) -> None:
    model = mc.load(folder / "run")
    assert model.family.name == "toy" and model.config.width == 6
    assert "weight: 2" in (folder / "run" / "recipe.yaml").read_text()
    header = (folder / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "train/pixels" in header


def test_it_predicts(folder: Path) -> None:
    result = mc.Predictor(folder / "run")(np.full((48, 64, 3), 90, np.uint8))
    assert result.ids.shape == (48, 64)


def test_it_is_evaluated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(folder / "run"), f"--data={folder / 'data'}", "--split=val", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 2 and 0 <= figures["mIoU"]["miou"] <= 1


def test_it_is_exported_and_its_file_answers_alike(folder: Path) -> None:
    pytest.importorskip("onnxscript")
    path = folder / "toy.onnx"
    assert main(["export", str(folder / "run"), "--to=onnx", f"--out={path}"]) == 0
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert np.mean(mc.Predictor(path)(image).ids == mc.Predictor(folder / "run")(image).ids) > 0.99
