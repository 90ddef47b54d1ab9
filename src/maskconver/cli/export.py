"""Write a model as one file for another runtime.

The file is run and compared with the model before it is kept: scores and masks to 1e-4 and the panoptic maps
pixel by pixel, or, with --quantize, within what the precision explains. With --output panoptic the merge is
in the file. Needs the extras train and export.

Example: maskconver export nuclei --to onnx --out nuclei.onnx
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from ..export.compare import Comparison

EXPORTED = (".onnx", ".tflite", ".pt2")


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver export`."""
    add = parser.add_argument
    add("model", type=str, help="a bundled name, a .safetensors file, or a run's folder")
    add("--to", type=Literal["onnx", "litert", "torch-export"], default="onnx", help="the format")
    add(
        "--out",
        type=str | None,
        default=None,
        help="the file to write; MODEL.onnx (.tflite, .pt2) here if left out",
    )
    add(
        "--size",
        type=int | None,
        nargs=2,
        default=None,
        metavar=("H", "W"),
        help="canvas the file takes, in pixels; the model's own by default",
    )
    add("--dynamic", action="store_true", help="take canvases of any size in steps of 32")
    add(
        "--quantize",
        type=Literal["none", "fp16", "int8-weights", "int8"],
        default="none",
        help="store weights in 16 or 8 bits; int8 also calculates in 8 bits",
    )
    add(
        "--calibrate",
        type=str | None,
        default=None,
        metavar="DIR",
        help="pictures to find the ranges of int8",
    )
    add(
        "--output",
        type=Literal["proposals", "panoptic"],
        default="proposals",
        help="what the file gives: scored masks, or with the merge inside the panoptic map",
    )
    add("--proposals", type=int | None, default=None, help="masks an image; the model's own by default")
    add("--hard-sigmoid", action="store_true", help="masks by relu6(x + 3) / 6, as the paper's mobile form")
    add("--uint8", action="store_true", help="take H×W×3 bytes; scaling, mean and std in the file")
    add(
        "--images", type=str | None, default=None, help="folder or glob of pictures to compare on, at most 32"
    )
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Runs `maskconver export`; 0 when the file was written."""
    from ..export.network import spread
    from ..io.images import read_image
    from ..io.sources import list_images
    from ..models.checkpoint import load

    if args.model.endswith(EXPORTED):
        raise ConfigError(f"{args.model} is an exported file already; export the model it was made from")
    suffix, export = _format(args)
    given = {"images": args.images, "calibration": args.calibrate}
    paths = {name: spread(list_images(source)) for name, source in given.items() if source}
    model = load(args.model)
    pictures = {name: [read_image(path) for path in found] for name, found in paths.items()}
    model.postprocess.hard_sigmoid = model.postprocess.hard_sigmoid or args.hard_sigmoid
    # A folder may have a point in its name, or be ".".
    out = Path(args.out or Path(args.model).resolve().name.removesuffix(".safetensors") + suffix)
    start = time.perf_counter()
    result = export(
        model,
        out,
        size=tuple(args.size) if args.size else None,
        proposals=args.proposals,
        uint8=args.uint8,
        output=args.output,
        **pictures,
    )
    seconds, size = time.perf_counter() - start, out.stat().st_size
    if args.json:
        figures = {"file": str(out), "bytes": size, "seconds": round(seconds, 2), **asdict(result)}
        print(json.dumps(figures, ensure_ascii=False))
    else:
        print(f"{out}: {size / 1e6:.2f} MB in {seconds:.1f} s; {result}")
    return 0


def _format(args: Namespace) -> tuple[str, Callable[..., Comparison]]:
    """The suffix of a format's files, and what writes one, with the options that only this format has.

    Raises:
        ConfigError: an option that the format does not have.
    """
    if args.to == "torch-export":
        if args.quantize != "none" or args.calibrate:
            raise ConfigError(
                "--to torch-export writes float32 weights only; leave out --quantize, --calibrate"
            )
        from ..export.torch_export import export_torch

        return ".pt2", partial(export_torch, dynamic=args.dynamic)
    from ..export.network import check_calibration

    check_calibration(args.quantize, args.calibrate)
    if args.to == "litert":
        if args.dynamic:
            raise ConfigError("a LiteRT file has one size; leave out --dynamic")
        from ..export.litert import export_litert

        return ".tflite", partial(export_litert, quantize=args.quantize)
    from ..export.onnx import export_onnx

    return ".onnx", partial(export_onnx, dynamic=args.dynamic, quantize=args.quantize)
