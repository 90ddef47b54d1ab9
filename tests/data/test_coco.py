"""A panoptic data set is found by its folder, read lazily, and refused where it makes no sense."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import main
from maskconver.data import CocoPanoptic, open_dataset
from maskconver.data.dataset import DataWarning
from maskconver.data.layout import find_splits
from maskconver.errors import DataError, ImageError
from maskconver.io.panoptic_json import read_panoptic_json
from maskconver.io.sources import FileSource
from tests.fakes import FakeRuntime

from .conftest import Spoil, base_ids, colours

# expected on opening and reading image 0: None = accepted, text = refused with these words
SHARED_CASES = {
    "valid": None,
    "png_missing": "a.png: no such file",
    "image_missing": "a.png: no such file",
    "png_id_not_in_json": None,
    "json_id_not_in_png": None,
    "unknown_category": "image 1: segment 5 has category 99",
    "duplicate_segment_id": "segment id 5 occurs twice",
    "duplicate_image_annotation": "image 1 has two annotations",
    "duplicate_image_id": "image id 1 occurs twice",
    "duplicate_category_id": "category id 1 occurs twice",
    "wrong_area": None,
    "wrong_bbox": None,
    "bbox_xyxy": None,
    "no_area_bbox_iscrowd": None,
    "size_differs_json": None,
    "size_differs_png": "16×12",
    "png_grey": "one grey channel",
    "png_rgba": None,
    "png_palette": None,
    "png_is_jpeg": "JPEG",
    "png_bgr": "BGR",
    "annotation_without_image": "annotation of image 5",
    "no_annotations": "no image has an annotation",
    "image_without_annotation": None,
    "no_categories": "categories",
    "empty_categories": "is empty",
    "no_isthing": "isthing",
    "no_color": None,
    "category_id_string": "is text",
    "category_id_float": None,
    "segment_id_zero": "0 is void",
    "segment_id_too_large": "16777216",
    "all_void": None,
    "stuff_twice": None,
    "crowd_stuff": None,
    "json_truncated": "breaks off at line",
    "json_empty": "empty",
    "json_list": "is a list",
    "json_nan": None,
    "json_bom": None,
    "instances_json": "instances file",
    "path_outside": "leads out",
    "png_named_jpg_in_json": "there is a.png",
}


@pytest.mark.parametrize("case", SHARED_CASES)
def test_shared_annotation_folder_is_accepted_or_refused_as_its_table_says(shared: Path, case: str) -> None:
    folder = shared / "golden" / "bad_inputs" / "annotations" / case
    valid = folder.parent / "valid"
    images = folder / "images" if (folder / "images").is_dir() else valid / "images"
    if case == "image_missing":
        images = folder  # a folder without the image
    pngs = (
        folder / "png" if (folder / "png").is_dir() else (folder if case == "png_missing" else valid / "png")
    )
    expected = SHARED_CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        if expected is None:
            sample = CocoPanoptic(images, folder / "panoptic.json", pngs)[0]
            assert sample.image.shape == (24, 32, 3) and sample.ids.shape == (24, 32)
            return
        with pytest.raises((DataError, ImageError)) as error:
            _ = CocoPanoptic(images, folder / "panoptic.json", pngs)[0]
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", SHARED_CASES)
def test_evaluate_judges_shared_folders_as_reading_does(
    shared: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "golden" / "bad_inputs" / "annotations" / case
    valid = folder.parent / "valid"
    runtime = FakeRuntime()
    runtime.categories = read_panoptic_json(valid / "panoptic.json").categories
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: runtime)
    images, pngs = (folder / n if (folder / n).is_dir() else valid / n for n in ("images", "png"))
    if case == "image_missing":
        images = folder
    words = ["--panoptic-json", folder / "panoptic.json", "--images", images]
    words += ["--panoptic-pngs", folder if case == "png_missing" else pngs]
    code = main(["evaluate", "fake", *map(str, words)])
    err = capsys.readouterr().err
    assert code == 0 if SHARED_CASES[case] is None else code in (1, 2), err
    if code == 2:
        assert err.count("\n") == 1 and err.startswith("maskconver: error: "), err


def test_every_shared_annotation_folder_is_in_the_table(shared: Path) -> None:
    folders = (shared / "golden" / "bad_inputs" / "annotations").iterdir()
    assert {f.name for f in folders if f.is_dir()} == set(SHARED_CASES)


@pytest.mark.parametrize("name", ["coco-panoptic-150", "dsb2018-nuclei", "camvid"])
def test_real_data_agree_with_their_own_areas(shared: Path, name: str) -> None:
    data = open_dataset(shared / "data" / name, "val")
    sample = data[1]
    areas = [int((sample.ids == n).sum()) for n in sample.segments.ids]
    assert areas == sample.segments.areas.tolist()
    assert sample.image.shape[:2] == sample.ids.shape == (sample.info["height"], sample.info["width"])


# Made here


def test_sample_has_the_columns_in_file_order(spoiled: Spoil) -> None:
    data = open_dataset(spoiled())
    assert len(data) == 1 and data.categories.names == ("car", "person", "road")
    sample = data[0]
    assert sample.segments.ids.tolist() == [300, 5, 70000]
    assert sample.segments.labels.tolist() == [2, 0, 1]
    assert not sample.segments.crowd.any()
    assert (sample.image_id, sample.file_name, sample.info["weather"]) == (1, "a.png", "rain")
    np.testing.assert_array_equal(sample.ids, base_ids())
    assert [s.image_id for s in data] == [1] and data[-1].image_id == 1
    with pytest.raises(IndexError):
        data[1]


def _set(content, key, value, segment=1):
    content["annotations"][0]["segments_info"][segment][key] = value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: _set(c, "category_id", 99), "category 99"),
        (lambda c: _set(c, "id", 300), "twice"),
        (lambda c: _set(c, "id", 0), "0 is void"),
        (lambda c: _set(c, "id", 1 << 24), "16777216"),
        (lambda c: c["images"].append(dict(c["images"][0])), "image id 1 occurs twice"),
        (lambda c: c["annotations"].append(dict(c["annotations"][0])), "two annotations"),
        (lambda c: c["annotations"][0].update(image_id=5), "image 5"),
        (lambda c: c["annotations"].clear(), "no image has an annotation"),
        (lambda c: c.pop("categories"), "categories"),
        (lambda c: c["categories"].clear(), "is empty"),
        (lambda c: c["categories"][0].pop("isthing"), "isthing"),
        (lambda c: c["categories"][1].update(id=1), "category id 1 occurs twice"),
        (lambda c: c["annotations"][0].update(file_name="../png/a.png"), "leads out"),
        (lambda c: c["images"][0].update(file_name="/etc/passwd"), "absolute path"),
        (lambda c: c["images"][0].update(file_name=""), "empty"),
        (lambda c: c["images"].clear(), "images"),
        (lambda c: c["annotations"][0].update(file_name="a.jpg"), "there is a.png"),
        (lambda c: c["images"][0].update(file_name="b.png"), "b.png: no such file"),
    ],
)
def test_inconsistent_file_is_refused(spoiled: Spoil, change, says: str) -> None:
    def apply(content):
        change(content)

    folder = spoiled(apply)
    with pytest.raises((DataError, ImageError)) as error:
        _ = open_dataset(folder)[0]
    assert says in str(error.value) and "\n" not in str(error.value)


def test_png_of_another_size_is_refused_with_both_sizes(spoiled: Spoil) -> None:
    folder = spoiled(ids=base_ids()[::2, ::2])
    with pytest.raises(DataError, match=r"16×12.*32×24"):
        _ = open_dataset(folder)[0]


def test_reversed_channels_are_refused_with_the_hint(spoiled: Spoil) -> None:
    folder = spoiled(save=lambda path, array: Image.fromarray(array[..., ::-1].copy()).save(path))
    with pytest.raises(DataError, match="BGR"):
        _ = open_dataset(folder)[0]


def test_png_that_is_a_jpeg_or_grey_is_refused(spoiled: Spoil) -> None:
    with pytest.raises(DataError, match="JPEG"):
        _ = open_dataset(spoiled(save=lambda path, a: Image.fromarray(a).save(path, "JPEG")))[0]
    with pytest.raises(DataError, match="grey"):
        _ = open_dataset(spoiled(save=lambda path, a: Image.fromarray(a).convert("L").save(path)))[0]


def test_alpha_and_palette_of_the_png_do_no_harm(spoiled: Spoil) -> None:
    for mode in ("RGBA", "P"):
        folder = spoiled(
            save=lambda path, a, mode=mode: (
                Image.fromarray(a).quantize(8) if mode == "P" else Image.fromarray(a).convert("RGBA")
            ).save(path)
        )
        np.testing.assert_array_equal(open_dataset(folder).ids(0), base_ids())


def test_segment_without_pixels_is_skipped_and_said_once(spoiled: Spoil) -> None:
    ids = base_ids()
    ids[ids == 5] = 300
    data = open_dataset(spoiled(ids=ids))
    with pytest.warns(DataWarning, match="without a pixel"):
        assert data[0].segments.ids.tolist() == [300, 70000]
    assert data.segments(0).ids.tolist() == [300, 5, 70000]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = data[0]


def test_unknown_png_id_stays_in_the_map_without_a_row(spoiled: Spoil) -> None:
    ids = base_ids()
    ids[20:, :4] = 999
    with pytest.warns(DataWarning, match="id 999"):
        sample = open_dataset(spoiled(ids=ids))[0]
    assert (sample.ids == 999).sum() == 16 and 999 not in sample.segments.ids


def test_everything_void_is_accepted(spoiled: Spoil) -> None:
    folder = spoiled(lambda c: c["annotations"][0].update(segments_info=[]), ids=np.zeros((24, 32), np.int32))
    assert len(open_dataset(folder)[0].segments) == 0


def test_images_without_annotation_are_left_out_and_counted(spoiled: Spoil) -> None:
    folder = spoiled(lambda c: c["images"].insert(0, {"id": 2, "file_name": "b.png"}))
    with pytest.warns(DataWarning, match="1 of 2 images"):
        data = open_dataset(folder)
    assert (len(data), data.unannotated, data.image_ids) == (1, 1, [1])


def test_order_is_that_of_the_annotations_and_names_are_joined_by_id(tmp_path: Path, spoiled: Spoil) -> None:
    def three(content):
        row = content["annotations"][0]
        content["images"] = [{"id": k, "file_name": f"{k}.png", "rank": k} for k in ("x", 7, 3)]
        content["annotations"] = [{**row, "image_id": k, "file_name": f"m{k}.png"} for k in (3, "x", 7)]

    data = open_dataset(spoiled(three))
    assert data.image_ids == [3, "x", 7]
    assert data.file_names == ["3.png", "x.png", "7.png"]
    assert [data.info(k)["rank"] for k in range(3)] == [3, "x", 7]
    assert data.info(-1)["rank"] == 7


def test_crowd_and_missing_optional_fields(spoiled: Spoil) -> None:
    def change(content):
        for row in content["annotations"][0]["segments_info"]:
            for key in ("area", "bbox", "iscrowd"):
                del row[key]
        _set(content, "iscrowd", 1)

    table = open_dataset(spoiled(change))[0].segments
    assert table.crowd.tolist() == [False, True, False]
    assert table.areas.tolist() == [0, 0, 0]


# Layouts and zips


def _lay_out(source: Path, root: Path, json_to: str, images_to: str, pngs_to: str, zipped: bool) -> Path:
    (root / json_to).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "panoptic.json", root / json_to)
    for origin, target in (("images", images_to), ("png", pngs_to)):
        if zipped:
            archive = root / f"{target}.zip"
            archive.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(archive, "w") as file:
                file.write(source / origin / "a.png", f"{Path(target).name}/a.png")
        else:
            shutil.copytree(source / origin, root / target)
    return root


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("json_to", "images_to", "pngs_to", "split"),
    [
        ("panoptic_val.json", "images/val", "panoptic/val", "val"),
        ("annotations/panoptic_val2017.json", "val2017", "annotations/panoptic_val2017", "val"),
        ("annotations/panoptic_val2017.json", "images/val2017", "panoptic_val2017", "val2017"),
        ("panoptic_tiles.json", "tiles", "panoptic_tiles", None),
    ],
)
def test_known_layouts_are_found(
    spoiled: Spoil, tmp_path_factory, json_to, images_to, pngs_to, split, zipped
) -> None:
    root = _lay_out(spoiled(), tmp_path_factory.mktemp("set"), json_to, images_to, pngs_to, zipped)
    data = open_dataset(root, split)
    np.testing.assert_array_equal(data[0].ids, base_ids())
    assert find_splits(root) == ["tiles" if split is None else "val"]


def test_explicit_paths_need_no_layout(spoiled: Spoil) -> None:
    folder = spoiled()
    by_class = CocoPanoptic(folder / "images", folder / "panoptic.json", folder / "png")
    by_function = open_dataset(
        None,
        images=folder / "images",
        panoptic_json=str(folder / "panoptic.json"),
        panoptic_pngs=str(folder / "png"),
    )
    assert by_class[0].image_id == by_function[0].image_id == 1


def test_errors_of_the_layout_name_what_was_looked_for(spoiled: Spoil, tmp_path_factory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"panoptic_<split>\.json"):
        open_dataset(empty, "train")
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(empty / "nowhere")
    root = _lay_out(spoiled(), empty, "panoptic_val.json", "images/val", "panoptic/val", False)
    with pytest.raises(DataError, match=r'no split "train".*there is val'):
        open_dataset(root, "train")
    with pytest.raises(
        DataError, match=r"panoptic_train2017\.json and annotations/panoptic_train2017\.json;"
    ):
        open_dataset(root, "train2017")
    shutil.copy(root / "panoptic_val.json", root / "panoptic_train.json")
    with pytest.raises(DataError, match="splits train, val"):
        open_dataset(root)
    with pytest.raises(DataError, match=r"folder of images.*images/train.*`images`"):
        open_dataset(root, "train")


def test_text_that_is_not_utf8_is_told_before_it_is_asked_for(spoiled: Spoil) -> None:
    root = spoiled(lambda content: content["images"][0].update(kind="GRUEN"))
    (path,) = root.glob("**/*.json")
    path.write_bytes(path.read_bytes().replace(b"GRUEN", b"gr\xfcn"))
    with pytest.raises(DataError, match=r"json: not UTF-8 text \(invalid start byte at byte \d+\); save it"):
        open_dataset(root)


def test_dataset_survives_pickling_with_an_open_zip(spoiled: Spoil, tmp_path_factory) -> None:
    root = _lay_out(
        spoiled(), tmp_path_factory.mktemp("set"), "panoptic_val.json", "val", "panoptic/val", True
    )
    data = open_dataset(root)
    first = data[0]
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again[0].image, first.image)
    assert again.info(0) == first.info


def test_zip_is_addressed_with_or_without_its_one_folder(tmp_path: Path) -> None:
    for name, members in (("one", ["f/a.txt", "f/b.txt"]), ("flat", ["a.txt", "b.txt"])):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            for member in members:
                file.writestr(member, member)
        source = FileSource(tmp_path / f"{name}.zip")
        assert source.names() == ["a.txt", "b.txt"]
        assert source.read("a.txt").decode() == members[0]
        assert source.exists("b.txt") and not source.exists("c.txt") and not source.exists("../a.txt")


def test_zip_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(DataError, match=r"x\.zip"):
        FileSource(tmp_path / "x.zip")


def test_ids_up_to_the_last_colour(spoiled: Spoil) -> None:
    ids = base_ids()
    ids[ids == 5] = (1 << 24) - 1
    data = open_dataset(spoiled(lambda c: _set(c, "id", (1 << 24) - 1), ids=ids))
    assert data[0].segments.ids.tolist() == [300, (1 << 24) - 1, 70000]
    assert json.loads((data.path).read_text())["images"][0]["id"] == 1
    assert colours(ids).max() == 255
