"""Writes a model as one file for another runtime; keeps the file only if its results are the model's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from ..core.config import InputConfig
from ..core.files import atomic_path
from ..errors import ConfigError, ExportError, first_line
from ..inference.exported import Exported
from ..inference.inputs import as_image
from ..inference.silence import quiet
from ..inference.tiles import AUTO_SIDE, LEAST_TILE
from ..io.sources import list_images
from ..models.base import SegmentationModel
from ..models.topk import operator_topk, stable_topk
from .compare import Comparison, compare, require_equal
from .litert import LiteRt
from .network import build, describe
from .onnx import Onnx
from .options import ExportOptions, Format
from .torch_export import TorchExport

FORMATS: dict[str, Format] = {form.name: form for form in (Onnx(), LiteRt(), TorchExport())}
LIMIT = 32  # images to calibrate or compare on; each takes a second or more
SLOW_MAPS = 200  # proposals from which a file with the post-processing inside takes minutes to make
SLOW_PROPOSALS = 1000  # the same of a file that gives proposals


class ExportWarning(UserWarning):
    """An export that will take long, or a file that will be slow."""


def export_model(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    to: str | None = None,
    *,
    options: ExportOptions | None = None,
    report: Callable[[str], None] | None = None,
    **changes: Any,
) -> Comparison:
    """Writes a model to one file, runs it, and keeps it only if its results are the model's.

    The file's input is `images`: 1×3×h×w float32, normalised (LiteRT: 1×h×w×3), or with `uint8` 1×h×w×3 uint8
    RGB. Its outputs are the fields of `Proposals`: `scores` 1×N float32, highest first, `labels` 1×N int64
    (LiteRT: int32) and `mask_logits` 1×N×h'×w' float32; or with `output="panoptic"` those of `CanvasMap` with
    a first dimension of 1; or with `output="semantic"` `class_scores` 1×C×h'×w' float32 (LiteRT: 1×h'×w'×C,
    with the metadata that MediaPipe's `ImageSegmenter` reads).

    Example:
        >>> import maskconver as mc
        >>> comparison = mc.export_model(mc.load("nuclei"), "nuclei.onnx", size=(64, 64))
        >>> mc.Predictor("nuclei.onnx").categories[0].name
        'nucleus'

    Args:
        model: takes RGB images; it is left unchanged.
        path: the file to write; an older one is replaced.
        to: `onnx`, `litert` (`.tflite`) or `torch-export` (`.pt2`); by the ending of `path` if left out.
        options: how the file is made; all defaults if left out.
        report: called with a few words before each step, as some steps take minutes.
        **changes: fields of `ExportOptions`, which replace those of `options`.

    Returns:
        How much the file's results differ from the model's.

    Raises:
        ConfigError: an option that does not exist, or does not fit the model or the format.
        ExportError: the model cannot be exported, or the file differs from it; `path` is then unchanged.
        MissingExtraError: a package that the format needs is not installed.

    Warns:
        ExportWarning: so many proposals that the export takes minutes.
    """
    form = format_of(path, to)
    options = _replaced(options or ExportOptions(), changes)
    options.check(form)
    description = describe(model, options, form)
    form.require_packages(options.quantize)
    say = report or (lambda text: None)
    # A file of any size is given no more of an image than a tile of prediction shows: memory is finite.
    most = None if description.size else max(round(AUTO_SIDE / description.input.scale), LEAST_TILE)
    calibration = _with_content(read_images(options.calibrate, description.input, most=most), "calibrate")
    images = read_images(options.images, description.input, most=most) or spread(calibration, 8)
    _warn_if_slow(description)
    # Quantised maps may differ in many pixels, so those of full precision are compared first.
    both = description.output == "panoptic" and options.quantize != "none"
    with atomic_path(path) as temporary:
        say(f"tracing the network for {form.title}")
        graph = traced(form, model, description)
        for precision in ("none", options.quantize) if both else (options.quantize,):
            current = replace(description, quantize=precision)
            if precision != "none":
                say(f"quantising to {precision}")
                graph = form.quantize(graph, current, calibration)
            form.write(graph, current, temporary)
            say("comparing the file with the model")
            result = compare(model, form.open(temporary), images)
            require_equal(result, current)
    return result


def format_of(path: str | os.PathLike[str], to: str | None = None) -> Format:
    """The format of a file.

    Args:
        path: the file.
        to: the format's name; by the ending of `path` if left out.

    Raises:
        ConfigError: no such format, or a path of another one's ending.
    """
    suffixes = {form.suffix: form for form in FORMATS.values()}
    if to is None:
        if Path(path).suffix not in suffixes:
            raise ConfigError(f"{path} must end in {' or '.join(suffixes)}, which names the format")
        return suffixes[Path(path).suffix]
    if to not in FORMATS:
        raise ConfigError(f'no format "{to}"; there is {", ".join(FORMATS)}')
    if Path(path).suffix != FORMATS[to].suffix:
        raise ConfigError(f'{path} does not end in "{FORMATS[to].suffix}", by which the file is known later')
    return FORMATS[to]


def traced(form: Format, model: SegmentationModel, description: Exported) -> Any:
    """The graph of a model in a format, in float32.

    Raises:
        ExportError: the format does not have one of the model's operators.
    """
    network = build(model, description, topk=operator_topk if form.ordered_topk else stable_topk)
    opset = model.family.limits.opset
    return trace(form, network, description, opset=opset, name=model.name or "the model")


def trace(form: Format, network: nn.Module, description: Exported, *, opset: int, name: str) -> Any:
    """As `Format.trace`, with whatever an exporter raises and prints in one line.

    Raises:
        ExportError: the network cannot be exported.
    """
    try:
        with torch.no_grad(), quiet():
            return form.trace(network, description, opset)
    except Exception as error:  # exporters have no common class of errors
        cause = first_line(error.__cause__ or error)
        raise ExportError(f"{name} cannot be exported to {form.title}: {cause}") from error


def spread(items: Sequence[Any], limit: int = LIMIT) -> list[Any]:
    """At most `limit` of them, from all over the list."""
    return [items[i * len(items) // limit] for i in range(limit)] if len(items) > limit else [*items]


def read_images(
    given: str | os.PathLike[str] | Sequence[Any] | None, config: InputConfig, *, most: int | None = None
) -> list[NDArray[Any]]:
    """What an option names, as a model takes it: H×W×C uint8 or uint16, at most `LIMIT` of them.

    Args:
        given: a folder or glob, or paths, arrays or Pillow images.
        config: of the model's input.
        most: of an image with longer sides, only the middle is returned; pixels.
    """
    form: dict[str, Any] = {"channels": config.channels, "bits": config.bits}
    form["white_level"] = config.white_level
    paths = list_images(os.fspath(given)) if isinstance(given, str | os.PathLike) else given or ()
    return [_middle(as_image(one, **form)[0], most) for one in spread(paths)]


def _middle(image: NDArray[Any], most: int | None) -> NDArray[Any]:
    """No more than `most` pixels of each side of an image, H×W×C."""
    if most is None or max(image.shape[:2]) <= most:
        return image
    top, left = (max(side - most, 0) // 2 for side in image.shape[:2])
    return image[top : top + most, left : left + most].copy()  # the rest is freed


def _with_content(images: list[NDArray[Any]], setting: str) -> list[NDArray[Any]]:
    """Without images of one value, of which no range of values can be learnt."""
    kept = [image for image in images if (image != image[:1, :1]).any()]
    if images and not kept:
        raise ConfigError(
            f"every image of `{setting}` is a single flat colour",
            fix="give images like those it will be used on",
        )
    if len(kept) < len(images):
        warnings.warn(
            f"`{setting}`: {len(images) - len(kept)} of {len(images)} images have one value in all pixels; "
            "they are left out",
            ExportWarning,
            stacklevel=4,
        )
    return kept


def _replaced(options: ExportOptions, changes: dict[str, Any]) -> ExportOptions:
    names = list(ExportOptions.__dataclass_fields__)
    if unknown := [name for name in changes if name not in names]:
        raise ConfigError(f"no export option {', '.join(unknown)}; there are {', '.join(names)}")
    return replace(options, **changes)


def _warn_if_slow(description: Exported) -> None:
    """Says before a long wait why it will be long, and what to do."""
    n, inside = description.proposals, description.output == "panoptic"
    if n <= (SLOW_MAPS if inside else SLOW_PROPOSALS):
        return
    what = "with the post-processing in the file" if inside else "in the file"
    warnings.warn(
        f"{n} proposals {what} take minutes to export and make a slow file; "
        f"if your images need fewer, set `proposals`, e.g. to {SLOW_MAPS // 2}",
        ExportWarning,
        stacklevel=3,
    )
