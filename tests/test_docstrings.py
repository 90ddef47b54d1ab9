"""The examples in docstrings run and print what they say; every public function and class of work has one."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import maskconver as mc
from maskconver.data.synth.write import write_dataset

ROOT = Path(mc.__file__).parent
NEEDS = {"models": "torch", "export": "onnxscript", "inference": "onnxruntime"}
HOLDERS = {"Category", "Geometry", "Proposals", "Segment", "MaskconverError", "__version__", "data"}


def with_examples() -> list[str]:
    files = sorted(path for path in ROOT.rglob("*.py") if ">>>" in path.read_text(encoding="utf-8"))
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("name", with_examples())
def test_examples_print_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NEEDS.get(name.split(".")[0], "numpy"))
    for split in ("train", "val"):
        write_dataset(tmp_path / "my_data", "cells", 2, size=(64, 96), split=split)
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(import_module(f"maskconver.{name}"), optionflags=doctest.ELLIPSIS)
    assert done.attempted and not done.failed


def test_what_people_call_has_an_example() -> None:
    stub = (ROOT / "__init__.pyi").read_text(encoding="utf-8")
    names = set(re.findall(r"import (\w+) as \1$", stub, re.M)) - HOLDERS
    if not find_spec("torch"):
        names -= {n for n in names if re.search(rf"from \.(?:models|export)\S* import {n} ", stub)}
    called = [getattr(mc, name) for name in sorted(names)]
    called += [getattr(mc.data, name) for name in mc.data.__all__ if name[0].islower()]
    assert [one.__name__ for one in called if ">>>" not in (one.__doc__ or "")] == []
