"""What a user installs holds every file of the package, and nothing else. `make wheel` builds it first."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "maskconver"
DATA = {".html", ".css", ".js", ".yaml", ".json", ".pyi", ".typed", ".safetensors", ".onnx", ".md"}
DATA |= {".gz", ".txt"}  # of onnxruntime-web, after `make web`


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Paths in the wheel."""
    if not (wheel := os.environ.get("MASKCONVER_WHEEL")):
        pytest.skip("MASKCONVER_WHEEL names no wheel; make wheel builds one")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_the_package_is_in_it(names: set[str]) -> None:
    files = [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {f"maskconver/{path.relative_to(SOURCE).as_posix()}" for path in files}
    assert wanted <= names, sorted(wanted - names)


def test_nothing_else_is(names: set[str]) -> None:
    folders = {name.partition("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"maskconver"}
    others = {name for name in names if name.startswith("maskconver/") and not name.endswith(".py")}
    assert not {name for name in others if Path(name).suffix not in DATA and Path(name).name != "py.typed"}


def test_the_command_and_the_licence_are(names: set[str]) -> None:
    endings = [name.partition(".dist-info/")[2] for name in names if ".dist-info/" in name]
    assert "entry_points.txt" in endings and any(name.endswith("LICENSE") for name in endings)
