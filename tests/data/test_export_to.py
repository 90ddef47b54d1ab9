"""`data.export`: the same pixels in the format of another tool, and what that cannot hold is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

import maskconver as mc
from maskconver.cli.main import main
from maskconver.core.polygons import ids_to_polygons
from maskconver.data.conversion.run import convert
from maskconver.data.export_to.geometry import one_ring, runs, simplified
from maskconver.data.export_to.label_studio import brush_rle
from maskconver.data.export_to.write import FORMATS, writing, writing_results
from maskconver.errors import ConfigError, DataError

CATEGORIES = mc.Categories.from_json(
    [
        {"id": 3, "name": "cat & <dog>", "isthing": 1, "color": [200, 0, 0]},
        {"id": 9, "name": "ball", "isthing": 1, "color": [0, 200, 0]},
        {"id": 12, "name": "grass", "isthing": 0, "color": [0, 0, 200]},
    ]
)


def scene() -> NDArray[np.int32]:
    """Grass (5) with a ring (7), a ball in two parts (300), a diagonal (70000) and void (0)."""
    ids = np.full((14, 18), 5, np.int32)
    ids[0] = 0
    ids[2:9, 2:9] = 7
    ids[4:7, 4:7] = 5
    ids[3:5, 11:13] = ids[9:12, 13:16] = 300
    ids[[11, 12], [3, 4]] = 70000
    return ids


LABELS = {5: 2, 7: 0, 300: 1, 70000: 1}


def write_set(folder: Path, maps: dict[str, NDArray[np.int32]], split: str = "train", crowd: int = 0) -> None:
    """A panoptic data set of images with these id maps."""
    images, annotations = [], []
    for number, (name, ids) in enumerate(maps.items(), 1):
        path = folder / "images" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*ids.shape, 3), 90, np.uint8)).save(path)
        png = Path(name).with_suffix(".png")
        target = folder / "panoptic" / split / png
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], 2).astype(np.uint8)).save(target)
        there = [k for k in LABELS if (ids == k).any()]
        seg = mc.Segmentation.from_ids(ids, CATEGORIES, labels=[LABELS[k] for k in there], segment_ids=there)
        row = seg.to_coco(number, str(png))
        for info in row["segments_info"]:
            info["iscrowd"] = int(info["id"] == crowd)
        annotations.append(row)
        images.append({"id": number, "file_name": name, "height": ids.shape[0], "width": ids.shape[1]})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES.to_json()}
    (folder / f"panoptic_{split}.json").write_text(json.dumps(content))


def filled(rings: list[NDArray[Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre is inside by the even-odd rule."""
    inside = np.zeros(size, bool)
    x = np.arange(size[1]) + 0.5
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, 0)):
            for row in range(size[0]):
                if (y1 <= row + 0.5) != (y2 <= row + 0.5):
                    inside[row] ^= x > x1 + (row + 0.5 - y1) * (x2 - x1) / (y2 - y1)
    return inside


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_set(tmp_path / "set", {"a.jpg": scene(), "sub/b.png": np.fliplr(scene())})
    write_set(tmp_path / "set", {"c.jpg": scene().T.copy()}, "val")
    return tmp_path / "set"


@pytest.mark.parametrize("seed", range(8))
def test_one_ring_holds_parts_and_holes(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 11)) < 0.6
    ring = one_ring(ids_to_polygons(mask.astype(np.uint8))[1])
    assert (filled([ring], mask.shape) == mask).all()
    rounded = np.array([[float(f"{v:.7g}") for v in p] for p in ring / (11, 9)]) * (11, 9)
    assert (filled([rounded], mask.shape) == mask).all()


def test_simplified_rings_stay_within_the_tolerance() -> None:
    y, x = np.mgrid[:60, :60]
    mask = (x - 30) ** 2 + (y - 28) ** 2 < 22**2
    ((ring, _),) = ids_to_polygons(mask.astype(np.uint8))[1]
    fewer = simplified(ring, 1.0)
    assert len(fewer) < len(ring) / 2
    assert (filled([fewer], mask.shape) ^ mask).sum() < 0.06 * mask.sum()
    assert len(simplified(np.array([[0, 0], [9, 0], [9, 9], [0, 9]]), 100)) >= 3


