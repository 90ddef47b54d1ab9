"""Licences of what the package installs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("packaging")
SCRIPT = Path(__file__).parents[1] / "docs" / "reference" / "make_licences.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_licences", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_in_core_and_train_is_copyleft_and_all_say_what_they_are() -> None:
    own = script()
    for group in ("", "train"):
        for name, package in own.needed(group).items():
            text = own.licence(package)
            assert text or name.startswith(("nvidia", "triton")), f"{name} states no licence"
            assert not own.COPYLEFT.search(text), f"{name}: {text}"


def test_the_core_stays_small() -> None:
    assert len(script().needed("")) <= 16
