"""Images of every usual kind are read as RGB; broken ones are refused in one line that names the file."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.errors import ImageError
from maskconver.io.images import ImageWarning, image_size, read_image, read_reduced
from maskconver.io.pixels import kept_warnings
from maskconver.io.sources import list_images

RNG = np.random.default_rng(0)
COLOURED = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (6, 8, 3), np.uint8)).resize((40, 30), Image.Resampling.BICUBIC)
)
GREY = np.asarray(Image.fromarray(COLOURED).convert("L"))

BROKEN = (
    *("truncated.jpg", "truncated_header.jpg", "truncated.png", "bad_crc.png", "empty.png", "text.jpg"),
    *("html_error_page.png", "zero_width.png", "huge_dimensions.png", "bomb_16k.png"),
)
ODD = {"animated.gif": "several frames", "grey12in16.tif": "`white_level=4095`"}


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"\0") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def grey3(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[..., None], 3, axis=2)


# Every file of the shared folder


@pytest.mark.parametrize("name", BROKEN)
def test_shared_broken_image_is_refused_in_one_line_with_its_name(shared: Path, name: str) -> None:
    path = shared / "golden" / "bad_inputs" / "images" / name
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_every_other_shared_image_is_read(shared: Path) -> None:
    folder = shared / "golden" / "bad_inputs" / "images"
    plain, grey = read_image(folder / "plain.png"), read_image(folder / "grey.png")
    for path in sorted(folder.iterdir()):
        if path.name in BROKEN:
            continue
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            pixels = read_image(path)
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
        assert image_size(path) == pixels.shape[:2]
        expected = ODD.get(path.name)
        assert [expected in str(n.message) for n in notes] == ([True] if expected else []), path.name
        if "one" in path.name or "strip" in path.name or path.name in ODD:
            continue
        like = grey if "grey" in path.name or "UPPER" in path.name else plain
        assert np.abs(pixels.astype(int) - like).mean() <= 4, path.name


# The same faults, made here


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encoded(Image.fromarray(COLOURED), "JPEG")[:400], "damaged or cut off"),
        (encoded(Image.fromarray(COLOURED), "JPEG")[:60], "damaged or cut off"),
        (encoded(Image.fromarray(COLOURED), "PNG")[:-900], "damaged or cut off"),
        (b"", "empty"),
        (b"just a line of text", "not an image"),
        (b"<html>404</html>", "web page"),
        (png(0, 5), "header is damaged"),
        (png(100_000, 100_000), "`max_pixels=10000000000`"),
        (png(16_000, 16_000, 1, 0), "256 million pixels"),
        (b"\x89PNG\r\n\x1a\n", "header is damaged"),
    ],
)
def test_broken_image_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"x\.png") as error:
        read_image(path)
    assert says in str(error.value)


def test_flipped_byte_is_refused() -> None:
    data = bytearray(encoded(Image.fromarray(COLOURED), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError, match="scan 7: damaged"):
        read_image(bytes(data), name="scan 7")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)


def test_limit_of_pixels_can_be_raised_and_leaves_pillows_own_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS
    data = encoded(Image.fromarray(COLOURED), "PNG")
    with pytest.raises(ImageError, match="`max_pixels=1200`"):
        read_image(data, max_pixels=1199)
    assert read_image(data, max_pixels=1200).shape == (30, 40, 3)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_are_exact(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(COLOURED), kind, **options)), COLOURED)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "1", "P"])
def test_alpha_is_dropped_and_grey_repeated(mode: str) -> None:
    image = Image.fromarray(COLOURED)
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1)))
    image = image.convert("L") if mode == "LA" else image
    image = image.convert(mode) if mode not in ("RGBA", "LA") else image
    if mode in ("RGBA", "LA"):
        image.putalpha(ramp)
    expected = {"RGBA": COLOURED, "LA": grey3(GREY), "L": grey3(GREY)}.get(
        mode, np.asarray(image.convert("RGB"))
    )
    np.testing.assert_array_equal(read_image(encoded(image, "PNG")), expected)


def test_transparent_palette_keeps_its_colours_without_a_warning() -> None:
    image = Image.fromarray(COLOURED).quantize(16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(encoded(image, "PNG", transparency=bytes([0, 128] + [255] * 14)))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_becomes_rgb() -> None:
    flat = Image.new("RGB", (16, 16), (200, 60, 90)).convert("CMYK")
    pixels = read_image(encoded(flat, "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - (200, 60, 90)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_rotation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(COLOURED), kind, exif=exif)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(read_image(data), expected)
    assert image_size(data) == expected.shape[:2]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_their_full_range(kind: str) -> None:
    data = encoded(Image.fromarray(GREY.astype(np.uint16) * 257), kind)
    np.testing.assert_array_equal(read_image(data), grey3(GREY))


def test_twelve_bits_in_sixteen_are_warned_about_and_mended_by_a_white_level() -> None:
    data = encoded(Image.fromarray(GREY.astype(np.uint16) * 16), "PNG")
    with pytest.warns(ImageWarning, match="`white_level=4095`"):
        assert read_image(data).max() < 17
    mended = read_image(data, white_level=4095)
    assert np.abs(mended.astype(int) - grey3(GREY)).max() <= 1


def test_black_sixteen_bit_image_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not read_image(encoded(Image.fromarray(np.zeros((3, 4), np.uint16)), "PNG")).any()


def test_float_image_is_read_in_0_to_1_and_refused_beyond() -> None:
    np.testing.assert_array_equal(
        read_image(encoded(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF")), grey3(GREY)
    )
    with pytest.raises(ImageError, match="white_level="):
        read_image(encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"))


def test_first_frame_of_an_animation_is_read_and_said() -> None:
    first, second = Image.new("L", (5, 4), 255), Image.new("L", (5, 4), 0)
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    with pytest.warns(ImageWarning, match="only the first"):
        assert (read_image(data) == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2000, 1)])
def test_any_size_is_read(size: tuple[int, int]) -> None:
    assert read_image(encoded(Image.new("RGB", size), "PNG")).shape == (size[1], size[0], 3)


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.fromarray(COLOURED), "PNG"))
    np.testing.assert_array_equal(read_image(path), COLOURED)
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_image(file), COLOURED)
        assert not file.closed


# Finding images


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "deep/er/c.tiff", "notes.txt", ".hidden.png", ".cache/d.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(paths: list[Path], root: Path) -> list[str]:
    return [p.relative_to(root).as_posix() for p in paths]


def test_folder_is_searched_to_the_bottom(tree: Path) -> None:
    assert names(list_images(tree), tree) == ["a.JPG", "b.png", "deep/er/c.tiff"]


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path: Path) -> None:
    for name in ("set [1]/a*b/x.png", "set [1]/a*b/y.png", "set 1/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    found = list_images(tmp_path / "set [1]" / "*" / "[xz].png")
    assert [p.name for p in found] == ["x.png"]
    assert [p.name for p in list_images(tmp_path / "set [1]" / "**" / "*.png")] == ["x.png", "y.png"]
    assert [p.name for p in list_images(tmp_path / "set [12]" / "*.png")] == ["z.png"]


def test_globs_files_and_folders_are_joined_without_repeats(tree: Path) -> None:
    given = [tree / "b.png", f"{tree}/*.png", str(tree / "deep"), f"{tree}/**/*.tiff"]
    assert names(list_images(given), tree) == ["b.png", "deep/er/c.tiff"]


def test_file_named_outright_is_taken_whatever_its_ending(tree: Path) -> None:
    assert names(list_images(tree / "notes.txt"), tree) == ["notes.txt"]
    assert names(list_images(f"{tree}/*"), tree) == ["a.JPG", "b.png", "deep/er/c.tiff"]


@pytest.mark.parametrize("given", ["nowhere.png", "*.webp", "empty"])
def test_nothing_found_is_an_error_that_names_what_was_given(tree: Path, given: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(ImageError) as error:
        list_images(tree / given)
    assert given in str(error.value)


# Reduced


def jpeg(height: int, width: int, turn: int = 1) -> tuple[bytes, np.ndarray]:
    """A smooth image, and how it looks upright."""
    y, x = np.mgrid[:height, :width]
    image = Image.fromarray(np.stack([y * 255 // height, x * 255 // width, 0 * x + 90], -1).astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = turn
    data = encoded(image, "JPEG", quality=95, exif=exif)
    return data, read_image(data)


@pytest.mark.parametrize("turn", [1, 3, 6])
@pytest.mark.parametrize(
    ("least", "step"), [((300, 400), 1), ((151, 201), 1), ((150, 200), 2), ((75, 90), 4), ((1, 1), 8)]
)
def test_a_jpeg_is_reduced_as_far_as_it_stays_large_enough(least, step, turn) -> None:
    data, whole = jpeg(300, 400, turn)
    sizes = []

    def wanted(size: tuple[int, int]) -> tuple[int, int]:
        sizes.append(size)
        return least if turn < 5 else least[::-1]

    pixels, size = read_reduced(data, wanted)
    assert sizes == [size] == [whole.shape[:2]]
    assert pixels.shape[:2] == tuple(-(-n // step) for n in size)
    middle = whole[step // 2 :: step, step // 2 :: step].astype(int)
    h, w = middle.shape[:2]
    assert abs(pixels[:h, :w] - middle).max() <= 8


def test_other_formats_are_read_whole() -> None:
    pixels, size = read_reduced(encoded(Image.fromarray(COLOURED), "PNG"), lambda size: (1, 1))
    np.testing.assert_array_equal(pixels, COLOURED)
    assert size == COLOURED.shape[:2]


def test_larger_jpegs_than_allowed_are_refused_before_they_are_reduced() -> None:
    with pytest.raises(ImageError, match="max_pixels=120000"):
        read_reduced(jpeg(300, 400)[0], lambda size: (1, 1), max_pixels=100_000)


# Warnings and threads


def test_kept_warnings_are_those_of_the_thread_alone() -> None:
    dark = encoded(Image.fromarray(np.full((9, 9), 1000, np.uint16)), "PNG")
    given: list[warnings.WarningMessage] = []

    def elsewhere() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read_image(dark, name="there")
        given.extend(caught)

    with kept_warnings() as texts:
        read_image(dark, name="here")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(texts) == 1 and texts[0].where == "here"
    assert [str(w.message).split(":")[0] for w in given] == ["there"]
