"""The reader of COCO panoptic JSON and the codec of panoptic PNGs."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from maskconver.core import panoptic_png
from maskconver.errors import DataError
from maskconver.io.panoptic_json import read_panoptic_json, read_panoptic_png, write_panoptic_png
from maskconver.io.panoptic_rows import Defect
from tests.metrics import panoptic


def png_bytes(colours: NDArray[np.uint8], mode: str | None = None, **options: object) -> bytes:
    image = Image.fromarray(colours)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, "PNG", **options)
    return stream.getvalue()


def filtered_png(colours: NDArray[np.uint8], filters: list[int]) -> bytes:
    """A PNG whose rows use the given filters, encoded by the definition (RFC 2083), a byte at a time."""
    height, width, channels = colours.shape
    rows = colours.reshape(height, -1).astype(int)
    raw = bytearray()
    for y, kind in enumerate(filters):
        raw.append(kind)
        for x in range(width * channels):
            a = rows[y, x - channels] if x >= channels else 0
            b = rows[y - 1, x] if y else 0
            c = rows[y - 1, x - channels] if y and x >= channels else 0
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            raw.append((rows[y, x] - (0, a, b, (a + b) // 2, paeth)[kind]) % 256)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 6, 0, 0, 0)
    body = zlib.compress(bytes(raw))
    parts = (body[: len(body) // 2], body[len(body) // 2 :])
    idat = b"".join(chunk(b"IDAT", part) for part in parts)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tEXt", b"a\0b") + idat + chunk(b"IEND", b"")
    )


def ids_of(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    r, g, b = (colours[..., i].astype(int) for i in range(3))
    return r + 256 * g + 65536 * b


@pytest.fixture(params=["kornia_rs", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test that asks for it runs with the optional decoder and without."""
    if request.param == "kornia_rs":
        pytest.importorskip("kornia_rs")
    else:
        monkeypatch.setattr(panoptic_png, "_rust", None)
    return request.param


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_every_row_filter_is_undone(decoder: str, seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 9, 2)
    palette = rng.integers(0, 256, (int(rng.choice([2, 4, 256])), channels))
    image = palette[rng.integers(0, len(palette), (height, width))].astype(np.uint8)
    data = filtered_png(image, rng.integers(0, 5, height).tolist())
    np.testing.assert_array_equal(read_panoptic_png(data), ids_of(image))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint32])
def test_what_was_written_is_read_and_other_programs_agree(dtype: type, tmp_path: Path) -> None:
    ids = (
        np.random.default_rng(1).integers(0, min(np.iinfo(dtype).max, (1 << 24) - 1), (17, 23)).astype(dtype)
    )
    ids[3, 4] = min(np.iinfo(dtype).max, (1 << 24) - 1)
    path = tmp_path / "new" / "map.png"
    write_panoptic_png(path, ids)
    read = read_panoptic_png(path)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, ids)
    np.testing.assert_array_equal(ids_of(np.asarray(Image.open(path))), ids)
    assert [p.name for p in path.parent.iterdir()] == ["map.png"]


def test_maps_larger_than_the_band_that_is_written_at_a_time(tmp_path: Path) -> None:
    for shape in ((3, 40_000), (700, 131)):
        ids = np.random.default_rng(1).integers(0, 1 << 24, shape)
        write_panoptic_png(tmp_path / "map.png", ids)
        np.testing.assert_array_equal(ids_of(np.asarray(Image.open(tmp_path / "map.png"))), ids)


