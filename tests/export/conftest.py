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

import maskconver as mc
from maskconver.data.synth import synthesize
from maskconver.export import onnx as onnx_export
from maskconver.export.compare import Comparison
from maskconver.export.onnx import export_onnx
from maskconver.exported import Exported
from maskconver.models.registry import Model
from maskconver.preprocess import prepare


def lively(name: str, **changes: Any) -> Model:
    """A model with random weights whose heads say something: their norms fit generated pictures."""
    torch.manual_seed(0)
    model = mc.create_model(name, **changes).eval()
    for head in (model.class_head, model.embedding_head, model.mask_head):
        torch.nn.init.normal_(head.out.weight, std=0.02)
        for norm in head.train().modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = None  # the statistics become those of the batch
    size = model.input.size
    pictures = [synthesize(style, size, i).image for i, style in enumerate(["scenes", "cells"] * 2)]
    with torch.no_grad():
        model(torch.from_numpy(np.stack([prepare(picture, model.input)[0] for picture in pictures])))
    return model.eval()


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    """The models that are exported, by name."""
    return {
        "nuclei": mc.load("nuclei"),
        "mobile": lively("maskconver_mobile_256", input={"size": (96, 128)}),
    }


@pytest.fixture(scope="session", autouse=True)
def same_graph_in_all_precisions() -> Iterator[None]:
    """Drawing the graph is most of an export, and quantising comes after it."""
    draw, drawn = onnx_export._graph, {}

    def remembered(model: Model, description: Exported) -> Any:
        key = model, str(replace(description, quantize="none"))
        if key not in drawn:
            drawn[key] = draw(model, description)
        return copy.deepcopy(drawn[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_graph", remembered)
        yield


@pytest.fixture(scope="session")
def exported(
    models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Comparison]]:
    """Exports a model by name with options; returns file and comparison, the same ones when asked again."""
    folder = tmp_path_factory.mktemp("exported")
    done: dict[tuple[Any, ...], tuple[Path, Comparison]] = {}

    def export(name: str, **options: Any) -> tuple[Path, Comparison]:
        key = (name, *sorted(options.items()))
        if key not in done:
            path = folder / f"{len(done)}.onnx"
            done[key] = path, export_onnx(models[name], path, **options)
        return done[key]

    return export
