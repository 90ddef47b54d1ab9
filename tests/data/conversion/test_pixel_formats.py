"""Formats whose annotation is pixels: numbers and colours become an id map with the classes behind it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskconver.data.conversion.annotation import AnnotatedImage, Faults, Options, Reader
from maskconver.data.conversion.colors import read_color_file
from maskconver.data.conversion.files import Files
from maskconver.data.conversion.pairs import pair_masks
from maskconver.data.conversion.registry import reader_of, recognise
from maskconver.data.conversion.run import convert
from maskconver.errors import DataError


def save(path: Path, values: Any, dtype: Any = np.uint8, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype)).save(path, **options)


def photo(path: Path, size: tuple[int, int] = (2, 4)) -> None:
    save(path, np.zeros((*size, 3)))


def read(folder: Path, expected: str, **options: Any) -> tuple[Reader, list[AnnotatedImage]]:
    reader_class, _ = recognise(Files(folder))
    assert reader_class.name == expected
    reader = reader_class(Files(folder), Options(**options))
    images = list(reader.images())
    assert (reader.count or len(reader.names)) >= len(images)
    return reader, images


def names(image: AnnotatedImage) -> list[list[str]]:
    """The class of each pixel; a number tells objects apart, `!` a crowd."""
    assert image.ids is not None
    text = {s.id: f"{s.name}{s.id}{'!' * s.crowd}" for s in image.segments} | {0: "-", -1: "x"}
    return [[text[v] for v in row] for row in image.ids.tolist()]


def faults(reader: Reader) -> list[str]:
    return [str(f) for f in reader.faults.listed]


def cityscapes(root: Path, kind: str, values: Any, dtype: Any) -> None:
    photo(root / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    save(root / f"gtFine/train/ulm/ulm_000000_000019_gtFine_{kind}.png", values, dtype)


def test_cityscapes_instances_groups_and_classes_that_do_not_count(tmp_path: Path) -> None:
    cityscapes(tmp_path, "instanceIds", [[7, 26001, 26002, 26], [3, 7, 26001, 29000]], np.uint16)
    reader, (image,) = read(tmp_path, "cityscapes")
    assert names(image) == [["road1", "car3", "car4", "car2!"], ["-", "road1", "car3", "-"]]
    assert (image.split, image.name) == ("train", "ulm/ulm_000000_000019_leftImg8bit.png")
    assert len(reader.classes) == 19 and faults(reader) == []
    _, (image,) = read(tmp_path, "cityscapes", things=("caravan",))
    assert names(image)[1][3] == "caravan5"


def test_cityscapes_training_ids_are_stuff(tmp_path: Path) -> None:
    cityscapes(tmp_path, "labelTrainIds", [[0, 13, 255, 255], [0, 13, 13, 40]], np.uint8)
    reader, (image,) = read(tmp_path, "cityscapes")
    assert names(image) == [["road1", "car2", "-", "-"], ["road1", "car2", "car2", "-"]]
    assert not any(c.is_thing for c in reader.classes)
    assert "class 40 is not known; its 1 pixels are void" in faults(reader)[0]


def test_cityscapes_panoptic_pngs(tmp_path: Path) -> None:
    photo(tmp_path / "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png")
    ids = np.array([[7, 7, 26001, 26001], [0, 5, 26, 26]])
    png = tmp_path / "gtFine/cityscapes_panoptic_val/ulm_000000_000019_gtFine_panoptic.png"
    save(png, np.stack([ids & 255, ids >> 8, ids * 0], 2))
    rows = [{"id": 7, "category_id": 7}, {"id": 26001, "category_id": 26}]
    rows += [{"id": 26, "category_id": 26, "iscrowd": 1}]
    content = {
        "images": [{"id": "ulm_000000_000019", "file_name": "ulm_000000_000019_gtFine_leftImg8bit.png"}],
        "annotations": [{"image_id": "ulm_000000_000019", "file_name": png.name}],
        "categories": [{"id": 7, "name": "road", "isthing": 0}, {"id": 26, "name": "car", "isthing": 1}],
    }
    content["images"][0] |= {"width": 4, "height": 2}
    content["annotations"][0]["segments_info"] = [
        {"iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]} | row for row in rows
    ]
    (tmp_path / "gtFine/cityscapes_panoptic_val.json").write_text(json.dumps(content))
    reader, (image,) = read(tmp_path, "cityscapes")
    assert names(image) == [["road7", "road7", "car26001", "car26001"], ["-", "-", "car26!", "car26!"]]
    assert image.split == "val" and "1 ids are not in the JSON" in faults(reader)[0]


def mapillary(root: Path, version: str = "v1.2") -> Path:
    rows = [("animal--bird", True, True), ("construction--road", False, True), ("void--car", False, False)]
    labels = [
        {"name": n, "readable": n.split("--")[1], "instances": i, "evaluate": e, "color": [k, 0, 0]}
        for k, (n, i, e) in enumerate(rows)
    ]
    (root / f"config_{version}.json").write_text(json.dumps({"labels": labels}))
    photo(root / "training/images/a.jpg")
    return root / f"training/{version}"


def test_mapillary_instances_are_class_and_number_in_16_bits(tmp_path: Path) -> None:
    folder = mapillary(tmp_path)
    save(folder / "instances/a.png", [[0, 1, 256, 257], [512, 0, 256, 4096]], np.uint16)
    reader, (image,) = read(tmp_path, "mapillary")
    assert names(image) == [["bird1", "bird2", "road3", "road3"], ["-", "bird1", "road3", "-"]]
    assert image.split == "train" and "class 16 is not in the configuration" in faults(reader)[0]


def test_mapillary_labels_alone_are_stuff_and_the_newest_version_is_read(tmp_path: Path) -> None:
    save(mapillary(tmp_path) / "labels/a.png", np.full((2, 4), 2))
    save(mapillary(tmp_path, "v2.0") / "labels/a.png", [[0, 1, 2, 2], [0, 0, 0, 0]])
    reader, (image,) = read(tmp_path, "mapillary")
    assert names(image)[0] == ["bird1", "road2", "-", "-"]
    assert not any(c.is_thing for c in reader.classes) and "v2.0 is read, not v1.2" in reader.decisions
    _, (image,) = read(tmp_path / "config_v1.2.json", "mapillary")
    assert names(image)[0] == ["-"] * 4


def test_ade20k_2016_names_objects_by_rank_and_leaves_parts_out(tmp_path: Path) -> None:
    stem = tmp_path / "images/training/a/ADE_train_1"
    photo(stem.with_suffix(".jpg"))
    car, sky = (10, 145), (100, 2)  # red / 10 · 256 + green: 401 and 2562
    save(Path(f"{stem}_seg.png"), [[[*sky, 20]] * 2 + [[*car, 90], [*car, 200]], [[0, 0, 0]] * 4])
    rows = ['001 # 0 # 0 # sky # sky # ""', '002 # 0 # 0 # car, auto # car # ""']
    rows += ['003 # 0 # 1 # car, auto # car # ""', '002 # 1 # 0 # wheel # wheel # ""']
    Path(f"{stem}_atr.txt").write_text("\n".join(rows))
    reader, (image,) = read(tmp_path, "ade20k")
    assert names(image)[0] == ["sky3", "sky3", "car, auto1", "car, auto2"] and names(image)[1] == ["-"] * 4
    assert [c.name for c in reader.classes] == ["sky", "car, auto"]


def test_scene_parsing_class_pngs(tmp_path: Path) -> None:
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t5\t5\twall\n2\t0\t5\t5\tsky\n"
    )
    photo(tmp_path / "images/validation/ADE_val_1.jpg")
    save(tmp_path / "annotations/validation/ADE_val_1.png", [[0, 1, 2, 9]] * 2)
    reader, (image,) = read(tmp_path, "scene-parsing")
    assert names(image)[0] == ["-", "wall1", "sky2", "-"] and image.split == "val"
    assert "class 9 has no name; 2 pixels are void" in faults(reader)[0]


def voc(root: Path, classes: Any, objects: Any, palette: bool = True) -> None:
    photo(root / "JPEGImages/a.jpg")
    for folder, values in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        if values is not None:
            image = Image.fromarray(np.array(values, np.uint8))
            if palette:
                image.putpalette([k % 256 for k in range(768)])
            (root / folder).mkdir()
            image.save(root / folder / "a.png")


def test_voc_objects_and_their_border(tmp_path: Path) -> None:
    voc(tmp_path, [[0, 255, 15, 15], [7, 255, 15, 15]], [[0, 255, 1, 2], [3, 255, 1, 2]])
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    reader, (image,) = read(tmp_path, "voc")
    assert names(image) == [["-", "x", "person2", "person3"], ["car1", "x", "person2", "person3"]]
    assert len(image.segments) == 3 and image.split == "val"
    assert "lists b, of which there is no class PNG" in faults(reader)[0]


def test_voc_classes_alone_are_stuff(tmp_path: Path) -> None:
    voc(tmp_path, [[0, 255, 15, 15], [7, 255, 15, 30]], None)
    reader, (image,) = read(tmp_path, "voc")
    assert not any(c.is_thing for c in reader.classes) and len(image.segments) == 2
    assert "the value 30 is not a class" in faults(reader)[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("class_names.txt", "_background_\ncat\ndog"),
        ("labels.txt", "__ignore__\n_background_\ncat\ndog\n"),
        ("classes.txt", "cat\ndog\n"),
    ],
)
@pytest.mark.parametrize("ending", ["", "PNG"])
def test_voc_names_of_labelme2voc_are_not_vocs_own(tmp_path: Path, file: str, text: str, ending: str) -> None:
    voc(tmp_path, [[0, 255, 1, 1], [0, 255, 2, 2]], [[0, 255, 1, 1], [0, 255, 2, 2]])
    for kind in ("Class", "Object"):
        folder = tmp_path / f"Segmentation{kind}"
        folder.rename(folder.with_name(folder.name + ending))
    (tmp_path / file).write_text(text)
    reader, (image,) = read(tmp_path, "voc")
    assert [c.name for c in reader.classes] == ["cat", "dog"] and all(c.is_thing for c in reader.classes)
    assert [s.name for s in image.segments] == ["cat", "dog"]


def test_cvat_segmentation_masks_have_colours_of_their_label_map(tmp_path: Path) -> None:
    red, black, other = [250, 50, 83], [0, 0, 0], [9, 200, 9]
    voc(
        tmp_path,
        [[black, red, red, other]] * 2,
        [[black, [128, 0, 0], [0, 128, 0], black]] * 2,
        palette=False,
    )
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:250,50,83::\n"
    )
    reader, (image,) = read(tmp_path, "voc")
    assert [s.name for s in image.segments] == ["cell", "cell"]
    assert "the colour 9 200 9 is of no class; 2 pixels of 1 masks are void" in faults(reader)[0]


def test_cvat_segmentation_masks_saved_with_a_palette_mean_its_colours(tmp_path: Path) -> None:
    voc(tmp_path, [[0, 1, 2, 2]] * 2, [[0, 1, 2, 3]] * 2)
    image = Image.open(tmp_path / "SegmentationClass/a.png")
    image.putpalette([0, 0, 0, 250, 50, 83, 9, 200, 9])
    image.save(tmp_path / "SegmentationClass/a.png")
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ntree:9,200,9::\ncell:250,50,83::\n")
    _, (found,) = read(tmp_path, "voc")
    assert names(found)[0] == ["-", "cell3", "tree1", "tree2"]


def test_a_mask_for_each_object(tmp_path: Path) -> None:
    for name in "ab":
        photo(tmp_path / f"stage1_train/{name}/images/{name}.png")
        for k in range(2):
            mask = np.zeros((2, 4), np.uint8)
            mask[k] = 255
            save(tmp_path / f"stage1_train/{name}/masks/{k}.png", mask)
    save(tmp_path / "stage1_train/b/masks/2.png", np.ones((3, 3)))
    photo(tmp_path / "stage1_train/b/images/c.png")
    reader = reader_of("object-masks")(Files(tmp_path), Options())
    (image,) = list(reader.images())
    assert [s.name for s in image.shapes] == ["nucleus", "nucleus"] and image.split == "train"
    assert image.shapes[0].mask is not None and image.shapes[0].mask.tolist() == [[True] * 4, [False] * 4]
    assert "2 images are in stage1_train/b/images" in faults(reader)[0]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.png", "masks/a.tif"),
        ("train/images/a.png", "train/masks/a.tif"),
        ("images/val/a.png", "masks/val/a.tif"),
        ("a.png", "a_masks.tif"),
        ("a_img.png", "a_masks.png"),
        ("a.png", "a_cp_masks.png"),
        ("images/label_1.png", "masks/label_1.tif"),
        ("images/a_1.png", "labels/label_a_1.tif"),
        ("images/A.PNG", "masks/a.tif"),
        ("images/a.jpg", "masks/a.jpg.tif"),
    ],
)
def test_label_images_are_found_beside_their_images(tmp_path: Path, image: str, mask: str) -> None:
    photo(tmp_path / image)
    save(tmp_path / mask, [[0, 1, 1, 300], [0, 0, 7, 7]], np.uint16)
    reader, (found,) = read(tmp_path, "instance-masks", things=("cell",))
    assert names(found) == [["-", "cell1", "cell1", "cell3"], ["-", "-", "cell2", "cell2"]]
    assert found.path == tmp_path / image and faults(reader) == []
    assert found.split == ("train" if "train" in image else "val" if "val" in image else "")


def test_masks_of_images_that_a_tag_turns_are_counted(tmp_path: Path) -> None:
    """A turn by half leaves the size as it is, so nothing else tells."""
    exif = Image.Exif()
    exif[0x0112] = 3
    save(tmp_path / "set/images/a.jpg", np.zeros((2, 4, 3)), exif=exif)
    save(tmp_path / "set/masks/a.png", [[0, 1, 1, 2]] * 2)
    result = convert(tmp_path / "set", tmp_path / "out", "instance-masks")
    assert result.notes["images-turned-by-their-exif-tag"] == 1


def test_label_images_that_are_bad_are_listed_and_the_rest_is_read(tmp_path: Path) -> None:
    for name in "abcdef":
        photo(tmp_path / f"images/{name}.png")
    save(tmp_path / "masks/a.tif", [[0, 1]], np.uint16)
    save(tmp_path / "masks/b.jpg", [[0, 1]])
    save(tmp_path / "masks/c.png", np.arange(18).reshape(2, 3, 3))
    (tmp_path / "masks/d.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    save(tmp_path / "masks/e.tif", [[0.5, 1]], np.float32)
    save(tmp_path / "masks/f.tif", [[-1, 1]], np.int32)
    save(tmp_path / "masks/g.tif", [[0, 1]])
    reader = reader_of("instance-masks")(Files(tmp_path), Options())
    assert [i.name for i in reader.images()] == ["a.png"]
    said = "\n".join(faults(reader))
    for text in (
        "g.tif: there is no image",
        "b.jpg: is a JPEG",
        "c.png: is in colour",
        "d.png: cannot be read",
    ):
        assert text in said
    assert "e.tif: its values are not whole numbers" in said and len(faults(reader)) == 6
    assert "f.tif: has values -1…1; they must be from 0 to 2147483647" in said


def class_masks(root: Path, values: Any) -> None:
    photo(root / "images/train/a.png")
    save(root / "labels/train/a.png", values)


def test_class_masks_with_and_without_names(tmp_path: Path) -> None:
    class_masks(tmp_path, [[0, 1, 2, 255]] * 2)
    with pytest.raises(DataError, match=r"several formats fit: instance-masks .* class-masks"):
        recognise(Files(tmp_path))
    reader = reader_of("class-masks")(Files(tmp_path), Options())
    assert names(next(iter(reader.images())))[0] == ["-", "class 11", "class 22", "x"]
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    reader, (image,) = read(tmp_path, "class-masks")
    assert (
        names(image)[0] == ["sky1", "road2", "-", "x"] and "the value 2 is not a class" in faults(reader)[0]
    )


@pytest.mark.parametrize("named", [True, False])
def test_masks_of_0_and_255_are_no_silent_void(tmp_path: Path, named: bool) -> None:
    class_masks(tmp_path / "set", [[0, 0, 255, 255]] * 2)
    (tmp_path / "set/classes.txt").unlink(missing_ok=True)
    if named:
        (tmp_path / "set/classes.txt").write_text("ground\ncell\n")
    result = convert(tmp_path / "set", tmp_path / "out", "class-masks")
    if named:
        assert any('the class "cell" occurs nowhere, while 4 pixels' in text for text in result.decisions)
    else:
        assert [(c["name"], c["pixels"]) for c in result.classes] == [("class 255", 4)]


def test_roboflow_semantic_masks(tmp_path: Path) -> None:
    photo(tmp_path / "train/a.jpg")
    save(tmp_path / "train/a_mask.png", [[0, 1, 2, 1]] * 2)
    (tmp_path / "train/_classes.csv").write_text("Pixel Value, Class\n 0, background\n 1, crack\n 2, rust\n")
    _, (image,) = read(tmp_path, "class-masks")
    assert names(image)[0] == ["background1", "crack2", "rust3", "crack2"] and image.split == "train"


FORMS = [
    ("c.txt", "road 128 64 128\n# a remark\nwide sky  70 130 180\n"),
    ("c.txt", "128 64 128 road\n70\t130\t180\twide sky\n"),
    ("c.csv", "name,r,g,b\nroad,128,64,128\nwide sky,70,130,180\n"),
    ("c.csv", "id,name,r,g,b,a\n1,road,128,64,128,255\n2,wide sky,70,130,180,255\n"),
    ("c.csv", 'R;G;B;Class\n128;64;128;"road"\n\n70;130;180;wide sky\n'),
    ("c.txt", "road #804080\nwide sky: #4682b4\n"),
    ("c.json", '{"road": [128, 64, 128], "wide sky": [70, 130, 180]}'),
    ("c.json", '[{"name": "road", "color": [128, 64, 128]}, {"name": "wide sky", "color": "#4682b4"}]'),
    (
        "c.json",
        '{"label_map": {"0": "road", "1": "wide sky"}, '
        '"segmentation_colors": [[128, 64, 128], [70, 130, 180]]}',
    ),
]


@pytest.mark.parametrize(("file", "text"), FORMS)
def test_colour_masks_with_a_file_of_colours(tmp_path: Path, file: str, text: str) -> None:
    photo(tmp_path / "set/images/a.png")
    save(tmp_path / "set/masks/a.png", [[[128, 64, 128], [70, 130, 180], [70, 130, 180], [128, 64, 128]]] * 2)
    (tmp_path / file).write_text(text)
    _, (image,) = read(tmp_path / "set", "color-masks", colors=tmp_path / file)
    assert names(image)[0] == ["road1", "wide sky2", "wide sky2", "road1"]


def test_numbers_as_names_of_colours_have_a_titled_column(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("name,r,g,b\n0,0,0,0\n1,128,64,128\n")
    table = read_color_file(tmp_path / "c.csv")
    assert dict(zip(table.names, table.colors)) == {"0": (0, 0, 0), "1": (128, 64, 128)}
    for text in ("0 128 64 128 road\n", "1 128 64 128\n"):  # what is the colour?
        (tmp_path / "c.txt").write_text(text)
        with pytest.raises(DataError, match="more than the three numbers of a colour"):
            read_color_file(tmp_path / "c.txt")


def test_unknown_colours_are_listed_with_counts_and_jpeg_blur_is_called_so(tmp_path: Path) -> None:
    for name in "ab":
        photo(tmp_path / f"images/{name}.png")
        save(tmp_path / f"masks/{name}.png", [[[128, 64, 128], [130, 60, 127], [0, 255, 0], [0, 0, 0]]] * 2)
    (tmp_path / "colors.txt").write_text("road 128 64 128\nvoid 0 0 0\n")
    reader, images = read(tmp_path, "color-masks")
    assert names(images[0])[0] == ["road1", "-", "-", "-"]
    near, unknown = faults(reader)
    assert '4 pixels of 2 masks have nearly the colour of "road"' in near and "saving as JPEG" in near
    assert unknown.endswith("the colour 0 255 0 is of no class; 4 pixels of 2 masks are void")


def test_all_colours_that_a_jpeg_adds_are_one_line(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.png", (16, 16))
    values = np.zeros((16, 16, 3), np.uint8)
    values[5:, 5:] = (250, 50, 80)
    save(tmp_path / "masks/a.jpg", values)
    (tmp_path / "colors.txt").write_text("cell 250 50 80\nground 0 0 0\n")
    reader, (image,) = read(tmp_path, "color-masks")
    (only,) = faults(reader)
    assert "of 1 masks that are JPEGs have colours of no class" in only and image.segments == []


def test_colour_masks_without_colours_say_which_there_are(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.png")
    save(tmp_path / "masks/a.png", [[[128, 64, 128]] * 3 + [[1, 2, 3]]] * 2)
    with pytest.raises(DataError, match="have 2 colours, the most frequent 128 64 128, 1 2 3; name a file"):
        read(tmp_path, "color-masks")
    (tmp_path / "c.txt").write_text("road 1 2\n\nroad 1 2 3\nnonsense\n")
    with pytest.raises(DataError, match='line 4, "nonsense", names no class'):
        read(tmp_path, "color-masks", colors=tmp_path / "c.txt")


SAMPLES: Iterable[tuple[str, str, int]] = [
    ("cityscapes_dataset/dataset", "cityscapes", 4),
    ("cityscapes_dataset/train_dataset", "cityscapes", 4),
    ("mapillary_vistas_dataset", "mapillary", 3),
    ("mapillary_vistas_dataset/config_v1.2.json", "mapillary", 3),
    ("ade20k2020_dataset/dataset", "ade20k", 2),
    ("voc_dataset/voc_dataset1", "voc", 1),
    ("common_semantic_segmentation_dataset/dataset", "color-masks", 2),
    ("common_semantic_segmentation_dataset/non_standard_dataset", "color-masks", 2),
]


@pytest.mark.parametrize(("folder", "name", "count"), SAMPLES)
def test_samples_of_data_sets_are_read_without_a_fault(
    shared: Path, folder: str, name: str, count: int
) -> None:
    reader, images = read(shared / "data/exports/datumaro" / folder, name)
    assert len(images) == count and faults(reader) == []
    assert all(image.path and image.path.is_file() for image in images)


def test_a_mask_of_a_mac_belongs_to_its_image() -> None:
    pairs = pair_masks(["images/\u00fc.png", "masks/u\u0308.png"], faults := Faults(), "in")
    assert len(pairs) == 1 and not faults.errors
