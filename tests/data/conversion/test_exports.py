"""Files as tools and data sets really write them: each converts, or is refused for a stated reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import maskconver as mc
from maskconver.core.panoptic_png import read_panoptic_png
from maskconver.data.conversion.run import convert
from maskconver.errors import DataError
from tests.conftest import SHARED

DATA = SHARED / "data"
EXPORTS = DATA / "exports"
pytestmark = pytest.mark.skipif(not EXPORTS.is_dir(), reason=f"needs {EXPORTS}, see MASKCONVER_SHARED")

# source below exports: format and images by split; with what is left out of it, by kind.
CONVERTED: dict[str, tuple[str, dict[str, int], dict[str, int]]] = {
    "via2": ("via", {"train": 4}, {"missing-image": 12}),
    "datumaro/ade20k2020_dataset/dataset": ("ade20k", {"train": 1, "val": 1}, {}),
    "datumaro/cityscapes_dataset/dataset": ("cityscapes", {"train": 1, "val": 1, "test": 2}, {}),
    "datumaro/cityscapes_dataset/train_dataset": ("cityscapes", {"train": 1, "val": 1, "test": 2}, {}),
    "datumaro/coco_dataset/coco_instances": ("coco", {"val": 1}, {"no-outline": 1}),
    "datumaro/coco_dataset/coco_panoptic": ("coco-panoptic", {"val": 1}, {"size-mismatch": 1}),
    "datumaro/coco_dataset/coco_roboflow": ("coco", {"val": 1}, {"no-outline": 1}),
    "datumaro/coco_dataset/coco_stuff": ("coco", {"train": 1, "val": 1}, {}),
    "datumaro/coco_dataset/mmdet_coco": ("coco", {"val": 1}, {"no-outline": 1}),
    "datumaro/common_semantic_segmentation_dataset/dataset": ("color-masks", {"train": 2}, {}),
    "datumaro/common_semantic_segmentation_dataset/non_standard_dataset": ("color-masks", {"train": 2}, {}),
    "datumaro/cvat_dataset/for_images/export_project": ("cvat", {"train": 2, "val": 2, "test": 2}, {}),
    "datumaro/cvat_dataset/for_images/export_task": ("cvat", {"train": 2}, {"no-class": 1}),
    "datumaro/labelme_dataset": ("labelme-xml", {"train": 1}, {}),
    "datumaro/mapillary_vistas_dataset": ("mapillary", {"train": 1, "val": 2}, {}),
    "datumaro/segment_anything_dataset": ("segment-anything", {"train": 2}, {"size-mismatch": 1}),
    "datumaro/voc_dataset/voc_dataset1": ("voc", {"train": 1}, {}),
    "panopticapi/panoptic_coco_detection_format.json": ("coco", {"train": 2}, {}),
    "panopticapi/panoptic_examples.json": ("coco-panoptic", {"train": 2}, {}),
}
REFUSED = {
    "datumaro/coco_dataset/coco": "several formats fit: coco .*coco-panoptic",
    "datumaro/coco_dataset/coco_captions": "no COCO file with outlines .*captions",
    "datumaro/coco_dataset/coco_image_info": "no COCO file with outlines .*no annotations",
    "datumaro/coco_dataset/coco_labels": "no COCO file with outlines .*no outlines",
    "datumaro/coco_dataset/coco_person_keypoints": "no COCO file with outlines .*keypoints",
    "datumaro/roboflow_dataset/coco": "boxes and no outlines",
    "datumaro/roboflow_dataset/createml": "boxes and no outlines",
    "datumaro/roboflow_dataset/multiclass": "no outlines",
    "datumaro/roboflow_dataset/tfrecord": "TFRecord|no annotation format",
    "datumaro/roboflow_dataset/voc": "boxes and no outlines",
    "datumaro/roboflow_dataset/yolo": "a box without an outline",
    "datumaro/roboflow_dataset/yolo_obb": "not a row of numbers",
    "datumaro/voc_dataset/voc_dataset2": "boxes and no outlines",
    "datumaro/voc_dataset/voc_dataset3": "boxes and no outlines",
    "datumaro/yolo_dataset/annotations": "a box without an outline",
    "datumaro/yolo_dataset/labels": "a box without an outline",
    "datumaro/yolo_dataset/strict": "a box without an outline",
    "panopticapi": "several formats fit: coco .*coco-panoptic",
}


def test_every_folder_of_exports_is_in_one_of_the_lists() -> None:
    listed = [EXPORTS / name for name in (*CONVERTED, *REFUSED)]
    leaves = {p.parent for p in EXPORTS.rglob("*") if p.is_file() and p.parent != EXPORTS}
    assert not [
        str(leaf)
        for leaf in leaves
        if not any(leaf.is_relative_to(p) or p.is_relative_to(leaf) for p in listed)
    ]


@pytest.mark.parametrize("name", CONVERTED)
def test_an_export_converts_and_has_no_defects(tmp_path: Path, name: str) -> None:
    result = convert(EXPORTS / name, tmp_path / "out")
    assert (result.format, result.splits, result.errors) == CONVERTED[name]
    defects = mc.data.check_dataset(tmp_path / "out", decode=False).defects
    assert [d.message for d in defects if d.severity == "error"] == []


@pytest.mark.parametrize("name", REFUSED)
def test_an_export_is_refused_for_a_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=REFUSED[name]):
        convert(EXPORTS / name, tmp_path / "out")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "name", ["panoptic_coco_detection_format.json", "panoptic_examples.json", "panoptic_examples_2ch_format"]
)
def test_panopticapis_forms_are_its_panoptic_pngs(tmp_path: Path, name: str) -> None:
    folder = EXPORTS / "panopticapi"
    convert(folder / name, tmp_path / "out", background="void", image_folder=folder / "input_images")
    published = mc.data.CocoPanoptic(
        folder / "input_images", folder / "panoptic_examples.json", folder / "panoptic_examples"
    )
    made = mc.data.open_dataset(tmp_path / "out", "train")
    assert sorted(made.file_names) == sorted(published.file_names)
    for index, file_name in enumerate(published.file_names):
        assert share_equal(made, made.file_names.index(file_name), published, index) == 1


def share_equal(one: mc.data.PanopticDataset, i: int, other: mc.data.PanopticDataset, j: int) -> float:
    """Share of pixels in the same segments of the same classes; 0 where the numbers of segments differ."""
    tables = [(d.ids(k), d.segments(k), d.categories) for d, k in ((one, i), (other, j))]
    if len(tables[0][1]) != len(tables[1][1]):
        return 0
    names = [dict(zip(t.ids.tolist(), (c[x].name for x in t.labels.tolist()))) for _, t, c in tables]
    keys = tables[0][0].astype(np.int64) << 24 | tables[1][0]
    best: dict[int, int] = {}
    for key, count in zip(*(v.tolist() for v in np.unique(keys, return_counts=True))):
        a, b = key >> 24, key & 0xFFFFFF
        if names[0].get(a) == names[1].get(b):
            best[a] = max(best.get(a, 0), count)
    return sum(best.values()) / keys.size


def test_facades_of_roboflow_equal_the_ready_set(tmp_path: Path) -> None:
    source = json.loads((DATA / "facade" / "instances_val.json").read_text())
    source["images"] = source["images"][::6]
    kept = {row["id"] for row in source["images"]}
    source["annotations"] = [row for row in source["annotations"] if row["image_id"] in kept]
    (tmp_path / "instances_val.json").write_text(json.dumps(source))
    ready = mc.data.open_dataset(DATA / "facade", "val")
    stuff = [c.name for c in ready.categories if not c.is_thing and c.name != "other"]
    convert(
        tmp_path / "instances_val.json",
        tmp_path / "out",
        stuff=stuff,
        background="other",
        image_folder=DATA / "facade" / "images",
    )
    made = mc.data.open_dataset(tmp_path / "out", "val")
    assert {(c.name, c.is_thing) for c in made.categories} == {(c.name, c.is_thing) for c in ready.categories}
    shares = [share_equal(made, i, ready, ready.file_names.index(n)) for i, n in enumerate(made.file_names)]
    assert len(shares) == 10 and min(shares) >= 0.9999


def test_cats_of_yolo_equal_the_ready_set(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for kind, ending in (("images", ".jpg"), ("labels", ".txt")):
        (source / kind / "val").mkdir(parents=True)
        for path in sorted((DATA / "cats" / kind / "val").glob(f"*{ending}"))[:20]:
            shutil.copy(path, source / kind / "val")
    shutil.copy(DATA / "cats" / "data.yaml", source)
    convert(source, tmp_path / "out")
    ready = mc.data.open_dataset(DATA / "cats", "val", images=DATA / "cats" / "images" / "val")
    made = mc.data.open_dataset(tmp_path / "out", "val")
    shares = [share_equal(made, i, ready, ready.file_names.index(n)) for i, n in enumerate(made.file_names)]
    assert len(shares) == 20 and min(shares) >= 0.9999


def test_ids_written_are_small(tmp_path: Path) -> None:
    convert(EXPORTS / "panopticapi" / "panoptic_coco_detection_format.json", tmp_path / "out")
    for path in (tmp_path / "out" / "panoptic" / "train").iterdir():
        assert read_panoptic_png(path).max() < 256
