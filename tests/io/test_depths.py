"""Files of few bits, of 0 as white and with alpha: labels are the numbers stored, images what is seen."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from maskconver.core.categories import Categories, Category
from maskconver.data.conversion.pixels import read_values
from maskconver.io.images import ImageWarning, read_image
from maskconver.io.label_png import LabelClasses, read_label_png

BITS = (1, 2, 4, 8, 16)


def write(path: Path, values: NDArray[np.integer], bits: int, *, white: int) -> Path:
    """An uncompressed grey TIFF of one strip; `white` is 0 where 0 is white, else 1."""
    height, width = values.shape
    rows = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width, 2), axis=2)[..., -bits:]
    body = np.packbits(rows.reshape(height, -1), axis=1)
    data = (values.astype("<u2") if bits == 16 else body).tobytes()
    data += bytes(len(data) % 2)
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, white), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("white", [0, 1])
def test_labels_of_a_tiff_are_the_numbers_it_stores(tmp_path: Path, bits: int, white: int) -> None:
    values = np.arange(24).reshape(4, 6) % min(2**bits, 20)
    path = write(tmp_path / "a.tif", values, bits, white=white)
    classes = LabelClasses(Categories([Category(k + 1, str(k), False, (0, 0, 0)) for k in range(20)]))
    np.testing.assert_array_equal(read_label_png(path.read_bytes(), classes, "a.tif"), values + 1)
    np.testing.assert_array_equal(read_values(path), values)


@pytest.mark.parametrize("bits", BITS)
def test_an_image_with_0_for_white_is_the_negative_of_one_with_0_for_black(tmp_path: Path, bits: int) -> None:
    values = np.arange(24).reshape(4, 6) % 2**bits * (1 if bits < 16 else 2800)
    seen = [read_image(write(tmp_path / "a.tif", values, bits, white=white)) for white in (0, 1)]
    np.testing.assert_array_equal(seen[0], 255 - seen[1].astype(int))
    assert seen[1].max() > 20


def test_twelve_bits_with_0_for_white_are_turned_at_the_white_level(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.array([[0, 4095, 60000]]), 16, white=0)
    assert read_image(path, white_level=4095)[0, :, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("colours", [1, 3])
def test_full_opacity_does_not_hide_that_an_image_looks_black(tmp_path: Path, colours: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.full((4, 5, colours + 1), 4000, np.uint16)
    values[..., -1] = 65535
    kind = "rgb" if colours == 3 else "minisblack"
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric=kind, planarconfig="contig", extrasamples=["unassalpha"])
    with pytest.warns(ImageWarning, match="`white_level=4095`"):
        assert read_image(path).max() == 16
