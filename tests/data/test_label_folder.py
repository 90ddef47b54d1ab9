"""Images beside label PNGs are a data set like any other: found, read, checked, refused in one line."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import main
from maskconver.core.categories import Categories, Category
from maskconver.data import LabelFolder, check_dataset, open_dataset
from maskconver.data.dataset import DataWarning
from maskconver.data.layout import find_splits
from maskconver.errors import DataError
from maskconver.io.label_png import LabelClasses, read_classes, read_label_png

CLASSES = {
    "ignore": 255,
    "classes": [
        {"label": 0, "name": "sky", "color": [1, 2, 3]},
        {"label": 1, "name": "road"},
        {"label": 7, "name": "car"},
    ],
}


def values() -> np.ndarray:
    """6×8: sky over road with a car; the last column is ignored."""
    labels = np.zeros((6, 8), np.uint8)
    labels[3:] = 1
    labels[3:5, 2:4] = 7
    labels[:, 7] = 255
    return labels


def write(folder: Path, split: str = "train", names: tuple[str, ...] = ("a", "b")) -> Path:
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(folder / "images" / split / f"{name}.jpg")
        Image.fromarray(values()).save(folder / "labels" / split / f"{name}.png")
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    return folder


def refusal(data: LabelFolder, index: int = 0) -> str:
    with pytest.raises(DataError) as error:
        _ = data[index]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_class_is_one_stuff_segment_and_the_ignored_value_is_void(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path), "train")
    assert isinstance(data, LabelFolder) and len(data) == 2
    assert data.categories.names == ("sky", "road", "car")
    assert data.categories.ids.tolist() == [1, 2, 8] and not data.categories.is_thing.any()
    assert data.categories[0].color == (1, 2, 3)
    sample = data[0]
    assert sample.image.shape == (6, 8, 3) and sample.ids.dtype == np.int32
    np.testing.assert_array_equal(sample.ids, np.where(values() == 255, 0, values().astype(int) + 1))
    assert sample.segments.ids.tolist() == [1, 2, 8] and sample.segments.labels.tolist() == [0, 1, 2]
    assert sample.segments.areas.tolist() == [21, 17, 4]
    assert (sample.image_id, sample.file_name) == ("a", "a.jpg")
    assert data.info(1) == sample.info == {"width": 8, "height": 6}
    assert data.segment_counts.tolist() == [3, 3] and data.unannotated == 0
    assert [s.image_id for s in data[:]] == ["a", "b"]
    with pytest.raises(IndexError):
        data[2]


def test_it_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path), "train")
    _ = data[1]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data))[1].ids, data[1].ids)


def test_classes_may_be_names_a_line(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "classes.json").unlink()
    (tmp_path / "classes.txt").write_text("\n".join("abcdefgh"))
    assert open_dataset(tmp_path, "train").categories.names == tuple("abcdefgh")


def test_numbers_of_classes_may_have_a_point(tmp_path: Path) -> None:
    rows = [{"label": 3.0, "name": "a", "color": [1.0, 2, 3]}]
    (tmp_path / "classes.json").write_text(json.dumps({"ignore": 254.0, "classes": rows}))
    classes = read_classes(tmp_path / "classes.json")
    assert (classes.ignore, classes.categories[0].id, classes.categories[0].color) == (254, 4, (1, 2, 3))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("{}", "names no classes"),
        ("[]", "names no classes"),
        ('[{"label": 3}]', "lacks a name"),
        ('[{"label": "x", "name": "a"}]', "lacks a name or a label"),
        ('[{"label": 2, "name": "a"}, {"label": 2, "name": "b"}]', '"a" and "b" both have the value 2'),
        ('{"ignore": 0, "classes": ["a"]}', "the one to ignore"),
        ('[{"name": "a", "color": [1, 2]}]', "color"),
        ('[{"name": "a", "color": 5}]', "color"),
        ('[{"name": "a", "color": "#ff0000"}]', "color"),
        ('{"ignore": "254", "classes": ["a"]}', "\"ignore\" is '254'"),
        ('{"ignore": null, "classes": ["a"]}', '"ignore" is None'),
        ('[{"id": 1, "name": "a"}]', 'call its value in the PNGs "label"'),
    ],
)
def test_classes_that_make_no_sense_are_refused(tmp_path: Path, content: str, says: str) -> None:
    (write(tmp_path) / "classes.json").write_text(content)
    with pytest.raises(DataError, match=r"classes\.json") as error:
        open_dataset(tmp_path, "train")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_splits_and_places(tmp_path: Path) -> None:
    write(tmp_path, "train")
    write(tmp_path, "val", ("c",))
    assert find_splits(tmp_path) == ["train", "val"]
    assert open_dataset(tmp_path, "val").image_ids == ["c"]
    with pytest.raises(DataError, match="train, val; say which"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match='no split "test"'):
        open_dataset(tmp_path, "test")
    places = {"images": tmp_path / "images" / "val", "labels": tmp_path / "labels" / "val"}
    assert open_dataset(None, **places).image_ids == ["c"]
    shutil.move(tmp_path / "classes.json", tmp_path / "names.json")
    assert open_dataset(None, **places, classes=tmp_path / "names.json").image_ids == ["c"]
    with pytest.raises(DataError, match="`classes`"):
        open_dataset(None, **places)


def test_folders_without_splits_and_zips(tmp_path: Path) -> None:
    write(tmp_path / "a", "")
    assert len(open_dataset(tmp_path / "a")) == 2
    write(tmp_path / "b")
    for kind in ("images", "labels"):
        folder = tmp_path / "b" / kind / "train"
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"train/{file.name}")
        shutil.rmtree(folder)
    data = open_dataset(tmp_path / "b", "train")
    assert data[1].segments.labels.tolist() == [0, 1, 2]


def test_names_of_cityscapes_are_joined(tmp_path: Path) -> None:
    write(tmp_path)
    for kind, ending in (("images", "_leftImg8bit"), ("labels", "_gtFine_labelTrainIds")):
        folder = tmp_path / kind / "train"
        (folder / "aachen").mkdir()
        for file in [*folder.glob("*.*")]:
            file.rename(folder / "aachen" / f"{file.stem}{ending}{file.suffix}")
    Image.fromarray(values()).save(tmp_path / "labels" / "train" / "aachen" / "a_gtFine_color.png")
    assert open_dataset(tmp_path, "train").image_ids == ["aachen/a", "aachen/b"]


def test_it_wins_over_panoptic_files_beside_it_unless_they_are_named(shared: Path) -> None:
    folder = shared / "data" / "camvid"
    labelled = open_dataset(folder, "val")
    panoptic = open_dataset(folder, "val", panoptic_json=folder / "panoptic_val.json")
    assert isinstance(labelled, LabelFolder) and not isinstance(panoptic, LabelFolder)
    assert labelled.categories == panoptic.categories
    assert labelled.file_names == panoptic.file_names
    for index in (0, 57):
        np.testing.assert_array_equal(labelled.ids(index), panoptic.ids(index))
        assert labelled.segments(index).labels.tolist() == sorted(panoptic.segments(index).labels.tolist())


@pytest.mark.parametrize("mode", ["P", "I;16", "1"])
def test_palette_deep_and_one_bit_pngs_are_read(tmp_path: Path, mode: str) -> None:
    write(tmp_path)
    labels = values() if mode != "1" else (values() % 2)
    image = Image.fromarray(
        labels.astype(np.uint16) if mode == "I;16" else labels * (255 if mode == "1" else 1)
    )
    if mode == "P":
        image.putpalette([*range(256)] * 3)
    (image.convert("1") if mode == "1" else image).save(tmp_path / "labels" / "train" / "a.png")
    expected = np.where(labels == 255, 0, labels.astype(int) + 1)
    np.testing.assert_array_equal(open_dataset(tmp_path, "train").ids(0), expected)


class TestDefects:
    def test_a_value_outside_the_classes_names_file_and_value(self, tmp_path: Path) -> None:
        data = open_dataset(write(tmp_path), "train")
        labels = values()
        labels[2, 3:5] = 42
        Image.fromarray(labels).save(tmp_path / "labels" / "train" / "a.png")
        message = refusal(data)
        assert "a.png" in message and "value 42" in message and "2 pixels" in message
        report = check_dataset(tmp_path)
        assert [d.kind for d in report.defects] == ["unknown-label"]
        assert report.defects[0].file.endswith("a.png") and "42" in report.defects[0].message

    def test_sizes_that_differ(self, tmp_path: Path) -> None:
        data = open_dataset(write(tmp_path), "train")
        Image.fromarray(values()[:5]).save(tmp_path / "labels" / "train" / "a.png")
        assert "8×5, but the image" in refusal(data)
        assert [d.kind for d in check_dataset(tmp_path).defects] == ["size-mismatch"]

    def test_what_is_no_label_png(self, tmp_path: Path) -> None:
        data = open_dataset(write(tmp_path), "train")
        path = tmp_path / "labels" / "train" / "a.png"
        Image.fromarray(np.full((6, 8, 3), (1, 0, 0), np.uint8)).save(path)
        assert "3 channels" in refusal(data)
        path.write_bytes(b"\x89PNG\r\n\x1a\n cut off")
        assert "a.png" in refusal(data)
        path.unlink()
        assert "no such file" in refusal(data)

    def test_files_without_a_partner_are_counted_and_listed(self, tmp_path: Path) -> None:
        write(tmp_path, names=("a", "b", "c"))
        (tmp_path / "labels" / "train" / "a.png").unlink()
        (tmp_path / "images" / "train" / "b.jpg").unlink()
        with pytest.warns(DataWarning) as notes:
            data = open_dataset(tmp_path, "train")
        assert data.image_ids == ["c"] and data.unannotated == 1
        assert "a.jpg" in str(notes[0].message) and "b.png" in str(notes[1].message)
        assert {d.kind for d in check_dataset(tmp_path).defects} == {"missing-png", "extra-png"}

    def test_two_images_of_one_name(self, tmp_path: Path) -> None:
        write(tmp_path)
        shutil.copy(tmp_path / "images" / "train" / "a.jpg", tmp_path / "images" / "train" / "a.jpeg")
        with pytest.raises(DataError, match="both belong to a"):
            open_dataset(tmp_path, "train")

    def test_no_pair_at_all(self, tmp_path: Path) -> None:
        write(tmp_path, names=("a",))
        (tmp_path / "labels" / "train" / "a.png").rename(tmp_path / "labels" / "train" / "z.png")
        with pytest.raises(DataError, match="no label PNG has the name"), warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            open_dataset(tmp_path, "train")


@pytest.mark.parametrize("mode", ["RGB", "LA", "RGBA"])
def test_grey_with_more_channels_is_grey(tmp_path: Path, mode: str) -> None:
    data = open_dataset(write(tmp_path), "train")
    expected = data.ids(0).copy()
    Image.fromarray(values()).convert(mode).save(tmp_path / "labels" / "train" / "a.png")
    np.testing.assert_array_equal(open_dataset(tmp_path, "train").ids(0), expected)


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_label_tiffs_of_any_numbers_are_read_and_stacks_refused(kind: type) -> None:
    write_tiff = pytest.importorskip("tifffile", reason="tifffile is not installed").imwrite
    classes = LabelClasses(Categories([Category(k, str(k), False, (0, 0, 0)) for k in (1, 2, 8)]))
    stream = io.BytesIO()
    write_tiff(stream, values().astype(kind))
    np.testing.assert_array_equal(
        read_label_png(stream.getvalue(), classes, "a.tif"), np.where(values() == 255, 0, values() + 1)
    )
    stream = io.BytesIO()
    write_tiff(stream, np.stack([values()] * 2), photometric="minisblack")
    with pytest.raises(DataError, match="holds 2 pages"):
        read_label_png(stream.getvalue(), classes, "a.tif")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_classes_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "classes.txt").write_text("Straße\nsky\n", encoding=encoding)
    assert read_classes(tmp_path / "classes.txt").categories.names == ("Straße", "sky")


def test_names_may_differ_in_case_and_hold_the_ending_of_the_image(tmp_path: Path) -> None:
    write(tmp_path, names=("a", "B", "c", "C"))
    folder = tmp_path / "labels" / "train"
    for old, new in (("a.png", "a.jpg.png"), ("B.png", "b.png"), ("c.png", "x.png")):
        (folder / old).rename(folder / new)
    with pytest.warns(DataWarning):
        data = open_dataset(tmp_path, "train")
    assert data.image_ids == ["B", "C", "a"]  # c is not C
    assert [Path(data.png_path(k)).name for k in range(3)] == ["b.png", "C.png", "a.jpg.png"]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_labels_may_be_tiff_files(tmp_path: Path, kind: type) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    values = np.array([[0, 1, 1], [0, 0, 255]], kind)
    Image.fromarray(values).save(tmp_path / "labels" / "a.tif")
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    assert LabelFolder(tmp_path / "images", tmp_path / "labels", tmp_path / "classes.txt").ids(
        0
    ).tolist() == [
        [1, 2, 2],
        [1, 1, 0],
    ]
    assert not check_dataset(tmp_path).defects
    Image.fromarray(np.full((2, 3), 1 << 17, np.int32)).save(tmp_path / "labels" / "a.tif")
    assert [d.kind for d in check_dataset(tmp_path).defects] == ["broken-png"]


def test_data_check_prints_classes_and_finds_nothing_wrong_with_sound_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    write(tmp_path, "val")
    assert main(["data", "check", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [s["split"] for s in report["splits"]] == ["train", "val"]
    assert [(row["id"], row["pixels"]) for row in report["splits"][0]["classes"]] == [
        (1, 42),
        (2, 34),
        (8, 8),
    ]
    assert main(["data", "check", str(tmp_path), "--split", "val", "--workers", "2"]) == 0
    assert "no defects" in capsys.readouterr().out


def test_an_image_of_which_nothing_counts_is_worth_a_note(tmp_path: Path) -> None:
    write(tmp_path)
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(tmp_path / "labels" / "train" / "a.png")
    assert [d.kind for d in check_dataset(tmp_path).defects] == ["nothing-labelled"]
    assert len(open_dataset(tmp_path, "train")[0].segments) == 0


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", ["grey", "palette"])
def test_values_are_read_as_stored_whatever_their_number_of_bits(depth: int, colour: str) -> None:
    values = np.arange(12).reshape(3, 4) % min(2**depth, 12)
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -depth:]
    rows = np.packbits(bits.reshape(3, -1), axis=1)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 3, depth, 0 if colour == "grey" else 3, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", bytes(3 * 2**depth)) if colour == "palette" else b""]
    parts += [chunk(b"IDAT", zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes())), chunk(b"IEND", b"")]
    names = [Category(k + 1, str(k), False, (0, 0, 0)) for k in range(12)]
    ids = read_label_png(b"\x89PNG\r\n\x1a\n" + b"".join(parts), LabelClasses(Categories(names)), "x.png")
    np.testing.assert_array_equal(ids, values + 1)


def test_training_ids_of_cityscapes_win_over_the_ids_they_were_made_from(tmp_path: Path) -> None:
    for name in (
        "images/a_leftImg8bit.png",
        "labels/a_gtFine_labelIds.png",
        "labels/a_gtFine_labelTrainIds.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        value = 1 if "TrainIds" in name else 0
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / name)
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    assert (open_dataset(tmp_path).ids(0) == 2).all()
