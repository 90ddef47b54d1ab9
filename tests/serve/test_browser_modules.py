"""The page's own merge and preprocessing give Python's results; run by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from maskconver.core.categories import Categories, Category
from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.polygons import ids_to_polygons
from maskconver.core.preprocess import prepare
from maskconver.core.proposals import Geometry, Proposals
from maskconver.core.segments import measure
from maskconver.merge import postprocess
from tests.node import NODE, call_all

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")
CASES = Path(__file__).parents[1] / "golden" / "cases"


def given(
    proposals: Proposals,
    config: PostprocessConfig,
    is_thing: Sequence[bool],
    size: tuple[int, int] | None = None,
) -> list[Any]:
    """The arguments of `postprocess` in merge.js."""
    masks, geometry = proposals.mask_logits[0], None
    if proposals.geometry:
        own = proposals.geometry[0]
        geometry = {"image": own.image_size, "canvas": own.canvas_size, "scale": own.scale}
    one = {
        "scores": proposals.scores[0],
        "labels": proposals.labels[0],
        "masks": masks.ravel(),
        "maskSize": masks.shape[1:],
        "geometry": geometry,
    }
    return [one, asdict(config), [bool(thing) for thing in is_thing], size]


def python(proposals: Proposals, config: PostprocessConfig, is_thing: Sequence[bool], **options: Any) -> Any:
    categories = Categories([Category(i, str(i), bool(t), (i, 0, 0)) for i, t in enumerate(is_thing)])
    return postprocess(proposals, config, categories, **options)[0]


def merge_cases() -> dict[str, list[Any]]:
    cases = {}
    for path in sorted((CASES / "maskconver").glob("merge_*.npz")):
        data = np.load(path)
        size = tuple(data["output_size"].tolist())
        config = PostprocessConfig(
            score_threshold=float(data["object_mask_threshold"]),
            overlap_threshold=float(data["overlap_threshold"]),
            min_area=float(data["small_area_threshold"]) / max(size) ** 2,
            hard_sigmoid=bool(data["hard_sigmoid"]),
        )
        geometry: tuple[Geometry, ...] = ()
        if "image_info" in data:
            image, canvas, scale, _ = (tuple(row) for row in data["image_info"].tolist())
            geometry = (Geometry((int(image[0]), int(image[1])), (int(canvas[0]), int(canvas[1])), scale),)
        masks = np.ascontiguousarray(data["mask_logits"].transpose(2, 0, 1))[None]
        labels = data["classes"].astype(np.int64)[None] - 1
        proposals = Proposals(data["scores"][None], labels, masks, geometry=geometry)
        cases[path.stem] = [proposals, config, data["is_thing"][1:].tolist(), size]
    return cases


# Thresholds of things and stuff, overlap, exponent of the mask score: of COCO, Cityscapes and ADE20K.
PUBLISHED = ((0.7, 0.5, 0.8, 1.0), (0.5, 0.3, 0.9, 0.0), (0.4, 0.4, 0.8, 1.0))


def kmax_cases() -> dict[str, list[Any]]:
    thing = [True, False, True, False, True, False]
    cases = {}
    for name in ("postprocess", "inference_odd", "inference_even"):
        arrays = np.load(CASES / "kmax" / f"{name}.npz")
        logits = arrays["class_logits"]
        values = np.exp(logits - logits.max(-1, keepdims=True))
        real = ((values / values.sum(-1, keepdims=True))[:, :-1]).astype(np.float32)
        geometry: tuple[Geometry, ...] = ()
        if "out_hw" in arrays:
            size, canvas = (tuple(arrays[k].tolist()) for k in ("out_hw", "input_hw"))
            geometry = (Geometry(size, canvas, (max(canvas) / max(size),) * 2),)
        proposals = Proposals(
            real.max(-1)[None], real.argmax(-1)[None], arrays["mask_logits"][None], geometry=geometry
        )
        for things, stuff, overlap, exponent in (
            (0.7, 0.5, 0.8, 1.0),
            (0.5, 0.3, 0.9, 0.0),
            (0.4, 0.4, 0.8, 1),
        ):
            config = PostprocessConfig(
                rule="kmax", score_threshold=things, stuff_threshold=stuff, overlap_threshold=overlap,
                mask_exponent=exponent, mask_threshold=0.4, min_area=0.0,
            )  # fmt: skip
            cases[f"{name} {things}"] = [proposals, config, thing, None]
    return cases


def blobs(seed: int, n: int = 40) -> Proposals:
    """Round masks of any size, as smooth as a network's, some of them twice."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :48].astype(np.float32)
    centre, radius = random.uniform(0, 44, (n, 2)), random.uniform(2, 12, n)
    centre[n // 2 :: 4], radius[n // 2 :: 4] = centre[: n // 2 : 4], radius[: n // 2 : 4]
    distance = np.hypot(y - centre[:, 0, None, None], x - centre[:, 1, None, None])
    masks = (1.5 * (radius[:, None, None] - distance) + random.normal(0, 0.5, (n, 40, 48))).astype(np.float32)
    scores = random.uniform(0, 1, n).astype(np.float32)
    geometry = (Geometry((137, 181), (160, 192), (1.0, 1.0)),)
    return Proposals(scores[None], random.integers(-1, 4, n)[None], masks[None], geometry=geometry)


OPTIONS = {
    "published": {},
    "pixel threshold": {"mask_threshold": 0.5},
    "reassigned": {"reassign": True, "overlap_threshold": 0.8},
    "as the bundled nuclei": {
        "score_threshold": 0.4, "overlap_threshold": 0.5, "min_area": 0.0, "mask_threshold": 0.5,
        "nms_iou": 0.3, "reassign": True, "maskness": 1.0, "fill_label": 3,
    },
    "most probable": {
        "score_threshold": 0.0, "overlap_threshold": 0.0, "min_area": 0.0, "class_exponent": 0.0,
    },
    "squared scores": {"class_exponent": 2.0, "reassign": True, "overlap_threshold": 0.8},
    "hard": {"hard_sigmoid": True, "mask_threshold": 0.4},
    "filled": {"fill_label": 2, "score_threshold": 0.7},
    "filled only": {"fill_label": 3, "fill_only": True, "maskness": 1.0, "score_threshold": 0.2},
    "filled only, kmax": {"rule": "kmax", "fill_label": 3, "fill_only": True, "score_threshold": 0.3},
    "nothing left": {"score_threshold": 1.0},
    "kmax": {"rule": "kmax", "score_threshold": 0.3, "mask_threshold": 0.4, "stuff_min_area": 0.01},
    "kmax sigmoid": {
        "rule": "kmax", "mask_activation": "sigmoid", "mask_threshold": 0.5, "mask_exponent": 0.5,
    },
}  # fmt: skip


def blob_cases() -> dict[str, list[Any]]:
    thing = [True, True, False, False]
    return {
        f"{name} {seed}": [blobs(seed), replace(PostprocessConfig(min_area=0.0005), **options), thing, None]
        for name, options in OPTIONS.items()
        for seed in range(3)
    }


@pytest.mark.parametrize("cases", [merge_cases, kmax_cases, blob_cases])
def test_no_pixel_of_the_merge_differs(cases: Any) -> None:
    named = cases()
    answers = call_all("merge.js", "postprocess", [given(*case) for case in named.values()])
    for (name, (proposals, config, is_thing, size)), found in zip(named.items(), answers, strict=True):
        own = python(proposals, config, is_thing, output_size=size)
        answer = found["answer"]
        assert answer["size"] == list(own.ids.shape), name
        assert np.count_nonzero(answer["ids"].reshape(own.ids.shape) != own.ids) == 0, name
        assert answer["labels"] == [s.label for s in own], name
        np.testing.assert_allclose(answer["scores"], [s.score for s in own], rtol=1e-6, err_msg=name)


def image(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 200, shape, np.uint8)


@pytest.mark.parametrize(
    ("size", "config"),
    [
        ((50, 71), InputConfig(size=(64, 96))),
        ((300, 211), InputConfig(size=(96, 64))),
        ((64, 95), InputConfig(size=(65, 96))),
        ((45, 77), InputConfig(mode="native", scale=2.0, stretch="percentile")),
        ((45, 77), InputConfig(mode="native", scale=0.5, multiple=16)),
        ((30, 40), InputConfig(mode="native", mean=(0.5,), std=(0.25,))),
    ],
)
def test_preprocessing_is_pythons(size: tuple[int, int], config: InputConfig) -> None:
    pixels = image((*size, config.channels))
    canvas, geometry = prepare(pixels, config)
    (found,) = call_all("preprocess.js", "prepare", [[pixels.ravel(), size, asdict(config)]])
    answer = found["answer"]
    assert answer["dims"] == [1, *canvas.shape]
    np.testing.assert_allclose(answer["data"].reshape(canvas.shape), canvas, atol=1e-6)
    assert answer["geometry"]["image"] == list(geometry.image_size)
    assert answer["geometry"]["scale"] == list(geometry.scale)


@pytest.mark.parametrize("values", [[7, 7, 7], [0, 0, 0], [0] * 2000 + [255], list(range(256))])
def test_the_stretch_is_pythons(values: list[int]) -> None:
    config = InputConfig(mode="native", stretch="percentile")
    pixels = np.repeat(np.array(values, np.uint8)[None, :, None], 3, 2)
    (found,) = call_all("preprocess.js", "prepare", [[pixels.ravel(), pixels.shape[:2], asdict(config)]])
    canvas = prepare(pixels, config)[0]
    np.testing.assert_allclose(found["answer"]["data"].reshape(canvas.shape), canvas, atol=1e-6)


def test_grey_is_pillows() -> None:
    from PIL import Image

    pixels = image((20, 30, 4))
    pixels[..., 3] = 255
    (found,) = call_all("preprocess.js", "channelsOf", [[pixels.ravel(), 1]])
    assert np.array_equal(
        found["answer"].reshape(20, 30), np.asarray(Image.fromarray(pixels[..., :3]).convert("L"))
    )


def random_map(seed: int) -> NDArray[np.int32]:
    """Few ids, pixel by pixel: holes in holes, and rings that touch themselves."""
    random = np.random.default_rng(seed)
    return random.choice(4, (23, 31), p=(0.3, 0.5, 0.15, 0.05)).astype(np.int32)


def rings(polygon: list[Any]) -> list[Any]:
    """A polygon's rings, each begun at its least corner, in an order."""
    found = []
    for ring in polygon:
        corners = [tuple(corner) for corner in ring]
        at = corners.index(min(corners))
        found.append(corners[at:] + corners[:at])
    return [found[0], *sorted(found[1:])]


def test_polygons_are_pythons() -> None:
    maps = [random_map(seed) for seed in range(8)]
    code = [[{"ids": ids.ravel(), "size": ids.shape, "rows": rows(ids)}, CATEGORIES] for ids in maps]
    for ids, found in zip(maps, call_all("formats.js", "features", code)):
        own = ids_to_polygons(ids)
        for feature in found["answer"]:
            geometry = feature["geometry"]
            parts = (
                geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
            )
            assert all(ring[0] == ring[-1] for part in parts for ring in part)
            got = [rings([ring[:-1] for ring in part]) for part in parts]
            number = feature["properties"]["measurements"]["id"]
            want = [
                rings([outer.tolist(), *(hole.tolist() for hole in holes)]) for outer, holes in own[number]
            ]
            assert sorted(got) == sorted(want)


CATEGORIES = [{"id": 10 + i, "name": f"a, {i}", "isthing": i % 2, "color": [i, i, i]} for i in range(3)]


def rows(ids: NDArray[np.int32]) -> list[dict[str, Any]]:
    one = {"ids": ids.ravel(), "size": ids.shape, "labels": [0, 1, 2], "scores": [0.9, 0.5, 0.25]}
    (found,) = call_all("formats.js", "rowsOf", [[one, CATEGORIES]])
    return found["answer"]


def test_areas_and_boxes_are_pythons() -> None:
    ids = random_map(3)
    areas, boxes = measure(ids, np.array([1, 2, 3]))
    found = rows(ids)
    assert [row["area"] for row in found] == areas.tolist()
    assert [row["bbox"] for row in found] == boxes.tolist()
    assert [row["thing"] for row in found] == [False, True, False]
