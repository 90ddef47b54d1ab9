"""Write a model as one file for another runtime.

Before the file is kept, it is run and compared with the model: scores and masks to 1e-4 and the panoptic maps
pixel by pixel, or, with --quantize, within the bounds of that precision. With --output panoptic the file
includes post-processing. Needs the extras train and export.

Example: maskconver export nuclei --to onnx --out nuclei.onnx
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from .options import optional, stages

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver export`."""
    add = parser.add_argument
    add("model", type=str, help="bundled model name, folder of a training run, or .safetensors file")
    add("--to", type=Literal["onnx", "litert", "torch-export"], default="onnx", help="format of the file")
    optional(parser, "--out", str, "file to write; MODEL.onnx (.tflite, .pt2) in this folder by default")
    optional(
        parser,
        "--size",
        int,
        "network input of the file, in pixels; the model's own by default",
        nargs=2,
        metavar=("H", "W"),
    )
    optional(
        parser,
        "--dynamic",
        str,
        "what the file leaves open: size, images of any size in steps of 32 pixels; batch, several images of "
        "one size at a time; or batch,size; size by default where nothing follows",
        nargs="?",
        const="size",
    )
    add(
        "--quantize",
        type=Literal["none", "fp16", "int8-weights", "int8"],
        default="none",
        help="store weights in 16 or 8 bits; int8 also computes in 8 bits",
    )
    optional(parser, "--calibrate", str, "images on which int8 measures its ranges", metavar="DIR")
    add(
        "--output",
        type=Literal["proposals", "panoptic"],
        default="proposals",
        help="what the file gives: scored masks, or the panoptic map, with post-processing in the file",
    )
    optional(parser, "--proposals", int, "number of masks per image; the model's own number by default")
    add(
        "--hard-sigmoid",
        action="store_true",
        help="mask probabilities by relu6(x + 3) / 6, as in the paper's mobile models",
    )
    add("--uint8", action="store_true", help="take H×W×3 bytes; the file normalises them")
    optional(parser, "--images", str, "folder or glob of images to compare on, at most 32")
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Runs `maskconver export`; 0 when the file was written."""
    from ..export.driver import FORMATS, export_model, format_of
    from ..export.options import ExportOptions
    from ..models.checkpoint import load

    if args.model.endswith(tuple(form.suffix for form in FORMATS.values())):
        raise ConfigError(f"{args.model} is an exported file already; export the model it was made from")
    # A folder may have a point in its name, or be ".".
    name = Path(args.model).resolve().name.removesuffix(".safetensors")
    out = Path(args.out or name + FORMATS[args.to].suffix)
    options = ExportOptions(
        size=tuple(args.size) if args.size else None,
        dynamic=args.dynamic or False,
        proposals=args.proposals,
        quantize=args.quantize,
        uint8=args.uint8,
        output=args.output,
        hard_sigmoid=args.hard_sigmoid,
        calibrate=args.calibrate,
        images=args.images,
    )
    options.check(format_of(out, args.to))  # before the model is loaded
    model = load(args.model)
    start = time.perf_counter()
    with stages() as report:
        result = export_model(model, out, args.to, options=options, report=report)
    seconds, size = time.perf_counter() - start, out.stat().st_size
    if args.json:
        figures = {"file": str(out), "bytes": size, "seconds": round(seconds, 2), **asdict(result)}
        print(json.dumps(figures, ensure_ascii=False))
    else:
        print(f"{out}: {size / 1e6:.2f} MB in {seconds:.1f} s; {result}")
    return 0
