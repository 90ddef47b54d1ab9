"""`maskconver export`: what it reads, what it calls the file, what it refuses before work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch")

from maskconver.cli.main import main
from maskconver.core.config import InputConfig
from maskconver.errors import CheckpointError, ExportError
from maskconver.export.compare import Comparison
from maskconver.export.driver import export_model, read_images
from maskconver.models.registry import create_model
from tests.fakes import CATEGORIES


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the command asks `export_model` for; the working directory is an empty one."""
    options: dict[str, Any] = {}

    def export(model: object, path: Path, to: str, **given: Any) -> Comparison:
        options.update(vars(given["options"]), path=path, to=to)
        path.write_bytes(b"a model")
        return Comparison()

    monkeypatch.setattr("maskconver.models.checkpoint.load", lambda _: object())
    monkeypatch.setattr("maskconver.export.driver.export_model", export)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return options


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 images of one pixel."""
    (tmp_path / "images").mkdir()
    for i in range(40):
        Image.fromarray(np.full((1, 1, 3), i, np.uint8)).save(tmp_path / "images" / f"{i:02}.png")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("nuclei", "nuclei.onnx"),
        ("../runs/v1.2", "v1.2.onnx"),
        ("../runs/best.safetensors", "best.onnx"),
        (".", "here.onnx"),
        ("user/cells", "cells.onnx"),
    ],
)
def test_the_file_is_named_after_the_model(model: str, name: str, asked: dict[str, Any]) -> None:
    assert main(["export", model]) == 0
    assert [path.name for path in Path().iterdir()] == [name]


def test_options_of_the_command_are_those_of_the_function(folder: Path, asked: dict[str, Any]) -> None:
    words = ["--quantize", "int8", "--calibrate", str(folder), "--images", str(folder), "--size", "64", "96"]
    assert main(["export", "nuclei", *words, "--hard-sigmoid", "--proposals", "5", "--uint8"]) == 0
    assert asked["quantize"] == "int8" and asked["calibrate"] == asked["images"] == str(folder)
    assert (asked["size"], asked["proposals"], asked["to"]) == ((64, 96), 5, "onnx")
    assert asked["uint8"] and asked["hard_sigmoid"] and not asked["dynamic"]


def test_of_a_large_folder_some_images_from_all_over_it_are_read(folder: Path) -> None:
    seen = [int(image[0, 0, 0]) for image in read_images(str(folder), InputConfig())]
    assert len(seen) == 32 and seen[0] == 0 and seen[-1] > 35


def test_of_large_images_the_middle_is_compared_where_a_file_takes_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, ...]] = []

    def compare(model: Any, file: Any, images: Sequence[NDArray[Any]]) -> Comparison:
        compared.extend(image.shape for image in images)
        raise ExportError("enough")

    monkeypatch.setattr("maskconver.export.driver.compare", compare)
    model = create_model(
        "maskconver_mobile_256", categories=CATEGORIES, input={"mode": "native", "scale": 4.0}
    )
    images = [np.zeros((90, 400, 3), np.uint8)]
    for size in (None, (64, 96)):
        with pytest.raises(ExportError, match="enough"):
            export_model(model, tmp_path / "model.onnx", images=images, size=size)
    assert compared == [(90, 256, 3), (90, 400, 3)]  # a file of one size is given the whole image, scaled


def test_images_are_read_after_the_model(
    folder: Path,
    asked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(name: str) -> None:
        raise CheckpointError(f"no model {name}")

    (folder / "00.png").write_bytes(b"no image")
    monkeypatch.setattr("maskconver.models.checkpoint.load", load)
    assert main(["export", "nothing", "--images", str(folder)]) == 2
    assert "no model nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nuclei.onnx", "nuclei.tflite", "nuclei.pt2"])
def test_an_exported_file_is_not_exported_again(
    name: str, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", name, "--to", "litert"]) == 2
    said = capsys.readouterr().err
    assert f"{name} is an exported file already" in said and said.count("\n") == 1 and not asked


def test_thresholds_of_an_exported_file_are_not_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nuclei.onnx", "nuclei.tflite", "nuclei.pt2"):
        assert main(["evaluate", name, "--data", "nothing", "--tune", "tuned.safetensors"]) == 2
        assert f"{name} cannot be changed" in capsys.readouterr().err
