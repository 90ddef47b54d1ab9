"""The example for a Hugging Face Space: what its page calls works without gradio."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.fakes import FakeRuntime, bright_image

import maskconver as mc

FOLDER = Path(__file__).parents[2] / "examples/space"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    predictor = mc.Predictor(FakeRuntime())
    monkeypatch.setattr(mc, "Predictor", lambda *args, **options: predictor)
    return runpy.run_path(str(FOLDER / "app.py"))


def test_an_image_gives_an_overlay_and_a_row_for_each_class(app: dict[str, Any]) -> None:
    image = bright_image()
    overlay, rows = app["segment"](image, 0.1, 0.5)
    assert overlay.shape == image.shape and not np.array_equal(overlay, image)
    assert [row[0] for row in rows] == ["cell", "ground"]
    assert sum(row[3] for row in rows) <= image.shape[0] * image.shape[1]
    assert [row[0] for row in app["segment"](image, 0.85, 0.5)[1]] == ["cell"]  # ground has 0.8
    assert all(len(row) == len(app["COLUMNS"]) for row in rows)


def test_no_image_and_a_huge_one(app: dict[str, Any]) -> None:
    assert app["segment"](None) == (None, [])
    with pytest.raises(ValueError, match="pixels"):
        app["segment"](np.zeros((3000, 3000, 3), np.uint8))


def test_the_page_has_a_field_for_each_argument(app: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Error(Exception):
        def __init__(self, told: str, *, print_exception: bool) -> None:
            super().__init__(told)

    made = SimpleNamespace(Interface=lambda *given, **more: (given, more), Error=Error)
    for part in ("Image", "Slider", "Dataframe"):
        setattr(made, part, lambda *args, _part=part, **options: _part)
    monkeypatch.setitem(sys.modules, "gradio", made)  # type: ignore[arg-type]
    (function, inputs, outputs), _ = app["interface"]()
    assert inputs == ["Image", "Slider", "Slider"] and outputs == ["Image", "Dataframe"]
    assert len(function(bright_image(), 0.1, 0.5)) == 2
    with pytest.raises(Error, match="more than 4,000,000 pixels"):  # which the page shows
        function(np.zeros((3000, 3000, 3), np.uint8), 0.1, 0.5)


def test_it_asks_for_nothing_that_needs_pytorch() -> None:
    names = (FOLDER / "requirements.txt").read_text(encoding="utf-8").split()
    assert names == ["maskconver[onnx]"] and "app_file: app.py" in (FOLDER / "README.md").read_text()
