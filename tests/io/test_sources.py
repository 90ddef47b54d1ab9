"""Files are found by the names that annotations give them, in folders and zips."""

from __future__ import annotations

import pickle
import unicodedata
import zipfile
from pathlib import Path

import pytest

from maskconver.data.conversion.annotation import Faults
from maskconver.data.conversion.archive import unpack
from maskconver.errors import DataError
from maskconver.io.sources import FileSource, list_images, name_fault


def zipped(path: Path, *names: str) -> FileSource:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is, with its backslashes
            archive.writestr(info, name.encode())
    return FileSource(path)


@pytest.mark.parametrize(
    "names",
    [
        ("train/0.png", "train/1.png"),
        ("train\\0.png", "train\\1.png"),
        ("train/0.png", "train/1.png", ".DS_Store", "__MACOSX/train/._0.png"),
        ("train/0.png", "train/1.png", "README.txt"),
        ("data/images/train/0.png", "data/images/train/1.png"),
        ("0.png", "1.png"),
    ],
)
def test_images_of_a_zip_are_found_without_the_folders_they_all_lie_in(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    source = zipped(tmp_path / "x.zip", *names)
    assert source.read("0.png") == names[0].encode()
    assert [n for n in source.names() if n.endswith(".png")] == ["0.png", "1.png"]
    assert pickle.loads(pickle.dumps(source)).exists("1.png")


def test_folders_of_a_zip_may_be_named_wholly_or_in_part(tmp_path: Path) -> None:
    source = zipped(tmp_path / "x.zip", "data/train/0.png", "data/train/1.png", "data/notes.txt")
    for name in ("0.png", "train/0.png", "data/train/0.png", "./0.png"):
        assert source.find(name) == "0.png", name
    assert not source.exists("val/0.png") and not source.exists("../0.png")


def test_linked_folders_are_searched_and_circles_end(tmp_path: Path) -> None:
    for name in ("store/a/0.png", "images/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "images" / "a").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "images" / "b" / "up").symlink_to(tmp_path / "images")
    assert FileSource(tmp_path / "images").names() == ["a/0.png", "b/1.png"]
    found = [path.relative_to(tmp_path / "images").as_posix() for path in list_images(tmp_path / "images")]
    assert found == ["a/0.png", "b/1.png"]


@pytest.mark.parametrize(("disk", "json"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_found_in_either_unicode_form(tmp_path: Path, disk: str, json: str) -> None:
    name = "Größe é 0.png"
    (tmp_path / unicodedata.normalize(disk, name)).write_bytes(b"x")  # type: ignore[arg-type]
    source = FileSource(tmp_path)
    assert source.read(unicodedata.normalize(json, name)) == b"x"  # type: ignore[arg-type]
    assert source.find(unicodedata.normalize(json, name)) == source.names()[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        ("train\\0.png", "Windows path"),
        ("C:/data/0.png", "Windows path"),
        ("/etc/passwd", "absolute path"),
        ("../0.png", "leads out"),
        ("a/../../0.png", "leads out"),
        ("a/0.png", ""),
    ],
)
def test_what_is_wrong_with_a_file_name_is_said(name: str, fault: str) -> None:
    assert fault in name_fault(name) and bool(name_fault(name)) == bool(fault)


def test_a_file_that_lies_elsewhere_or_has_another_ending_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r'there is 0\.png, so leave "images/train/" out'):
        FileSource(tmp_path).read("images/train/0.png")
    with pytest.raises(DataError, match=r"there is 0\.png, so correct file_name"):
        FileSource(tmp_path).read("0.jpg")


def test_names_in_utf_8_that_the_zip_does_not_call_so_are_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("images/XXXXXXX.png", "images/b.png"):
            archive.writestr(name, b"x")
    data = (tmp_path / "x.zip").read_bytes().replace(b"XXXXXXX", "straße".encode())  # as a Mac zips
    (tmp_path / "x.zip").write_bytes(data)
    source = FileSource(tmp_path / "x.zip")
    assert source.names() == ["b.png", "straße.png"] and source.read("straße.png") == b"x"
    unpack(tmp_path / "x.zip", tmp_path / "out", Faults())
    assert (tmp_path / "out" / "images" / "straße.png").is_file()
