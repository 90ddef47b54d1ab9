"""One small scene as six labelling tools export it, and what its pixels are.

Every writer makes the files of two images, `one.jpg` with the objects of `OBJECTS` that the tool can hold and
`two.png` with one square. Nothing here uses the readers.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
SQUARE = (4, 4, 14, 14)  # cat, drawn as a polygon
RECTANGLE = (20, 4, 30, 12)  # cat, drawn as a rectangle
PARTS = ((4, 20, 10, 30), (14, 20, 20, 30))  # dog, two polygons
CIRCLE = (50, 14, 8)  # dog
ELLIPSE = (48, 36, 10, 5)  # cat
RING, HOLE = (24, 20, 36, 32), (28, 24, 32, 28)  # cat, a mask or a polygon with a hole
OTHER = (8, 8, 24, 24)  # dog, of the second image
Box = tuple[int, int, int, int]


def filled(*boxes: Box, hole: Box | None = None) -> np.ndarray:
    """(HEIGHT, WIDTH) bool of boxes x0, y0, x1, y1 (without x1 and y1)."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    if hole:
        mask[hole[1] : hole[3], hole[0] : hole[2]] = False
    return mask


def round_mask(cx: int, cy: int, rx: int, ry: int) -> np.ndarray:
    """The pixels whose centres lie in an ellipse."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1


OBJECTS: dict[str, tuple[str, np.ndarray]] = {
    "square": ("cat", filled(SQUARE)),
    "rectangle": ("cat", filled(RECTANGLE)),
    "parts": ("dog", filled(*PARTS)),
    "circle": ("dog", round_mask(*CIRCLE, CIRCLE[2])),
    "ellipse": ("cat", round_mask(*ELLIPSE)),
    "ring": ("cat", filled(RING, hole=HOLE)),
}
HOLDS = {
    "labelme": ("square", "rectangle", "parts", "circle", "ring"),
    "labelme-xml": ("square", "parts", "ring"),
    "cvat": ("square", "rectangle", "parts", "ellipse", "ring"),
    "via": ("square", "rectangle", "circle", "ellipse"),
    "label-studio": ("square", "rectangle", "ellipse", "ring"),
    "supervisely": ("square", "rectangle", "parts", "ring"),
}


def corners(box: Box) -> list[list[float]]:
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def cut(mask: np.ndarray, box: Box) -> np.ndarray:
    return mask[box[1] : box[3], box[0] : box[2]]


def png(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", **options)
    return file.getvalue()


def photograph(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.arange(width, dtype=np.uint8)[None, :, None]
    Image.fromarray(np.broadcast_to(x, (height, width, 3)).copy()).save(path)
    return path


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


# -- labelme --------------------------------------------------------------------------------------------


def labelme(folder: Path) -> Path:
    def shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
        base = {"label": label, "points": points, "group_id": None, "description": "", "shape_type": kind}
        return base | {"flags": {}, "mask": None} | more

    cx, cy, r = CIRCLE
    ring = base64.b64encode(png(cut(OBJECTS["ring"][1], RING))).decode()
    shapes = [
        shape("cat", corners(SQUARE)),
        shape("cat", [[RECTANGLE[2], RECTANGLE[3]], [RECTANGLE[0], RECTANGLE[1]]], "rectangle"),
        *(shape("dog", corners(part), group_id=1) for part in PARTS),
        shape("dog", [[cx, cy], [cx + r, cy]], "circle"),
        shape("cat", [[RING[0], RING[1]], [RING[2] - 1, RING[3] - 1]], "mask", mask=ring),
        shape("cat", [[1, 1]], "point"),
        shape("cat", [[1, 1], [5, 5], [9, 5]], "linestrip"),
    ]
    for name, rows in (("one.jpg", shapes), ("two.png", [shape("dog", corners(OTHER))])):
        photograph(folder / name)
        content = {"version": "5.5.0", "flags": {}, "shapes": rows, "imagePath": name, "imageData": None}
        write_json(folder / f"{name[:3]}.json", content | {"imageHeight": HEIGHT, "imageWidth": WIDTH})
    return folder


# -- LabelMe --------------------------------------------------------------------------------------------


def labelme_xml(folder: Path) -> Path:
    def entry(
        number: int, name: str, region: str, part_of: str = "", parts: str = "", deleted: int = 0
    ) -> str:
        return (
            f"<object><name>{name}\n</name><deleted>{deleted}</deleted><verified>0</verified>"
            f"<occluded>no</occluded><attributes></attributes><parts><hasparts>{parts}</hasparts>"
            f"<ispartof>{part_of}</ispartof></parts><date>25-May-2012</date><id>{number}</id>{region}</object>"
        )

    def polygon(box: Box) -> str:
        points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in corners(box))
        return f"<polygon><username>admin</username>{points}</polygon>"

    x0, y0, x1, y1 = RING
    mask = (
        f"<segm><username>admin</username><box><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></box><mask>one_mask_3.png</mask><scribbles></scribbles></segm>"
    )
    ring = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    ring[OBJECTS["ring"][1]] = (153, 51, 0, 132)
    (folder / "Masks/scenes").mkdir(parents=True)
    (folder / "Masks/scenes/one_mask_3.png").write_bytes(png(ring))
    first = [
        entry(0, "cat", polygon(SQUARE)),
        entry(1, "dog", polygon(PARTS[0]), parts="2"),
        entry(2, "dog", polygon(PARTS[1]), part_of="1"),
        entry(3, "cat", mask),
        entry(4, "cat", polygon(OTHER), deleted=1),
    ]
    for name, objects in (("one.jpg", first), ("two.png", [entry(0, "dog", polygon(OTHER))])):
        photograph(folder / "Images/scenes" / name)
        path = folder / "Annotations/scenes" / f"{name[:3]}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"<annotation><filename>{name}</filename><folder>scenes</folder><source><sourceImage>The"
            " MIT-CSAIL database</sourceImage><sourceAnnotation>LabelMe Webtool</sourceAnnotation>"
            f"</source>{''.join(objects)}<imagesize><nrows>{HEIGHT}</nrows><ncols>{WIDTH}</ncols></imagesize>"
            "</annotation>"
        )
    return folder


# -- CVAT -----------------------------------------------------------------------------------------------


def cvat(folder: Path) -> Path:
    def text(box: Box) -> str:
        return ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(box))

    def label(name: str, colour: str) -> str:
        return f"<label><name>{name}</name><color>{colour}</color><type>any</type><attributes/></label>"

    flat = cut(OBJECTS["ring"][1], RING).ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int)])))
    counts = np.diff(np.concatenate([[0], edges, [len(flat)]]))
    x0, y0, x1, y1 = RING
    cx, cy, rx, ry = ELLIPSE
    common = 'source="manual" occluded="0"'
    parts = "".join(
        f'<polygon label="dog" {common} points="{text(p)}" z_order="0" group_id="4"></polygon>' for p in PARTS
    )
    one = (
        f'<polygon label="cat" source="manual" occluded="1" points="{text(SQUARE)}" z_order="0">'
        '<attribute name="pose">left</attribute></polygon>'
        f'<box label="cat" {common} xtl="{RECTANGLE[0]}.00" ytl="{RECTANGLE[1]}.00" xbr="{RECTANGLE[2]}.00" '
        f'ybr="{RECTANGLE[3]}.00" z_order="0"></box>{parts}'
        f'<ellipse label="cat" {common} cx="{cx}.00" cy="{cy}.00" rx="{rx}.00" ry="{ry}.00" '
        f'z_order="0"></ellipse>'
        f'<mask label="cat" {common} rle="{", ".join(map(str, counts))}" left="{x0}" top="{y0}" '
        f'width="{x1 - x0}" height="{y1 - y0}" z_order="0"></mask>'
        f'<points label="cat" {common} points="1.00,2.00" z_order="0"></points>'
        '<tag label="dog" source="manual"></tag>'
    )
    two = f'<polygon label="dog" {common} points="{text(OTHER)}" z_order="0"></polygon>'
    images = "".join(
        f'<image id="{n}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{rows}</image>'
        for n, (name, rows) in enumerate((("one.jpg", one), ("two.png", two)))
    )
    for name in ("one.jpg", "two.png"):
        photograph(folder / "images" / name)
    (folder / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><id>3</id>'
        f"<name>pets</name><labels>{label('cat', '#fa3253')}{label('dog', '#33ddff')}</labels></task>"
        f"<dumped>2024-01-17</dumped></meta>{images}</annotations>"
    )
    return folder


# -- VIA ------------------------------------------------------------------------------------------------


def via_regions(attribute: str = "class") -> dict[str, list[dict[str, Any]]]:
    def region(label: str, name: str, **shape: Any) -> dict[str, Any]:
        return {"shape_attributes": {"name": name} | shape, "region_attributes": {attribute: label}}

    def polygon(label: str, box: Box) -> dict[str, Any]:
        xs, ys = zip(*corners(box))
        return region(label, "polygon", all_points_x=list(xs), all_points_y=list(ys))

    x0, y0, x1, y1 = RECTANGLE
    cx, cy, r = CIRCLE
    ex, ey, rx, ry = ELLIPSE
    return {
        "one.jpg": [
            polygon("cat", SQUARE),
            region("cat", "rect", x=x0, y=y0, width=x1 - x0, height=y1 - y0),
            region("dog", "circle", cx=cx, cy=cy, r=r),
            region("cat", "ellipse", cx=ex, cy=ey, rx=rx, ry=ry, theta=0),
            region("cat", "polyline", all_points_x=[1, 5, 9], all_points_y=[1, 5, 5]),
            region("cat", "point", cx=3, cy=3),
        ],
        "two.png": [polygon("dog", OTHER)],
    }


def via(folder: Path) -> Path:
    """A project of version 2."""
    images = {}
    for name, regions in via_regions().items():
        size = photograph(folder / name).stat().st_size
        images[f"{name}{size}"] = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
    project = {
        "_via_settings": {"ui": {}, "core": {"default_filepath": ""}, "project": {"name": "pets"}},
        "_via_img_metadata": images,
        "_via_attributes": {"region": {"class": {"type": "text"}}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(images),
    }
    write_json(folder / "via_project.json", project)
    return folder


def via_1(folder: Path) -> Path:
    """The JSON of version 1, whose regions are numbered and whose polygons end where they begin."""
    content = {}
    for name, regions in via_regions("name").items():
        size = photograph(folder / name).stat().st_size
        for region in regions:
            shape = region["shape_attributes"]
            if shape["name"] == "polygon":
                shape["all_points_x"].append(shape["all_points_x"][0])
                shape["all_points_y"].append(shape["all_points_y"][0])
            shape.pop("theta", None)
        numbered = {str(n): region for n, region in enumerate(regions)}
        image = {"fileref": "", "size": size, "filename": name, "base64_img_data": "", "file_attributes": {}}
        content[f"{name}{size}"] = image | {"regions": numbered}
    write_json(folder / "via_region_data.json", content)
    return folder


def via_csv(folder: Path) -> Path:
    header = "filename,file_size,file_attributes,region_count,region_id"
    file = io.StringIO()
    file.write(f"{header},region_shape_attributes,region_attributes\n")
    writer = csv.writer(file)
    for name, regions in via_regions().items():
        size = photograph(folder / name).stat().st_size
        for n, region in enumerate(regions):
            shape, own = (json.dumps(region[f"{k}_attributes"]) for k in ("shape", "region"))
            writer.writerow([name, size, "{}", len(regions), n, shape, own])
    (folder / "via_export_csv.csv").write_text(file.getvalue())
    return folder


# -- Label Studio ---------------------------------------------------------------------------------------


def brush(values: Iterable[int]) -> list[int]:
    """Bytes as Label Studio stores them: blocks of equal values, or of values one by one, in a bit stream."""
    data = np.array(list(values), np.uint8)
    lengths = (3, 4, 8, 16)
    bits = [f"{len(data):032b}", f"{8 - 1:05b}", *(f"{n - 1:04b}" for n in lengths)]

    def block(part: np.ndarray, same: bool) -> None:
        kind = next(k for k, n in enumerate(lengths) if len(part) - 1 < 1 << n)
        bits.append(f"{int(same)}{kind:02b}{len(part) - 1:0{lengths[kind]}b}")
        bits.extend(f"{v:08b}" for v in (part[:1] if same else part))

    starts = np.concatenate([[0], np.flatnonzero(np.diff(data)) + 1, [len(data)]])
    single: list[int] = []
    for start, end in pairwise(starts.tolist()):
        if end - start < 3:
            single += data[start:end].tolist()
            continue
        if single:
            block(np.array(single), same=False)
            single = []
        for at in range(start, end, 1 << 16):
            block(data[at : min(end, at + (1 << 16))], same=True)
    if single:
        block(np.array(single), same=False)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[k : k + 8], 2) for k in range(0, len(text), 8)]


def studio_results() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    percent = (100 / WIDTH, 100 / HEIGHT)

    def result(number: int, label: str, kind: str, **value: Any) -> dict[str, Any]:
        own = {"id": f"r{number}", "from_name": "label", "to_name": "image", "type": kind, "origin": "manual"}
        return size | {"value": value | {kind: [label]}} | own

    def scaled(box: Box) -> list[list[float]]:
        return [[x * percent[0], y * percent[1]] for x, y in corners(box)]

    x0, y0, x1, y1 = RECTANGLE
    rectangle = {"x": x0 * percent[0], "width": (x1 - x0) * percent[0], "rotation": 0}
    rectangle |= {"y": y0 * percent[1], "height": (y1 - y0) * percent[1]}
    cx, cy, rx, ry = ELLIPSE
    ellipse = {"x": cx * percent[0], "y": cy * percent[1], "rotation": 0}
    ellipse |= {"radiusX": rx * percent[0], "radiusY": ry * percent[1]}
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[OBJECTS["ring"][1]] = (255, 0, 130, 255)
    pixels[0, 0] = (255, 0, 130, 20)  # the edge of a stroke
    yield (
        "one.jpg",
        [
            result(1, "cat", "polygonlabels", points=scaled(SQUARE), closed=True),
            result(2, "cat", "rectanglelabels", **rectangle),
            result(3, "cat", "ellipselabels", **ellipse),
            result(4, "cat", "brushlabels", format="rle", rle=brush(pixels.ravel())),
            result(5, "dog", "keypointlabels", x=10, y=10, width=0.3),
            {"from_id": "r1", "to_id": "r2", "type": "relation", "direction": "right"},
        ],
    )
    yield "two.png", [result(6, "dog", "polygonlabels", points=scaled(OTHER), closed=True)]


def label_studio(folder: Path) -> Path:
    tasks = []
    for number, (name, result) in enumerate(studio_results(), 1):
        photograph(folder / "images" / f"1a2b3c4d-{name}")
        task = {"id": number, "file_upload": f"1a2b3c4d-{name}", "predictions": [], "project": 3, "meta": {}}
        annotation = {"id": number + 10, "completed_by": 1, "result": result, "was_cancelled": False}
        annotation |= {"ground_truth": False, "updated_at": "2024-03-09T22:16:08.728378Z", "task": number}
        image = f"/data/upload/3/1a2b3c4d-{name}"
        tasks.append(task | {"data": {"image": image}, "annotations": [annotation]})
    write_json(folder / "project-3-at-2024-03-09.json", tasks)
    return folder


def label_studio_min(folder: Path) -> Path:
    tasks = []
    for number, (name, result) in enumerate(studio_results(), 1):
        photograph(folder / "images" / name)  # as they were before the upload
        sizes = ("original_width", "original_height")
        regions = [r["value"] | {k: r[k] for k in sizes} for r in result if "value" in r]
        task = {"image": f"/data/upload/3/1a2b3c4d-{name}", "id": number, "label": regions, "annotator": 1}
        tasks.append(task | {"annotation_id": number, "updated_at": "2024-03-09T22:16:08Z", "lead_time": 4.2})
    write_json(folder / "project-3-min.json", tasks)
    return folder


# -- Supervisely ----------------------------------------------------------------------------------------


def supervisely(folder: Path) -> Path:
    def entry(number: int, title: str, kind: str, **more: Any) -> dict[str, Any]:
        base = {"id": number, "classId": 7, "description": "", "geometryType": kind, "labelerLogin": "alex"}
        return base | {"tags": [], "classTitle": title} | more

    def pixels(box: Box) -> list[list[int]]:  # corners are pixels that belong to the object
        return [[int(x) - (x == box[2]), int(y) - (y == box[3])] for x, y in corners(box)]

    def polygon(number: int, title: str, box: Box, *holes: Box, **more: Any) -> dict[str, Any]:
        points = {"exterior": pixels(box), "interior": [pixels(hole) for hole in holes]}
        return entry(number, title, "polygon", points=points, **more)

    mask = Image.fromarray(cut(OBJECTS["ring"][1], RING).astype(np.uint8), "L")
    mask.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    mask.save(file, "PNG", transparency=0, optimize=0)
    packed = base64.b64encode(zlib.compress(file.getvalue())).decode()
    rectangle = pixels(RECTANGLE)
    one = [
        polygon(1, "cat", SQUARE),
        entry(2, "cat", "rectangle", points={"exterior": [rectangle[0], rectangle[2]], "interior": []}),
        *(polygon(3 + n, "dog", part, instance="a1b2") for n, part in enumerate(PARTS)),
        entry(5, "cat", "bitmap", bitmap={"data": packed, "origin": [RING[0], RING[1]]}),
        entry(6, "dog", "point", points={"exterior": [[3, 3]], "interior": []}),
    ]
    for name, objects in (("one.jpg", one), ("two.png", [polygon(7, "dog", OTHER)])):
        photograph(folder / "pets/img" / name)
        content = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}}
        write_json(folder / "pets/ann" / f"{name}.json", content | {"objects": objects})
    classes = [
        {"title": title, "shape": "any", "color": colour, "geometry_config": {}, "id": number, "hotkey": ""}
        for number, (title, colour) in enumerate((("cat", "#F6FF00"), ("dog", "#00FF06")))
    ]
    write_json(folder / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    return folder


WRITERS = {
    "labelme": labelme,
    "labelme-xml": labelme_xml,
    "cvat": cvat,
    "via": via,
    "label-studio": label_studio,
    "supervisely": supervisely,
}
VARIANTS = {"via-1": via_1, "via-csv": via_csv, "label-studio-min": label_studio_min}
