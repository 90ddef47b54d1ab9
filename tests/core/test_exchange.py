"""A segmentation in other programs' forms: exact polygons, codes and measurements of every segment."""

import builtins
import json
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maskconver.core.categories import Categories, Category
from maskconver.core.exchange import table
from maskconver.core.segmentation import Segmentation
from maskconver.errors import DataError, MaskconverError

CATEGORIES = Categories(
    [Category(7, "cell", True, (220, 20, 60)), Category(9, "ground", False, (0, 120, 220))]
)


def scene(**changes) -> Segmentation:
    """A ring around an island, two pixels that touch at a corner, ground, and a segment without pixels."""
    ids = np.zeros((12, 16), np.int32)
    ids[1:8, 1:8], ids[2:7, 2:7], ids[4, 4] = 3, 0, 3
    ids[9, 9] = ids[10, 10] = 70_000
    ids[:, 13:] = 5
    values = {"labels": [0, 0, 1, 0], "segment_ids": [3, 70_000, 5, 9], "scores": [0.9, 0.8, 0.7, 0.6]}
    return Segmentation.from_ids(ids, CATEGORIES, **(values | changes))


def measured(seg, **options):
    return table(seg.ids, seg.segments, **options)


def drawn(geometry, size) -> np.ndarray:
    """The pixels whose centres lie in a geometry, drawn four times as large by Pillow."""
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    mask = np.zeros(size, bool)
    for rings in parts:
        for ring in rings:
            canvas = Image.new("1", (4 * size[1] + 4, 4 * size[0] + 4))
            ImageDraw.Draw(canvas).polygon([(4 * x, 4 * y) for x, y in ring], fill=1)
            mask ^= np.asarray(canvas)[2 : 4 * size[0] : 4, 2 : 4 * size[1] : 4]
    return mask


def test_the_polygons_of_geojson_are_the_masks():
    seg = scene()
    content = json.loads(json.dumps(seg.to_geojson(pixel_size=0.5)))
    assert content["type"] == "FeatureCollection"
    assert [f["properties"]["measurements"]["id"] for f in content["features"]] == [3, 70_000, 5]
    for feature in content["features"]:
        number = feature["properties"]["measurements"]["id"]
        assert (drawn(feature["geometry"], seg.ids.shape) == seg.mask(number)).all()
        parts = feature["geometry"]["coordinates"]
        for ring in parts if feature["geometry"]["type"] == "Polygon" else [r for p in parts for r in p]:
            assert ring[0] == ring[-1]
    first, _, last = (f["properties"] for f in content["features"])
    assert first["objectType"] == "detection" and last["objectType"] == "annotation"
    assert first["classification"] == {"name": "cell", "color": [220, 20, 60]}
    assert first["measurements"]["score"] == 0.9 and first["measurements"]["area_physical"] == 25 / 4


def test_compressed_codes_decode_to_the_masks_with_the_library():
    mask = pytest.importorskip("hotcoco").mask
    rng = np.random.default_rng(0)
    ids = np.kron(rng.integers(0, 5, (20, 30)), np.ones((7, 9), int))
    seg = Segmentation.from_ids(ids, CATEGORIES, labels=[0, 0, 1, 0])
    for row in seg.to_coco(rle=True)["segments_info"]:
        assert isinstance(row["segmentation"]["counts"], str)
        assert (mask.decode(row["segmentation"]).astype(bool) == seg.mask(row["id"])).all()
        assert json.dumps(row)
    assert "segmentation" not in seg.to_coco()["segments_info"][0]


def test_a_label_image_holds_the_ids_of_things():
    seg = scene()
    assert np.unique(seg.to_labels()).tolist() == [0, 3, 70_000]
    assert (seg.to_labels(things=None) == seg.ids).all()


def test_measurements_are_those_of_the_pixels():
    seg, rng = scene(), np.random.default_rng(0)
    values = rng.integers(0, 60_000, (*seg.ids.shape, 2)).astype(np.uint16)
    columns = measured(seg, intensity=values, pixel_size=0.25)
    for i, s in enumerate(seg.segments[:3]):
        ys, xs = np.nonzero(seg.mask(s.id))
        assert columns["id"][i] == s.id and columns["area"][i] == len(xs)
        assert columns["centroid_x"][i] == pytest.approx(xs.mean() + 0.5)
        assert columns["centroid_y"][i] == pytest.approx(ys.mean() + 0.5)
        assert columns["mean_intensity_1"][i] == pytest.approx(values[ys, xs, 1].mean())
        assert columns["area_physical"][i] == len(xs) / 16
        assert columns["bbox_width_physical"][i] == s.bbox[2] / 4
    assert columns["area"][3] == 0 and np.isnan(columns["centroid_x"][3])


def test_no_segments_no_rows():
    seg = Segmentation.from_ids(np.zeros((3, 4), int), CATEGORIES, labels=[])
    assert all(len(column) == 0 for column in measured(seg, intensity=np.ones((3, 4))).values())
    assert seg.to_geojson()["features"] == []


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(DataError, match="shape"):
        measured(scene(), intensity=np.ones((3, 4)))
    with pytest.raises(DataError, match="pixel_size"):
        measured(scene(), pixel_size=0)
    with pytest.raises(DataError, match="no image"):
        scene().brightness()


def test_thousands_of_objects_take_well_under_a_second():
    ids = np.kron(np.arange(1, 3601).reshape(60, 60), np.ones((20, 20), int)).astype(np.int32)
    seg = Segmentation.from_ids(ids, CATEGORIES, labels=np.zeros(3600, int))
    start = time.process_time()
    seg.to_coco(rle=True), measured(seg, intensity=ids), seg.to_geojson()
    assert time.process_time() - start < 3


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_a_missing_package_is_named_with_its_command(monkeypatch, package):
    real = builtins.__import__

    def refuse(name, *args, **more):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(name=package)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MaskconverError, match=f"pip install {package}$"):
        scene().to_dataframe() if package == "pandas" else scene().to_supervision()


def test_supervision_gets_boxes_masks_scores_and_names(monkeypatch):
    try:
        import supervision  # noqa: F401
    except ModuleNotFoundError:
        stub = types.SimpleNamespace(Detections=lambda **fields: types.SimpleNamespace(**fields))
        monkeypatch.setitem(sys.modules, "supervision", stub)
    seg = scene()
    found = seg.to_supervision()
    assert found.xyxy.tolist() == [[1, 1, 8, 8], [9, 9, 11, 11], [13, 0, 16, 12]]
    assert [(m == seg.mask(n)).all() for m, n in zip(found.mask, found.data["segment_id"])] == [True] * 3
    assert found.class_id.tolist() == [0, 0, 1] and found.data["class_name"].tolist()[2] == "ground"
    assert found.confidence[0] == np.float32(0.9)


def test_a_data_frame_has_a_row_for_each_segment():
    pytest.importorskip("pandas")
    image = np.full((12, 16, 3), 90, np.uint8)
    frame = scene(image=image).to_dataframe(intensity=True)
    assert frame["class"].tolist() == ["cell", "cell", "ground", "cell"]
    assert frame["mean_intensity"].tolist()[:3] == [90, 90, 90]
