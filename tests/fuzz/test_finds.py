"""What fuzzing has found, each as the smallest input that shows it."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import main
from maskconver.data.conversion.run import convert
from maskconver.errors import CheckpointError, ConfigError, DataError
from maskconver.inference.exported import Exported
from maskconver.io.images import image_size, read_image
from maskconver.io.panoptic_json import read_panoptic_json
from maskconver.io.sources import FileSource
from tests.data.conversion import coco_sets, tool_exports

DEEP = b"[" * 100_000


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zip_of(names: dict[str, bytes]) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return bytearray(file.getvalue())


@pytest.mark.parametrize(
    "damage", [b"PK\x01\x02", b"PK\x05\x06"]
)  # of the directory, of what is said about it
def test_a_zip_with_a_damaged_directory_is_refused(tmp_path: Path, damage: bytes) -> None:
    data = zip_of({"a.png": b"x", "b.png": b"y"})
    at = data.rfind(damage)
    if damage == b"PK\x01\x02":
        data[at] = 0
    else:
        data[at + 12 : at + 16] = struct.pack("<I", 1)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip: a damaged zip"):
        FileSource(tmp_path / "a.zip").names()


def test_a_file_of_a_zip_that_states_a_huge_size_is_not_unpacked(tmp_path: Path) -> None:
    data = zip_of({"a.png": b"x" * 100})
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="unpack the zip"):
        FileSource(tmp_path / "a.zip").read("a.png")


def test_the_size_of_a_png_is_read_without_its_pixels() -> None:
    header = struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")
    assert image_size(data) == (2**30, 2**30)


@pytest.mark.parametrize("behind", [False, True])
def test_exif_turns_a_png_wherever_it_stands(behind: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(file, "PNG")
    data, chunk = file.getvalue(), png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    at = data.index(b"IEND" if behind else b"IDAT") - 4
    data = data[:at] + chunk + data[at:]
    assert image_size(data) == read_image(data).shape[:2] == (9, 4)


def test_what_libraries_log_about_a_damaged_file_is_not_printed(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "TIFF")
    data = bytearray(file.getvalue())
    (start,) = struct.unpack("<I", data[4:8])
    for k in range(struct.unpack("<H", data[start : start + 2])[0]):
        if data[start + 2 + 12 * k : start + 4 + 12 * k] == struct.pack("<H", 277):  # samples a pixel
            data[start + 10 + 12 * k : start + 12 + 12 * k] = struct.pack("<H", 288)
    (tmp_path / "a.tif").write_bytes(data)
    code = "import sys; from maskconver.io.images import read_image; read_image(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.tif"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and done.stderr.count("samples") == 0


@pytest.mark.parametrize("data", [DEEP, b'{"annotations": [], "categories": [{"a": ' + DEEP + b"}]}"])
def test_json_that_is_nested_too_deeply_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        read_panoptic_json(data)


@pytest.mark.parametrize("text", [DEEP.decode(), "[]", "null", '{"format": 1, "size": {}}', '{"format": 9}'])
def test_an_exported_file_with_a_strange_description_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        Exported.from_json(text, "a.onnx")


@pytest.mark.parametrize("text", [DEEP.decode(), "[]", "null", "5", "{}"])
def test_a_model_file_with_a_strange_description_is_refused(text: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from maskconver.models.checkpoint import load

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"maskconver": text})
    with pytest.raises(CheckpointError):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("named", ["5", "{a: b}", "true"])
def test_a_yolo_file_that_names_no_folders_is_read_by_its_labels(tmp_path: Path, named: str) -> None:
    source = tmp_path / "yolo"
    source.mkdir()
    coco_sets.yolo_set(source, {"train/a": coco_sets.yolo_line(0, [0.1, 0.1, 0.5, 0.1, 0.5, 0.6])})
    (path,) = source.rglob("*.yaml")
    rows = [row for row in path.read_text().splitlines() if not row.startswith(("train:", "val:"))]
    path.write_text("\n".join([*rows, f"train: {named}"]))
    assert convert(source, tmp_path / "set", "yolo-seg").splits == {"train": 1}


def test_a_via_csv_with_stray_carriage_returns_is_no_traceback(tmp_path: Path) -> None:
    source = tmp_path / "via"
    source.mkdir()
    tool_exports.via_csv(source)
    (path,) = source.rglob("*.csv")
    path.write_bytes(path.read_bytes().replace(b",", b",\rx", 3))
    assert main(["data", "convert", str(source), str(tmp_path / "set")]) in (0, 1, 2)


def test_recipes_build_no_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("maskconver.training.run", exc_type=ImportError)
    path = tmp_path / "a.yaml"
    path.write_text(f"steps: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    assert main(["train", f"--config={path}", "--print_config"]) == 2
    assert not (tmp_path / "made").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_recipe_that_stands_for_billions_of_values_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("maskconver.training.run", exc_type=ImportError)
    names = "abcdefghij"
    rows = [f"{n}: &{n} [{', '.join([f'*{before}'] * 9)}]" for before, n in pairwise(names)]
    path = tmp_path / "a.yaml"
    path.write_text("\n".join([f"{names[0]}: &{names[0]} [1, 2]", *rows, "s: &s [*s]"]))
    assert main(["train", f"--config={path}", "--print_config"]) == 2
    said = capsys.readouterr().err
    assert "stands for more than" in said and said.count("\n") == 1


def test_a_lone_value_in_the_place_of_a_group_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("maskconver.training.run", exc_type=ImportError)
    path = tmp_path / "a.yaml"
    path.write_text("model: {postprocess: 600}\n")
    assert main(["train", f"--config={path}", "--print_config"]) == 2
    said = capsys.readouterr().err
    assert "model.postprocess" in said and said.count("\n") == 1


def test_commands_say_in_one_line_that_memory_is_lacking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskconver.cli import pq

    for error in (MemoryError("17 GB"), RecursionError()):

        def fail(args: object, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr(pq, "run", fail)
        assert main(["pq", "a.json", "b.json"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_odd_json_values_are_json() -> None:
    import random

    from . import mutate

    rng = random.Random(0)
    for _ in range(50):
        json.dumps(mutate.values({"a": [1, {"b": 2}]}, rng))


def test_a_recipe_that_names_no_model_is_refused() -> None:
    pytest.importorskip("torch")
    from jsonargparse import Namespace

    from maskconver.cli.train import config_of

    with pytest.raises(ConfigError, match=r"names no model; give one with `model\.name`"):
        config_of(Namespace(model=Namespace(proposals=3)))


def test_a_description_with_more_deviations_than_means_is_damaged() -> None:
    onnx = pytest.importorskip("onnx")
    file = onnx.load(Path(__file__).parents[2] / "src/maskconver/weights/nuclei.onnx")
    (text,) = (entry.value for entry in file.metadata_props if '"percentiles"' in entry.value)
    rows = json.loads(text)
    rows["input"]["std"].append(1.0)
    with pytest.raises(CheckpointError, match="damaged description"):
        Exported.from_json(json.dumps(rows), "nuclei.onnx")


def test_a_tiff_whose_pages_never_end_is_read_at_once(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "loop.tif"
    channels = np.arange(8 * 9 * 5, dtype=np.uint16).reshape(8, 9, 5)
    with tifffile.TiffWriter(path) as writer:  # a page with another below it, so that all pages are looked at
        writer.write(channels, photometric="minisblack", planarconfig="contig", metadata=None, subifds=1)
        writer.write(channels[:4], photometric="minisblack", planarconfig="contig", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[0]
        end = first.offset + 2 + 12 * len(first.tags)
    ended, data = read_image(path, channels=5, bits=16), bytearray(path.read_bytes())
    data[end : end + 4] = struct.pack("<I", first.offset)  # the next page is this one
    path.write_bytes(data)
    started = time.process_time()
    np.testing.assert_array_equal(read_image(path, channels=5, bits=16), ended)
    assert time.process_time() - started < 5
