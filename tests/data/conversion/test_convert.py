"""`convert`: classes, background, overlaps, splits, image files, and what it leaves behind when it cannot."""

from __future__ import annotations

import gc
import json
import shutil
import stat
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import maskconver as mc
from maskconver.cli.main import main
from maskconver.data.check.run import check_dataset
from maskconver.data.conversion.run import convert
from maskconver.errors import ConfigError, DataError

from .coco_sets import HEIGHT, WIDTH, annotation, coco_json, coco_set, photo, shown, write_json

ALL = WIDTH * HEIGHT


@pytest.fixture
def source(tmp_path: Path) -> Path:
    coco_set(tmp_path / "source", ["a.png", "b.png"])
    return tmp_path / "source"


def test_small_shapes_lie_on_large_ones_and_the_rest_is_background(source: Path, tmp_path: Path) -> None:
    result = convert(source, tmp_path / "out")
    assert shown(tmp_path / "out") == {"cat": 68, "dog": 12, "background": ALL - 80}
    assert [(c["name"], c["segments"], c["pixels"], c["overlapped"]) for c in result.classes] == [
        ("cat", 2, 136, 24),
        ("dog", 2, 24, 0),
        ("background", 2, 2 * (ALL - 80), 0),
    ]
    assert (result.splits, result.errors, result.void) == ({"train": 2}, {}, 0)
    kept = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert kept["format"] == "coco" and kept["classes"] == result.classes