@pytest.mark.parametrize(
    "ids", [np.full((2, 2), 1 << 24), np.full((2, 2), -1), np.zeros((2, 2)), np.zeros((2, 2, 3), int)]
)
def test_maps_that_do_not_fit_are_not_written(ids: NDArray, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_panoptic_png(tmp_path / "map.png", ids)
    assert not list(tmp_path.iterdir())


def test_palette_and_alpha_are_resolved(decoder: str) -> None:
    colours = np.zeros((6, 5, 3), np.uint8)
    colours[2:, 1:], colours[4:] = (3, 7, 1), (200, 0, 9)
    alpha = np.concatenate([colours, np.full((6, 5, 1), 128, np.uint8)], -1)
    palette = Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    for data in (png_bytes(alpha), stream.getvalue()):
        np.testing.assert_array_equal(read_panoptic_png(data), ids_of(colours))


def test_images_that_are_no_panoptic_pngs_are_refused(decoder: str) -> None:
    colours = np.random.default_rng(2).integers(0, 255, (30, 30, 3), np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(colours).save(jpeg, "JPEG")
    good = png_bytes(colours)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    huge = bytearray(good)
    huge[16:24] = struct.pack(">II", 100_000, 100_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    faults = {
        "one grey channel": png_bytes(colours[..., 0]),
        "16 bits": png_bytes(colours[..., 0].astype(np.uint16)),
        "is a JPEG": jpeg.getvalue(),
        "is empty": b"",
        "is not a PNG": b"<html>404</html>",
        "cut off at byte": good[: len(good) // 2],
        r"damaged \((checksum|.*CRC error)": bytes(flipped),
        "100000×100000 pixels": bytes(huge),
    }
    for message, data in faults.items():
        with pytest.raises(DataError, match=rf"here\.png.*{message}"):
            read_panoptic_png(data, "here.png")


def test_the_json_becomes_columns(tmp_path: Path) -> None:
    file = read_panoptic_json(panoptic.write(tmp_path))
    assert len(file) == 1 and file.png_names == ["a.png"] and file.index_of == {1: 0}
    table = file.table(0)
    assert table.ids.tolist() == [300, 5, 70000]
    assert table.labels.tolist() == [2, 0, 1]
    assert table.areas.tolist() == [608, 48, 48]
    assert file.boxes.tolist() == [[0, 0, 1, 1]] * 3
    assert (table.ids.dtype, table.labels.dtype, table.areas.dtype) == (np.int32, np.int64, np.float64)
    assert pickle.loads(pickle.dumps(file)).table(0).ids.tolist() == [300, 5, 70000]


def test_further_keys_of_images_are_kept(tmp_path: Path) -> None:
    file = read_panoptic_json(panoptic.write(tmp_path, lambda d: d["images"][0].update(image_type="purple")))
    assert json.loads(bytes(file.image_rows()[0]))["image_type"] == "purple"
    assert file.images[0].file_name == "a.png"


def test_missing_boxes_and_areas_are_marked(tmp_path: Path) -> None:
    def bare(data: dict) -> None:
        for row in data["annotations"][0]["segments_info"]:
            del row["bbox"], row["area"]

    file = read_panoptic_json(panoptic.write(tmp_path, bare))
    assert np.isnan(file.boxes).all() and not file.segments.areas.any()


def test_labels_can_follow_other_categories(tmp_path: Path) -> None:
    own = read_panoptic_json(panoptic.write(tmp_path / "a"))
    turned = panoptic.write(tmp_path / "b", lambda d: d["categories"].reverse())
    assert read_panoptic_json(turned).table(0).labels.tolist() == [0, 2, 1]
    file = read_panoptic_json(turned, categories=own.categories)
    assert file.table(0).labels.tolist() == [2, 0, 1]
    assert file.categories is own.categories and file.own_categories[0].id == 40


def test_all_defects_of_a_file_can_be_collected() -> None:
    data = panoptic.content()
    rows = data["annotations"][0]["segments_info"]
    rows[0]["category_id"] = 99
    rows.append({"id": 0, "category_id": 1})
    data["annotations"].append({"image_id": 8, "file_name": "b.png", "segments_info": []})
    data["categories"].append(data["categories"][0])
    defects: list[Defect] = []
    file = read_panoptic_json(json.dumps(data).encode(), name="x.json", defects=defects)
    assert file.table(0).ids.tolist() == [300, 5, 70000] and file.table(0).labels.tolist() == [-1, 0, 1]
    assert file.image_ids == [1]
    assert {d.file for d in defects} == {"x.json"} and {d.severity for d in defects} == {"error"}
    kinds = ["duplicate-category", "annotation-without-image", "unknown-category", "segment-id-zero"]
    assert [d.kind for d in defects] == kinds


def test_utf_16_is_read_as_utf_8_is() -> None:
    content = {"categories": [{"id": 1, "name": "Straße", "isthing": 1}], "annotations": [], "images": []}
    read = read_panoptic_json(json.dumps(content, ensure_ascii=False).encode("utf-16"))
    assert read.categories.names == ("Straße",)