@pytest.mark.parametrize("first", [False, True])
def test_label_studios_run_lengths(first: bool) -> None:
    mask = np.zeros((300, 400), bool)
    mask[5:, 7:300] = True
    mask[0, 0] = first
    bits = "".join(f"{v:08b}" for v in brush_rle(runs(mask)))
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, depth = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        same, length = take(1), take(sizes[take(2)]) + 1
        assert same
        values += [take(depth)] * length
    assert total == 4 * mask.size
    assert (np.array(values).reshape(300, 400, 4) == 255 * mask[..., None]).all()


def test_coco_has_polygons_or_run_lengths_with_the_same_pixels(small: Path, tmp_path: Path) -> None:
    done = mc.data.export(small, tmp_path / "out", "coco-instances")
    assert (done.images, done.segments, done.failed, dict(done.notes)) == (3, 12, [], {})
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [c["isthing"] for c in content["categories"]] == [1, 1, 0]
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert names == {1: "a.jpg", 2: "sub/b.png"} and (tmp_path / "out/images/train/sub/b.png").is_file()
    for row in content["annotations"]:
        ids = scene() if names[row["image_id"]] == "a.jpg" else np.fliplr(scene())
        label = [c["id"] for c in content["categories"]].index(row["category_id"])
        shape = row["segmentation"]
        if isinstance(shape, dict):
            values = np.repeat(np.arange(len(shape["counts"])) % 2, shape["counts"])
            mask = values.reshape(shape["size"][::-1]).T.astype(bool)
        else:
            mask = filled([np.array(p).reshape(-1, 2) for p in shape], ids.shape)
        assert mask.sum() == row["area"] and LABELS[int(ids[mask][0])] == label
        assert len(np.unique(ids[mask])) == 1 and (ids == ids[mask][0]).sum() == row["area"]


def test_yolo_has_a_line_a_segment_and_names_what_it_cannot_hold(small: Path, tmp_path: Path) -> None:
    done = mc.data.export(small, tmp_path / "out", "yolo-seg")
    assert done.notes == {
        "segments in several parts are one polygon, joined by lines of no width": 9,
        "segments with holes are one polygon, cut open by lines of no width": 6,
        "stuff regions are written like objects": 3,
    }
    ids = scene()
    for line in (tmp_path / "out/labels/train/a.txt").read_text().splitlines():
        label, *values = line.split()
        mask = filled([np.array(values, float).reshape(-1, 2) * (18, 14)], ids.shape)
        (number,) = np.unique(ids[mask])
        assert LABELS[int(number)] == int(label) and (mask == (ids == number)).all()
    text = (tmp_path / "out/data.yaml").read_text()
    assert "train: images/train\nval: images/val\n" in text and '  0: "cat & <dog>"' in text


@pytest.mark.parametrize("split", ["train", "val"])
def test_yolo_of_one_split_names_the_other_too_as_its_training_asks(
    small: Path, tmp_path: Path, split: str
) -> None:
    mc.data.export(small, tmp_path / "out", "yolo-seg", split=split)
    content = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert content[split] == f"images/{split}" and content["val"] == f"images/{split}"
    assert content["train"] == "images/train"
    assert list(convert(tmp_path / "out", tmp_path / "again").splits) == [split]


def test_labels_of_yolo_lie_where_it_looks_for_them(tmp_path: Path) -> None:
    """It puts `labels` in the place of the last folder `images`."""
    write_set(tmp_path / "set", {"images/left/a.jpg": scene(), "b.jpg": scene()})
    mc.data.export(tmp_path / "set", tmp_path / "out", "yolo-seg")
    images = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jpg")]
    assert len(images) == 2
    for image in images:
        label = "/labels/".join(f"/{image}".rsplit("/images/", 1)).replace(".jpg", ".txt")
        assert (tmp_path / f"out{label}").is_file()
    assert len(convert(tmp_path / "out", tmp_path / "again").classes) == 4