def test_the_result_has_no_defects(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", split="train=0.5,val=0.5")
    report = mc.data.check_dataset(tmp_path / "out")
    assert [d.message for d in report.defects] == []
    assert {s.split for s in report.splits} == {"train", "val"}


@pytest.mark.parametrize(
    ("overlaps", "pixels"), [("order", {"dog": 12}), ("score", {"cat": 80}), ("small-on-top", {"dog": 12})]
)
def test_the_rule_for_overlaps_decides_whose_pixels_they_are(
    tmp_path: Path, overlaps: Any, pixels: dict[str, int]
) -> None:
    content = coco_set(tmp_path / "source")
    content["annotations"][0]["score"], content["annotations"][1]["score"] = 0.9, 0.2
    write_json(tmp_path / "source" / "instances.json", content)
    convert(tmp_path / "source", tmp_path / "out", overlaps=overlaps)
    assert pixels.items() <= shown(tmp_path / "out").items()


def test_overlaps_can_be_refused(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source", ["a.png", "b.png"])
    del content["annotations"][3]
    write_json(tmp_path / "source" / "instances.json", content)
    result = convert(tmp_path / "source", tmp_path / "out", overlaps="fail")
    assert result.errors == {"overlap": 1} and result.splits == {"train": 1}
    assert "annotation 1 (cat) and annotation 2 (dog) share 12 pixels" in str(result.faults[0])


def test_stated_areas_decide_which_shape_is_smaller(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    content["annotations"][0]["area"], content["annotations"][1]["area"] = 5, 100
    write_json(tmp_path / "source" / "instances.json", content)
    convert(tmp_path / "source", tmp_path / "out")
    assert shown(tmp_path / "out") == {"cat": 80, "background": ALL - 80}


def test_stuff_is_one_segment_and_void_stays_void(tmp_path: Path) -> None:
    content = coco_set(tmp_path / "source")
    content["annotations"].append(annotation(3, 1, 1, [[20, 0, 24, 0, 24, 4, 20, 4]]))
    write_json(tmp_path / "source" / "instances.json", content)
    result = convert(tmp_path / "source", tmp_path / "out", stuff=["cat"])
    assert shown(tmp_path / "out") == {"cat": 84, "dog": 12}
    assert result.classes[0]["segments"] == 1 and result.classes[0]["isthing"] == 0
    assert result.void == pytest.approx(1 - 96 / ALL, abs=1e-5)
    result = convert(
        tmp_path / "source", tmp_path / "two", stuff=["cat"], merge_stuff=False, background="void"
    )
    assert result.classes[0]["segments"] == 2


def test_the_background_may_be_a_class_of_the_source(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", things=["dog"], background="cat")
    assert shown(tmp_path / "out") == {"cat": ALL - 12, "dog": 12}


def test_class_ids_of_the_source_are_kept_where_they_can_be(source: Path, tmp_path: Path) -> None:
    assert [c["id"] for c in convert(source, tmp_path / "out").classes] == [1, 2, 3]
    content = coco_json()
    content["categories"][0]["id"] = content["annotations"][0]["category_id"] = 0
    write_json(source / "instances.json", content)
    result = convert(source, tmp_path / "two")
    assert [c["id"] for c in result.classes] == [1, 2, 3]
    assert any("numbered from 1" in text for text in result.decisions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"things": ["cats"]}, 'no class is called "cats"; did you mean "cat"'),
        ({"things": ["cat"], "stuff": ["cat"]}, '"cat" cannot be a thing and stuff'),
        ({"things": ["cat"], "background": "cat"}, "both the background and a thing"),
        ({"split": "train=0.8,val=0.1"}, "add up to 0.9"),
        ({"split": "train=x"}, "does not say how to split"),
        ({"split": "a/b=1"}, "cannot be the name of a split"),
        ({"split": "train", "group": "("}, "not a regular expression"),
        ({"group": "a"}, "only with `split`"),
        ({"images": "move"}, "one of link, copy, none"),
        ({"max_side": 0}, "must be 1 or more"),
    ],
)
def test_impossible_options_are_refused_and_nothing_is_left(
    source: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match="^.*" + message.replace("(", r"\(")):
        convert(source, tmp_path / "out", **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_a_split_keeps_groups_together_and_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    names = [f"house{k // 3}_crop{k % 3}.png" for k in range(18)]
    coco_set(tmp_path / "source", names)
    options: dict[str, Any] = {"split": "train=0.5,val=0.5", "group": r"^house\d+", "images": "none"}
    result = convert(tmp_path / "source", tmp_path / "out", **options)
    assert result.splits == {"train": 9, "val": 9}
    splits = {s: names_of(tmp_path / "out", s) for s in ("train", "val")}
    houses = {s: {n.partition("_")[0] for n in found} for s, found in splits.items()}
    assert not houses["train"] & houses["val"]
    convert(tmp_path / "source", tmp_path / "again", **options)
    assert splits == {s: names_of(tmp_path / "again", s) for s in ("train", "val")}
    convert(tmp_path / "source", tmp_path / "other", **options, seed=5)
    assert splits != {s: names_of(tmp_path / "other", s) for s in ("train", "val")}


def names_of(folder: Path, split: str) -> list[str]:
    return [row["file_name"] for row in json.loads((folder / f"panoptic_{split}.json").read_text())["images"]]


def test_every_split_gets_an_image_as_long_as_there_are_enough(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["a.png", "b.png", "c.png"])
    result = convert(tmp_path / "source", tmp_path / "out", split="train=0.9,val=0.05,test=0.05")
    assert result.splits == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize("images", ["link", "copy"])
def test_image_files_are_linked_or_copied(source: Path, tmp_path: Path, images: Any) -> None:
    convert(source, tmp_path / "out", images=images)
    made = tmp_path / "out" / "images" / "train" / "a.png"
    assert made.read_bytes() == (source / "a.png").read_bytes()
    assert made.samefile(source / "a.png") == (images == "link")


def test_without_image_files_the_annotation_is_enough(tmp_path: Path) -> None:
    write_json(tmp_path / "source" / "instances.json", coco_json(["deep/a.png"]))
    result = convert(tmp_path / "source", tmp_path / "out", images="none")
    assert result.images == {"only named": 1} and names_of(tmp_path / "out", "train") == ["deep/a.png"]


def test_large_images_are_reduced_with_their_annotation(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", max_side=12)
    sample = mc.data.open_dataset(tmp_path / "out", "train")[0]
    assert sample.image.shape == (8, 12, 3) and sample.ids.shape == (8, 12)
    assert shown(tmp_path / "out")["dog"] in (2, 3, 4)


def test_a_cut_off_image_that_is_to_be_reduced_is_named(source: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(source / "a.png")
    (source / "a.png").write_bytes((source / "a.png").read_bytes()[:300])
    result = convert(source, tmp_path / "out", max_side=12)
    assert result.errors == {"bad-image": 1} and result.splits == {"train": 1}
    assert not mc.data.check_dataset(tmp_path / "out").defects


def test_deep_images_that_are_to_be_reduced_are_told(tmp_path: Path) -> None:
    write_tiff = pytest.importorskip("tifffile", reason="tifffile is not installed").imwrite
    coco_set(tmp_path / "source", ["a.tif", "b.tif", "c.tif"])
    for name, kind in (("a", np.uint16), ("b", np.float32)):
        write_tiff(
            tmp_path / "source" / f"{name}.tif", np.zeros((HEIGHT, WIDTH, 3)[: 3 if name == "a" else 2], kind)
        )
    result = convert(tmp_path / "source", tmp_path / "out", max_side=12)
    assert result.images == {"resized": 1, "resized, their colours of 16 bits made 8": 1}
    assert result.errors == {"bad-image": 1} and "32 bits cannot be made smaller" in result.faults[0].text


def test_images_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["left/a.png", "right/a.png", "right/A.jpg"])
    result = convert(tmp_path / "source", tmp_path / "out")
    assert sorted(names_of(tmp_path / "out", "train")) == ["a.png", "right_A_2.jpg", "right_a.png"]
    assert result.notes["renamed-images"] == 2
    assert not mc.data.check_dataset(tmp_path / "out").defects


def test_an_existing_folder_is_replaced_only_when_asked_and_only_if_it_is_a_conversion(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(source, out)
    with pytest.raises(DataError, match="is there already; choose another folder, or replace it"):
        convert(source, out)
    (out / "old").touch()
    convert(source, out, overwrite=True)
    assert not (out / "old").exists()
    (out / "conversion.json").unlink()
    with pytest.raises(DataError, match="is not replaced"):
        convert(source, out, overwrite=True)
    with pytest.raises(ConfigError, match="holds the source"):
        convert(source, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_an_interrupted_conversion_leaves_nothing_and_a_killed_one_is_cleared(
    source: Path, tmp_path: Path
) -> None:
    def interrupt(total: int) -> Any:
        assert total == 2

        def stop() -> None:
            raise KeyboardInterrupt

        return stop

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=interrupt)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
    (tmp_path / "out.partial" / "set").mkdir(parents=True)
    with pytest.raises(DataError, match="is in the way"):  # it may be somebody's
        convert(source, tmp_path / "out")
    (tmp_path / "out.partial" / "unfinished").touch()
    convert(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_the_output_may_lie_in_the_source(source: Path) -> None:
    convert(source, source / "out")
    assert convert(source, source / "out", overwrite=True).splits == {"train": 2}


def test_a_check_reads_a_zip_and_leaves_nothing_of_it(source: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", source)
    report = check_dataset(archive)
    (found,) = report.splits
    assert found.images == 2 and not [d for d in found.defects if d.severity == "error"]
    assert found.locate("a.png").images.path.is_dir()
    del report, found
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_check_draws_outlines_as_the_conversion_does(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "a.png")
    points = [[2.3, 2.3], [11.7, 3.1], [8.2, 9.6]]
    shape = {"label": "cat", "points": points, "shape_type": "polygon", "group_id": None, "flags": {}}
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH, "imagePath": "a.png", "imageData": None}
    write_json(tmp_path / "source" / "a.json", {"version": "5.5.0", "flags": {}, "shapes": [shape], **size})
    result = convert(tmp_path / "source", tmp_path / "out")
    (found,) = check_dataset(tmp_path / "source").splits
    row = next(r for r in found.classes if r["name"] == "cat")
    assert row["pixels"] == shown(tmp_path / "out")["cat"] and result.format == "labelme"


def test_an_annotation_of_more_pixels_than_an_image_may_have_is_left_out(tmp_path: Path) -> None:
    coco_set(tmp_path / "source", ["a.png", "b.png"])
    path = tmp_path / "source" / "instances.json"
    content = json.loads(path.read_text())
    content["images"][0] |= {"file_name": "gone.png", "width": 400_000, "height": 400_000}
    path.write_text(json.dumps(content))
    result = convert(tmp_path / "source", tmp_path / "out", images="none")
    assert result.splits == {"train": 1} and result.errors == {"too-large": 1}


def test_a_zip_that_the_disk_has_no_room_for_is_not_unpacked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", source)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(DataError, match="unpacked"):
        convert(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_is_unpacked_without_what_leads_out_of_it(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in source.iterdir():
            file.write(path, f"export/{path.name}")
        file.writestr("../outside.txt", "x")
        file.writestr("/absolute.txt", "x")
        link = zipfile.ZipInfo("export/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    result = convert(archive, tmp_path / "out")
    assert result.splits == {"train": 2} and result.errors == {"unsafe-entry": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export.zip", "out", "source"]
    assert (tmp_path / "out" / "images" / "train" / "a.png").read_bytes() == (source / "a.png").read_bytes()


def test_links_out_of_the_source_are_refused_until_their_folder_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere" / "a.png")
    write_json(tmp_path / "source" / "instances.json", coco_json())
    (tmp_path / "source" / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source" / "a.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    with pytest.raises(DataError, match="behind a link that leads out of the source"):
        convert(tmp_path / "source", tmp_path / "out")
    convert(tmp_path / "source", tmp_path / "out", image_folder=tmp_path / "elsewhere")
    assert shown(tmp_path / "out")["dog"] == 12


def test_unknown_sources_are_refused_with_the_formats_there_are(tmp_path: Path) -> None:
    photo(tmp_path / "source" / "a.png")
    with pytest.raises(DataError, match=r"no annotation format is recognised here.*coco, .*yolo-seg"):
        convert(tmp_path / "source", tmp_path / "out")
    with pytest.raises(ConfigError, match='no format "cocoa"'):
        convert(tmp_path / "source", tmp_path / "out", "cocoa")
    with pytest.raises(DataError, match="no such file or folder"):
        convert(tmp_path / "nothing", tmp_path / "out")


def test_several_formats_are_named_with_the_setting_that_decides(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "panoptic")
    for path in (tmp_path / "panoptic").glob("panoptic_*.json"):
        path.rename(source / path.name)
    with pytest.raises(DataError, match=r"several formats fit: coco \(.*coco-panoptic \(.*from_format"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", "coco")


def test_the_command_prints_what_was_decided_and_left_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = coco_json(["a.png", "gone.png"])
    write_json(source / "instances.json", content)
    assert main(["data", "convert", str(source), str(tmp_path / "out"), "--split", "val"]) == 1
    text = capsys.readouterr().out
    assert 'image gone.png: there is no image "gone.png"' in text
    assert "1 left out: 1 missing-image" in text and "1 val images (1 linked)" in text
    assert 'the stuff class "background"' in text
    assert main(["data", "convert", str(source), str(tmp_path / "out")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    args = [
        "data",
        "convert",
        str(source),
        str(tmp_path / "two"),
        "--from",
        "coco",
        "--json",
        "--things",
        "cat",
    ]
    assert main(args) == 1
    assert json.loads(capsys.readouterr().out)["options"] == {"things": ["cat"]}
    assert np.isin(
        ["cat", "dog"], [c.name for c in mc.data.open_dataset(tmp_path / "two", "train").categories]
    ).all()
