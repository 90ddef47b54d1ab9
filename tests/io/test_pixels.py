"""Numbers to 8 bits: to the nearest, and the same for a file, a Pillow image, an array and a tensor."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from maskconver.errors import ImageError
from maskconver.inference.inputs import as_image
from maskconver.io.images import ImageWarning, read_image
from maskconver.io.pixels import to_bits

RNG = np.random.default_rng(0)
GREY16 = RNG.integers(0, 65536, (5, 7), np.uint16)
COLOUR16 = RNG.integers(0, 65536, (5, 7, 3), np.uint16)
FLOAT = RNG.random((5, 7), np.float32)


def write_png16(path: Path, values: NDArray[np.uint16]) -> None:
    """A PNG of 16 bits a channel, which Pillow cannot write in colour: grey, grey and alpha, RGB or RGBA."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    body = np.insert(rows, 0, 0, axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, (0, 0, 4, 2, 6)[channels], 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_tiff16(path: Path, values: NDArray[np.uint16], *, planar: bool, order: str = "<") -> None:
    """An uncompressed TIFF of 16-bit RGB, in one strip or in one for each channel."""
    height, width, channels = values.shape
    planes = values.transpose(2, 0, 1) if planar else values[None]
    strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    tags: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [16] * channels),
        (259, 3, [1]),
        (262, 3, [2]),
        (273, 4, [0] * len(strips)),
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]),
        (284, 3, [2 if planar else 1]),
    ]
    size = 8 + 2 + 12 * len(tags) + 4
    extra, entries = b"", b""
    places = [size + 64 + sum(map(len, strips[:k])) for k in range(len(strips))]
    for tag, kind, found in tags:
        found = places if tag == 273 else found
        packed = struct.pack(f"{order}{len(found)}{'H' if kind == 3 else 'I'}", *found)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack(f"{order}I", size + len(extra))
        entries += struct.pack(f"{order}HHI", tag, kind, len(found)) + packed.ljust(4, b"\0")
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    head = start + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    path.write_bytes(head + extra.ljust(64, b"\0") + b"".join(strips))


def write(path: Path, values: NDArray) -> Path:
    """A file that holds just these values."""
    if values.dtype == np.uint16 and values.ndim == 3:
        write_png16(path := path.with_suffix(".png"), values)
    else:
        Image.fromarray(values).save(path := path.with_suffix(".tif"))
    return path