def test_things_only_leaves_stuff_and_its_class_out(small: Path, tmp_path: Path) -> None:
    done = mc.data.export(small, tmp_path / "out", "yolo-seg", split="val", things_only=True)
    assert done.segments == 3 and "stuff regions are written like objects" not in done.notes
    assert "grass" not in (tmp_path / "out/data.yaml").read_text()


def test_crowds_are_named(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"a.jpg": scene()}, crowd=300)
    assert (
        mc.data.export(tmp_path / "set", tmp_path / "y", "yolo-seg").notes["crowd regions are left out"] == 1
    )
    assert len((tmp_path / "y/labels/train/a.txt").read_text().splitlines()) == 3
    done = mc.data.export(tmp_path / "set", tmp_path / "l", "label-studio")
    assert done.notes["crowd regions are written as ordinary objects"] == 1
    for to in ("coco-instances", "labelme", "cvat", "cityscapes"):
        done = mc.data.export(tmp_path / "set", tmp_path / to, to)
        assert not [text for text in done.notes if "crowd" in text]
        mc.data.convert(tmp_path / to, tmp_path / f"{to}_back", images="copy")
        back = mc.data.open_dataset(tmp_path / f"{to}_back")
        table = back.segments(0)
        assert [back.categories[v].name for v in table.labels[table.crowd]] == ["ball"]
        assert (back.ids(0)[scene() == 300] == table.ids[table.crowd][0]).all()


def test_labelme_names_the_image_beside_it_or_where_it_is(small: Path, tmp_path: Path) -> None:
    mc.data.export(small, tmp_path / "out", "labelme")
    content = json.loads((tmp_path / "out/train/sub/b.json").read_text())
    assert content["imagePath"] == "b.png" and (tmp_path / "out/train/sub/b.png").is_file()
    assert {s["shape_type"] for s in content["shapes"]} == {"polygon", "mask"}
    groups = [s["group_id"] for s in content["shapes"] if s["label"] == "ball"]
    assert groups == [300, 300, 70000, 70000]
    mc.data.export(small, tmp_path / "far/out", "labelme", images="none")
    content = json.loads((tmp_path / "far/out/val/c.json").read_text())
    assert (tmp_path / "far/out/val" / content["imagePath"]).resolve() == small / "images/val/c.jpg"
    mc.data.export(small, tmp_path / "linked", "labelme", images="link")
    assert (tmp_path / "linked/val/c.jpg").samefile(small / "images/val/c.jpg")


def test_two_images_of_one_name_do_not_share_a_file(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"a.jpg": scene(), "a.png": scene()})
    mc.data.export(tmp_path / "set", tmp_path / "out", "labelme")
    assert {p.name for p in (tmp_path / "out/train").iterdir()} == {"a.jpg", "a.json", "a_2.png", "a_2.json"}


def test_bad_images_are_listed_and_the_rest_is_written(small: Path, tmp_path: Path) -> None:
    (small / "images/train/a.jpg").unlink()
    (small / "panoptic/val/c.png").write_bytes(b"no PNG")
    done = mc.data.export(small, tmp_path / "out", "cvat")
    assert done.images == 1
    assert [reason.partition(";")[0] for _, reason in done.failed] == [
        "no such file",
        "the file is not a PNG",
    ]
    (small / "images/train/sub/b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no image could be written"):
        mc.data.export(small, tmp_path / "none", "cvat")
    assert not (tmp_path / "none").exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_existing_output_stays_and_an_interruption_leaves_nothing(small: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.json").write_text("{}")
    with pytest.raises(DataError, match="is there already; choose another folder"):
        mc.data.export(small, tmp_path / "out", "labelme")
    assert (tmp_path / "out/mine.json").read_text() == "{}"

    done: list[int] = []

    def advance() -> None:
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mc.data.export(small, tmp_path / "new", "labelme", progress=lambda total: advance)
    assert {p.name for p in tmp_path.iterdir()} == {"set", "out"}


def test_impossible_values_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='no format "vott" to write; there are coco-instances'):
        mc.data.export(small, tmp_path / "out", "vott")
    with pytest.raises(ConfigError, match="simplify=-1"):
        mc.data.export(small, tmp_path / "out", "cvat", simplify=-1)


