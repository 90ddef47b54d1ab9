"""Exported files, made once a run: an export takes seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import maskconver as mc
from maskconver.core.preprocess import prepare
from maskconver.data.synth.write import synthesize
from maskconver.export import driver
from maskconver.export.compare import Comparison
from maskconver.export.options import Format
from maskconver.inference.exported import Exported
from maskconver.io.images import read_image
from maskconver.models.base import SegmentationModel
from tests.conftest import SHARED

SCRIPT = Path(__file__).parents[2] / "examples" / "device.py"


def lively(name: str, **changes: Any) -> SegmentationModel:
    """A model with random weights whose heads say something: their norms fit generated images."""
    torch.manual_seed(0)
    model = mc.create_model(name, **changes).eval()
    for head in (model.class_head, model.embedding_head, model.mask_head):
        torch.nn.init.normal_(head.out.weight, std=0.02)
        for norm in head.train().modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = None  # the statistics become those of the batch
    size = model.input.size
    images = [synthesize(style, size, i).image for i, style in enumerate(["scenes", "cells"] * 2)]
    with torch.no_grad():
        model(torch.from_numpy(np.stack([prepare(image, model.input)[0] for image in images])))
    return model.eval()


def nuclei() -> SegmentationModel:
    """The bundled model with a network input of one size."""
    model = mc.load("nuclei")
    model.config.input = replace(model.input, mode="fit", size=(512, 512))
    return model


class Models(dict[str, SegmentationModel]):
    """The models that are exported, by name; made when first asked for."""

    def __missing__(self, name: str) -> SegmentationModel:
        small: dict[str, Any] = {"input": {"size": (96, 128)}}
        self[name] = {
            "nuclei": nuclei,
            "mobile": lambda: lively("maskconver_mobile_256", **small),
            "mobile 256": lambda: lively("maskconver_mobile_256"),
            "mobile semantic": lambda: lively(
                "maskconver_mobile_256",
                stuff="semantic",
                agreement=0.5,
                categories=mc.Categories.coco(),
                proposals=90,
                **small,
            ),
            "mobile 640": lambda: lively("maskconver_mobile_640"),
        }[name]()
        return self[name]


@pytest.fixture(scope="session")
def models() -> Models:
    """See `Models`."""
    return Models()


@pytest.fixture(scope="session")
def images() -> dict[str, list[NDArray[np.uint8]]]:
    """Real images for each model where there are any here, otherwise generated ones."""
    folders = {"nuclei": "dsb2018-nuclei/images/val", "mobile": "coco-panoptic-150/images"}
    found = {name: sorted((SHARED / "data" / folder).rglob("*.*g")) for name, folder in folders.items()}
    styles = {"nuclei": "cells", "mobile": "scenes"}
    return {
        name: [read_image(path) for path in paths[:: len(paths) // 12 or 1]]
        or [synthesize(styles[name], (160, 200), i).image for i in range(12)]
        for name, paths in found.items()
    }


@pytest.fixture(scope="session", autouse=True)
def same_graph_in_all_precisions() -> Iterator[None]:
    """Drawing the graph is most of an export, and quantising comes after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "traced", remembering(driver.traced))
        yield


def remembering(
    trace: Callable[[Format, SegmentationModel, Exported], Any],
) -> Callable[[Format, SegmentationModel, Exported], Any]:
    """Copies of what was traced for the same model and file."""
    traced: dict[Any, Any] = {}

    def remembered(form: Format, model: SegmentationModel, description: Exported) -> Any:
        key = form.name, model, str(replace(description, quantize="none"))
        if key not in traced:
            traced[key] = trace(form, model, description)
        return copy.deepcopy(traced[key])

    return remembered


@pytest.fixture(scope="session")
def exported(
    models: dict[str, SegmentationModel],
    images: dict[str, list[NDArray[np.uint8]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Path, Comparison]]:
    """Exports a model by name with options; returns file and comparison, the same ones when asked again.

    With `real`, it is compared on two of the model's images; `int8` takes the others for its ranges.
    """
    folder = tmp_path_factory.mktemp("exported")
    done: dict[tuple[Any, ...], tuple[Path, Comparison]] = {}

    def export(name: str, to: str = "onnx", *, real: bool = False, **options: Any) -> tuple[Path, Comparison]:
        key = (name, to, real, *sorted(options.items()))
        if key not in done:
            own = images[name.partition(" ")[0]]
            if options.get("quantize") == "int8":
                options["calibrate"] = own[2:]
            if real:
                options["images"] = own[:2]
            path = folder / f"{len(done)}{driver.FORMATS[to].suffix}"
            done[key] = path, mc.export_model(models[name], path, **options)
        return done[key]

    return export