CASES = {
    "uint8 grey": (RNG.integers(0, 256, (5, 7), np.uint8), None),
    "uint8 colour": (RNG.integers(0, 256, (5, 7, 3), np.uint8), None),
    "uint8 with a white level": (RNG.integers(0, 256, (5, 7, 3), np.uint8), 100.0),
    "uint16 grey": (GREY16, None),
    "uint16 colour": (COLOUR16, None),
    "uint16 colour and alpha": (RNG.integers(0, 65536, (5, 7, 4), np.uint16), None),
    "uint16 grey and alpha": (RNG.integers(0, 65536, (5, 7, 2), np.uint16), None),
    "uint16 grey, white level": (GREY16, 4095.0),
    "uint16 colour, white level": (COLOUR16, 30000.0),
    "uint16 of 12 bits": (GREY16 // 16, None),
    "uint16 colour of 12 bits": (COLOUR16 // 16, None),
    "uint16 of 8 bits": (GREY16 // 256, None),
    "int32 in 0…255": (RNG.integers(0, 256, (5, 7), np.int32), None),
    "int32 beyond": (GREY16.astype(np.int32), None),
    "int32 below": (-GREY16.astype(np.int32), None),
    "int32 below, white level": (GREY16.astype(np.int32) - 3000, 50000.0),
    "float": (FLOAT, None),
    "float beyond": (FLOAT * 300, None),
    "float beyond, white level": (FLOAT * 300, 250.0),
    "float below": (FLOAT - 0.5, None),
    "float below 0 only": (FLOAT - 2, None),
    "float, NaN": (np.where(FLOAT > 0.9, np.nan, FLOAT).astype(np.float32), None),
    "float, infinite": (np.where(FLOAT > 0.9, np.inf, FLOAT).astype(np.float32), None),
    "float, minus infinite": (np.where(FLOAT > 0.9, -np.inf, FLOAT).astype(np.float32), 1.0),
    "NaN, white level": (np.full((3, 4), np.nan, np.float32), 2.0),
    "white level 0": (GREY16, 0.0),
    "white level below 0": (COLOUR16, -0.5),
    "white level NaN": (RNG.integers(0, 256, (5, 7), np.uint8), float("nan")),
    "white level infinite": (FLOAT, float("inf")),
}


def outcome(value: object, white_level: float | None) -> tuple[object, list[str]]:
    """The pixels or the error's text, and the warnings' texts, without the image's name."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            result: object = as_image(value, white_level=white_level)[0].tolist()
        except ImageError as error:
            result = error.text
    assert all(isinstance(note.message, ImageWarning) for note in notes)
    return result, [note.message.text for note in notes]  # type: ignore[union-attr]


@pytest.mark.parametrize("case", CASES)
def test_file_pillow_image_array_and_tensor_agree(case: str, tmp_path: Path) -> None:
    values, white_level = CASES[case]
    path = write(tmp_path / "image", values)
    expected = outcome(values, white_level)
    assert outcome(path, white_level) == expected
    with Image.open(path) as image:
        assert outcome(image, white_level) == expected
    torch = pytest.importorskip("torch")
    if values.ndim == 2 or values.shape[2] != 2:
        tensor = torch.from_numpy(values if values.ndim == 2 else values.transpose(2, 0, 1).copy())
        assert outcome(tensor, white_level) == expected


@pytest.mark.parametrize("case", CASES)
def test_no_message_recommends_a_white_level_that_is_refused(case: str) -> None:
    values, white_level = CASES[case]
    result, notes = outcome(values, white_level)
    for text in [result if isinstance(result, str) else "", *notes]:
        _, found, level = text.partition("say which value is white, e.g. `white_level=")
        if found:
            assert isinstance(outcome(values, float(level.partition("`")[0]))[0], list)


@pytest.mark.parametrize("white", [65535, 4095, 1000, 510, 255, 37])
def test_rounding_is_to_the_nearest_value_halves_up(white: int) -> None:
    values = np.arange(65536, dtype=np.int64)
    exact = np.minimum((2 * 255 * values + white) // (2 * white), 255)
    for dtype in (np.uint16, np.int32, np.float32, ">u2"):
        assert (to_bits(values.astype(dtype), 8, white_level=float(white)) == exact).all(), dtype


def test_a_large_image_is_converted_in_bands() -> None:
    values = RNG.random((600, 900), np.float32)
    assert (to_bits(values) == np.floor(values.astype(float) * 255 + 0.5)).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("white_level", [None, 20000.0])
def test_colour_tiffs_of_16_bits_are_read_interleaved_and_planar(
    tmp_path: Path, order: str, planar: bool, white_level: float | None
) -> None:
    write_tiff16(tmp_path / "x.tif", COLOUR16, planar=planar, order=order)
    expected = to_bits(COLOUR16, 8, white_level=white_level)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", white_level=white_level), expected)
    with Image.open(tmp_path / "x.tif") as image:
        np.testing.assert_array_equal(as_image(image, white_level=white_level)[0], expected)


def test_a_planar_tiff_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    write_tiff16(tmp_path / "x.tif", COLOUR16, planar=True)
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:-5])
    with pytest.raises(ImageError, match=r"x\.tif: damaged or cut off"):
        read_image(tmp_path / "x.tif")


def test_animated_files_warn_by_path_and_as_pillow_image(tmp_path: Path) -> None:
    first, second = Image.new("L", (5, 4), 255), Image.new("L", (5, 4), 0)
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    by_path = outcome(tmp_path / "x.gif", None)
    assert by_path[1] == ["has several frames; only the first is read"]
    with Image.open(tmp_path / "x.gif") as image:
        assert outcome(image, None) == by_path
        image.seek(1)  # whoever chooses a frame gets it, without a word
        pixels, notes = outcome(image, None)
        assert not np.any(pixels) and notes == []


def test_a_pillow_image_is_not_changed(tmp_path: Path) -> None:
    write_png16(tmp_path / "x.png", COLOUR16)
    with Image.open(tmp_path / "x.png") as image:
        as_image(image)
        as_image(image)
        assert image.mode == "RGB" and image.size == (7, 5)
        np.testing.assert_array_equal(np.asarray(image), COLOUR16 >> 8)
    palette = Image.fromarray(COLOUR16.astype(np.uint8)).quantize(4)
    palette.info["transparency"] = 1
    as_image(palette)
    assert palette.info["transparency"] == 1


def test_a_sound_tiff_of_a_kind_that_is_not_read_is_not_called_damaged(tmp_path: Path) -> None:
    write_tiff16(tmp_path / "x.tif", np.tile(COLOUR16, (1, 4, 1)), planar=False)
    data = (tmp_path / "x.tif").read_bytes()  # as many bytes as 64-bit values of a quarter of the width
    data = data.replace(struct.pack("<HHII", 256, 4, 1, 28), struct.pack("<HHII", 256, 4, 1, 7))
    data = data.replace(struct.pack("<3H", 16, 16, 16), struct.pack("<3H", 64, 64, 64))
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(ImageError, match=r"cannot be read|needs the package tifffile|which value is white"):
        read_image(tmp_path / "x.tif")


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ImageError, match="git lfs pull"):
        read_image(tmp_path / "x.png")


def test_big_endian_arrays_are_read_and_warned_of_as_others_are() -> None:
    values = np.full((2, 3), 900, ">u2")
    with pytest.warns(ImageWarning, match="looks black"):
        pixels, _ = as_image(values)
    with pytest.warns(ImageWarning):
        assert np.array_equal(pixels, as_image(values.astype(np.uint16))[0])
    assert np.array_equal(as_image(np.full((2, 3), 0.5, ">f4"))[0], np.full((2, 3, 3), 128))