@pytest.mark.parametrize("to", FORMATS)
def test_results_are_written_with_scores_and_kept_after_ctrl_c(to: str, small: Path, tmp_path: Path) -> None:
    ids = scene()
    result = mc.Segmentation.from_ids(
        ids, CATEGORIES, labels=[*LABELS.values()], segment_ids=[*LABELS], scores=[0.5, 0.75, 0.25, 1]
    )
    with pytest.raises(KeyboardInterrupt), writing_results(tmp_path / "out", to, CATEGORIES) as write:
        write(result, "x_1", small / "images/train/a.jpg")
        write(result, "x_2", small / "images/train/a.jpg")
        raise KeyboardInterrupt
    written = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert "x_1.jpg" in written or "x_1_leftImg8bit.jpg" in written
    if to == "label-studio":
        task, _ = json.loads((tmp_path / "out/tasks.json").read_text())
        (prediction,) = task["predictions"]
        assert prediction["score"] == 0.625 and len(prediction["result"]) == 4
    if to == "coco-instances":
        content = json.loads((tmp_path / "out/annotations/instances_all.json").read_text())
        assert [i["id"] for i in content["images"]] == [1, 2]
        assert [a["score"] for a in content["annotations"]][:4] == [0.5, 0.75, 0.25, 1]
    if to == "labelme":
        shapes = json.loads((tmp_path / "out/x_1.json").read_text())["shapes"]
        assert {s["score"] for s in shapes if s["label"] == "cat & <dog>"} == {0.75}


@pytest.mark.parametrize(("number", "isthing", "most"), [(69, 1, 64), (300, 0, 255)])
def test_cityscapes_limits_are_said(tmp_path: Path, number: int, isthing: int, most: int) -> None:
    many = mc.Categories.from_json(
        [{"id": k + 1, "name": f"c{k}", "isthing": isthing, "color": [0, 0, 0]} for k in range(number)]
    )
    with (
        pytest.raises(DataError, match=f"holds up to {most} classes"),
        writing(tmp_path / "o", "cityscapes", many),
    ):
        pass
    assert not (tmp_path / "o").exists()


HOLD_STUFF = ("coco-instances", "cityscapes", "masks", "panoptic-2ch")


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_written_reads_back_with_the_same_segments(to: str, small: Path, tmp_path: Path) -> None:
    mc.data.export(small, tmp_path / "there", to)
    done = convert(tmp_path / "there", tmp_path / "back", stuff=() if to in HOLD_STUFF else ["grass"])
    assert done.errors == {} and done.splits == {"train": 2, "val": 1}
    assert main(["data", "check", str(tmp_path / "back")]) == 0
    for split in ("train", "val"):
        first, again = (mc.data.open_dataset(tmp_path / k, split) for k in ("set", "back"))
        kinds = {c.name: c.is_thing for c in first.categories}
        assert {c.name: c.is_thing for c in again.categories} == kinds
        metric = mc.PanopticQuality(first.categories)
        names = [name.removesuffix("_leftImg8bit") for name in map(_stem, again.file_names)]
        for k in range(len(first)):
            sample, found = first[k], again[names.index(_stem(first.file_names[k]))]
            labels = [first.categories.names.index(again.categories[v].name) for v in found.segments.labels]
            assert ((found.ids == 0) == (sample.ids == 0)).all()
            metric.update(found.ids, (found.segments.ids, np.array(labels)), sample.ids, sample.segments)
        values = metric.compute().all
        assert (values.pq, values.sq, values.rq) == (1, 1, 1)


def _stem(name: str) -> str:
    return Path(name).stem
