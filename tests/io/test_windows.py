"""Large TIFF files window by window: the same values as the whole file."""

import warnings

import numpy as np
import pytest

from maskconver.errors import ImageError
from maskconver.io.images import read_image
from maskconver.io.windows import TiffWindows, open_windows

tifffile = pytest.importorskip("tifffile")

WINDOWS = [
    (slice(0, 70), slice(0, 90)),
    (slice(13, 40), slice(5, 77)),
    (slice(69, 70), slice(89, 90)),
    (slice(32, 64), slice(32, 64)),
]


def values(channels: int = 3, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (70, 90, channels)).astype(dtype)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 16), "compression": "zlib"},
        {"tile": (32, 32)},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"rowsperstrip": 16, "compression": "zlib", "predictor": True},
        {"planarconfig": "separate", "tile": (16, 32), "compression": "zlib"},
        {"byteorder": ">", "rowsperstrip": 7},
        {"ome": True, "tile": (32, 32), "compression": "zlib"},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_windows_are_those_of_the_whole(tmp_path, options, dtype):
    image, path, order = values(dtype=dtype), tmp_path / "a.tif", options.get("byteorder", "<")
    own = {k: v for k, v in options.items() if k not in ("byteorder", "ome")}
    stored = np.moveaxis(image, 2, 0) if "planarconfig" in options else image
    with tifffile.TiffWriter(path, byteorder=order, ome="ome" in options) as file:
        file.write(stored, photometric="rgb", **own)
    source = open_windows(path, 1)
    assert source.shape == image.shape
    for window in WINDOWS * 2:
        found = source.read(window)
        assert found.dtype == dtype and (found == image[window]).all()
    source.close()


def test_grey_pyramids_are_read_at_full_resolution(tmp_path):
    image = values(1)[..., 0]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        own = {"tile": (16, 16), "compression": "zlib"}
        file.write(image, subifds=1, **own)
        file.write(image[::2, ::2], subfiletype=1, **own)
    source = open_windows(tmp_path / "a.ome.tif", 1)
    assert source.shape == (70, 90, 1)
    assert (source.read(WINDOWS[1])[..., 0] == image[WINDOWS[1]]).all()


def test_other_and_small_files_are_left_to_the_decoder(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", values(), tile=(32, 32))
    assert open_windows(tmp_path / "a.tif", 70 * 90 + 1) is None
    tifffile.imwrite(tmp_path / "b.tif", values(), compression="zlib", rowsperstrip=70)  # one strip
    tifffile.imwrite(tmp_path / "c.tif", values(), tile=(32, 32), extratags=[(274, "H", 1, 6, True)])
    (tmp_path / "d.png").write_bytes(b"\x89PNG")
    assert [open_windows(tmp_path / f, 1) for f in ("b.tif", "c.tif", "d.png", "none.tif")] == [None] * 4


def test_a_damaged_part_is_told_with_its_file(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values(), tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[4]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    source = TiffWindows(path)
    assert source.read((slice(0, 20), slice(0, 20))).shape == (20, 20, 3)
    with pytest.raises(ImageError, match=r"a\.tif: damaged or cut off in part 5 of 9") as caught:
        source.read((slice(0, 70), slice(0, 90)))
    assert "\n" not in str(caught.value)
    path.write_bytes(data[: offset + 5])
    with pytest.raises(ImageError, match="damaged or cut off"):
        TiffWindows(path).read((slice(0, 70), slice(0, 90)))


def parts_of(path, page: int = 0) -> tuple[list[int], list[int]]:
    with tifffile.TiffFile(path) as file:
        return list(file.pages[page].dataoffsets), list(file.pages[page].databytecounts)


def both_readers(path) -> list[str]:
    """What each says, "" if it reads the file."""
    said = []
    for read in (read_image, lambda path: TiffWindows(path).read((slice(0, 70), slice(0, 90)))):
        try:
            with warnings.catch_warnings(action="ignore"):
                read(path)
            said.append("")
        except ImageError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("compression", ["zlib", "lzw", "jpeg", "jpeg2000"])
@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"tile": (32, 32)}, "part 5 of 9"),
        ({"rowsperstrip": 16}, "part 5 of 5"),
        ({"tile": (32, 32), "ome": True}, "part 5 of 9"),
    ],
)
def test_a_broken_part_is_told_with_file_and_page_whole_and_by_windows(tmp_path, options, part, compression):
    path = tmp_path / "a.tif"
    own = {k: v for k, v in options.items() if k != "ome"} | {"compression": compression}
    with tifffile.TiffWriter(path, ome="ome" in options) as file:
        file.write(values(), photometric="rgb", **own)
    assert both_readers(path) == ["", ""]
    offsets, sizes = parts_of(path)
    data = path.read_bytes()
    half = offsets[4] + sizes[4] // 2
    path.write_bytes(data[:half] + bytes(offsets[4] + sizes[4] - half) + data[offsets[4] + sizes[4] :])
    for said in both_readers(path):
        assert "a.tif: damaged or cut off in " in said and "page 1" in said and "\n" not in said
    path.write_bytes(data[:half])
    if max(offsets) + 4 > half:  # the directory stands before the values
        assert all(f"{part} of page 1 (it lies outside the file)" in said for said in both_readers(path))


@pytest.mark.parametrize("options", [{"compression": "zlib", "tile": (32, 32)}, {"rowsperstrip": 16}, {}])
@pytest.mark.parametrize("big", [False, True])
def test_a_page_that_is_not_all_there_is_told_by_its_number(tmp_path, options, big):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=big) as file:
        for _ in range(3):
            file.write(values(), photometric="rgb", metadata=None, **options)
    assert both_readers(path) == ["", ""]
    data, (offsets, sizes) = path.read_bytes(), parts_of(path, 1)
    with tifffile.TiffFile(path) as file:
        directory = file.pages[2].offset
    for broken, place in (
        (data[: offsets[-1] + sizes[-1] // 2], f"part {len(sizes)} of {len(sizes)} of page 2"),
        (data[: directory + 4], "page 3"),
        (data[:directory] + b"\xff" * 8 + data[directory + 8 :], "page 3"),
    ):
        path.write_bytes(broken)
        assert all(f"a.tif: damaged or cut off in {place} (" in said for said in both_readers(path))


def test_tiles_that_a_file_leaves_out_stay_black(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values(), tile=(32, 32), compression="zlib", photometric="rgb")
    with tifffile.TiffFile(path, mode="r+") as file:
        offsets, sizes = (list(file.pages[0].tags[code].value) for code in (324, 325))
        offsets[4] = sizes[4] = 0
        file.pages[0].tags[324].overwrite(offsets)
        file.pages[0].tags[325].overwrite(sizes)
    part = TiffWindows(path).read((slice(32, 64), slice(32, 64)))
    assert not part.any()
