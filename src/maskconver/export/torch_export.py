"""Writes a model as a `.pt2` file of torch.export: a graph that PyTorch runs without this package."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.files import atomic_path
from ..errors import ConfigError, ExportError, first_line
from ..inference.exported import KEY, Output
from ..inference.torch import TorchExportRuntime
from ..models.registry import Model
from ..models.topk import stable_topk
from .compare import Comparison, compare, compare_panoptic, require_equal
from .network import any_size, describe, example, network


def export_torch(
    model: Model,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    proposals: int | None = None,
    uint8: bool = False,
    output: Output = "proposals",
    images: Sequence[NDArray[np.uint8]] | None = None,
) -> Comparison:
    """Writes a model to one `.pt2` file, runs it, and keeps it only if it answers as the model does.

    Args:
        model: any of RGB images; unchanged. kMaX-DeepLab and ReMaX with one size and all their queries.
        path: ends in `.pt2`; an older file is replaced.
        size, dynamic, proposals, uint8, output, images: as in `export_onnx`.

    Returns:
        How much the file's answers differ from the model's.

    Raises:
        ConfigError: an option that does not fit the model.
        ExportError: the model cannot be exported, or the file differs from it; `path` is then as it was.
    """
    description = describe(model, size, dynamic, proposals, "none", uint8, output, kmax=True)
    if Path(path).suffix != ".pt2":
        raise ConfigError(f'{path} does not end in ".pt2", by which the file is known later')
    training, device = model.training, next(model.parameters()).device
    with atomic_path(path) as temporary:
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    network(model, description, topk=stable_topk),
                    (example(description),),
                    dynamic_shapes=None if description.size else (any_size(description),),
                )
                torch.export.save(program, temporary, extra_files={KEY: description.to_json()})
        except Exception as error:  # whatever torch.export raises, the model is one it cannot export
            cause = first_line(error)
            raise ExportError(f"{model.name or 'the model'} cannot be exported: {cause}") from error
        finally:
            model.to(device).train(training)
        check = compare_panoptic if output == "panoptic" else compare
        result = check(model, TorchExportRuntime(temporary, "cpu"), images)
        require_equal(result, "none")
    return result
