"""Inputs that are made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskconver.data.synth.write import write_dataset
from tests.data.conversion import tool_exports


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and a model, both small."""
    pytest.importorskip("maskconver.training.run", exc_type=ImportError)
    import maskconver as mc

    folder = tmp_path_factory.mktemp("inputs")
    data = folder / "data"
    write_dataset(data, "cells", 6, size=(64, 64), split="train")
    write_dataset(data, "cells", 2, size=(64, 64), split="val")
    (data / "labelme").mkdir()
    tool_exports.labelme(data / "labelme")
    network = {"filters": 16, "embedding_dim": 16, "proposals": 20, "input": {"size": (64, 64)}}
    categories = mc.Categories.from_json(
        [
            {"id": 1, "name": "nucleus", "isthing": 1, "color": [220, 60, 60]},
            {"id": 2, "name": "background", "isthing": 0, "color": [40, 40, 40]},
        ]
    )
    model = mc.create_model("maskconver_mobile_dense_512", categories=categories, **network)
    mc.save(model, folder / "model.safetensors")
    return data, folder / "model.safetensors"
