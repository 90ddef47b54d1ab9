"""A file that was cloned without Git LFS is called a pointer, whatever it should have been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import main
from maskconver.data import dataset_stats
from maskconver.data.conversion.colors import read_color_file
from maskconver.data.conversion.run import convert
from maskconver.data.synth.write import write_dataset
from maskconver.errors import MaskconverError
from maskconver.io.label_png import read_classes
from maskconver.io.panoptic_json import read_panoptic_json
from maskconver.io.sources import FileSource

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
SAYS = "it is a Git LFS pointer, not the file itself; run: git lfs pull"


def read_state(path: Path) -> object:
    pytest.importorskip("torch")
    from maskconver.models.checkpoint import read_state

    return read_state(path)


def read_metadata(path: Path) -> object:
    pytest.importorskip("torch")
    from maskconver.models.checkpoint import read_metadata

    return read_metadata(path)


READERS: dict[str, Callable[[Path], object]] = {
    "classes.txt": read_classes,
    "classes.json": read_classes,
    "panoptic.json": read_panoptic_json,
    "images.zip": FileSource,
    "colours.txt": read_color_file,
    "model.safetensors": read_metadata,
    "weights.pth": read_state,
    "export.zip": lambda path: convert(path, path.with_name("out")),
    "instances.json": lambda path: convert(path, path.with_name("out")),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_git_lfs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(MaskconverError) as caught:
        READERS[name](tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and str(caught.value).endswith(SAYS)
    assert "\n" not in str(caught.value)


# What else a command needs: where that is not installed, it says so first.
NEEDS = {"train --config": "torch", "import-weights --categories": "torch", "predict nuclei": "av"}


@pytest.mark.parametrize("command", NEEDS)
def test_every_command_names_git_lfs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(NEEDS[command])
    monkeypatch.chdir(tmp_path)
    name = "a.mp4" if "predict" in command else "a.yaml"
    Path(name).write_bytes(POINTER)
    weights = ["kmax", "w.pth", "--out", "x.safetensors"] if "import" in command else []
    assert main([*command.split(), name, *weights]) in (1, 2)
    assert SAYS in capsys.readouterr().err


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        write_dataset(tmp_path / "data", "scenes", 2, size=(24, 32), split=split)
    return tmp_path / "data"


def test_data_stats_names_images_that_are_pointers(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", str(data)]) == 0
    for path in (data / "images" / "train").iterdir():
        path.write_bytes(POINTER)
    capsys.readouterr()
    assert main(["data", "stats", str(data)]) == 1
    out = capsys.readouterr().out
    assert "2 files cannot be read, first " in out and SAYS in out
    stats = dataset_stats(data)
    assert stats.unreadable == 2 and SAYS in stats.fault and len(stats.labels)


def test_data_stats_of_labels_that_are_all_pointers(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    (tmp_path / "classes.txt").write_text("one\n")
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.png").write_bytes(POINTER)
    with pytest.raises(MaskconverError, match="git lfs pull"):
        dataset_stats(tmp_path)


def test_a_split_that_is_a_pointer_is_not_left_out_in_silence(data: Path, tmp_path: Path) -> None:
    (data / "panoptic_train.json").write_bytes(POINTER)
    result = convert(data, tmp_path / "out")
    assert result.splits == {"val": 2}
    (fault,) = result.faults
    assert SAYS in str(fault) and "panoptic_train.json" in str(fault)
