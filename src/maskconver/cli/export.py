"""Write a model as one file for another runtime.

Before the file is kept, it is run and compared with the model: scores and masks to 1e-4 and the panoptic maps
pixel by pixel, or, with --quantize, within the bounds of that precision. With --output panoptic the file
includes post-processing. Needs the extras train and export.

With --to web, --out is a folder of static files: a page that segments images in the browser, without a server
of its own. MODEL may then also be an ONNX file. That needs the extra onnx only, and so does a bundled model
without other options.

Example: maskconver export nuclei --to onnx --out nuclei.onnx
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from ..core.files import bundled_onnx
from ..errors import ConfigError
from .options import optional, stages

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver export`."""
    add = parser.add_argument
    add("model", type=str, help="bundled model name, folder of a training run, or .safetensors file")
    kinds = Literal["onnx", "litert", "torch-export", "web"]
    add("--to", type=kinds, default="onnx", help="format of the file, or web for a page")
    optional(
        parser,
        "--out",
        str,
        "file to write, for web a folder; MODEL.onnx (.tflite, .pt2, _web) in this folder by default",
    )
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
        "one size at a time; or batch,size; size if nothing follows",
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
        type=Literal["proposals", "panoptic", "semantic"],
        default="proposals",
        help="what the file gives: scored masks; the panoptic map, with post-processing in the file; or the "
        "score of every class at every pixel of the masks",
    )
    optional(parser, "--proposals", int, "number of masks per image; the model's own number by default")
    add(
        "--hard-sigmoid",
        action="store_true",
        help="compute mask probabilities as relu6(x + 3) / 6, as in the paper's mobile models",
    )
    add("--uint8", action="store_true", help="take H×W×3 bytes; the file normalises them")
    optional(parser, "--images", str, "folder or glob of images to compare on, at most 32")
    optional(
        parser,
        "--runtime",
        str,
        "for --to web: folder with onnxruntime-web, or fetch to download it from npm; the installed "
        "one by default",
    )
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Runs `maskconver export`; 0 when the file was written."""
    web = args.to == "web"
    parts = ("size", "dynamic", "quantize", "calibrate", "output", "proposals", "hard_sigmoid", "uint8")
    given = [
        name for name in (*parts, "images") if getattr(args, name) not in (None, False, "none", "proposals")
    ]
    if web and args.model.endswith(".onnx"):
        if given:
            raise ConfigError(
                f"{args.model} is an exported file already: leave out `{given[0]}`, or give its model"
            )
        return _site(args, args.model, time.perf_counter())
    if web and not given and (bundled := _without_torch(args.model)):
        return _site(args, bundled, time.perf_counter())
    if args.runtime and not web:
        raise ConfigError("`runtime` is for pages; give `to=web`, or leave it out")
    from ..export.driver import FORMATS, export_model, format_of
    from ..export.options import ExportOptions
    from ..models.checkpoint import load

    if args.model.endswith(tuple(form.suffix for form in FORMATS.values())):
        raise ConfigError(f"{args.model} is an exported file already; export the model it was made from")
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
    with ExitStack() as stack:
        if web:
            kind, out = "onnx", Path(stack.enter_context(TemporaryDirectory()), "model.onnx")
        else:
            kind, out = args.to, Path(args.out or _name(args.model) + FORMATS[args.to].suffix)
        options.check(format_of(out, kind))  # before the model is loaded
        model = load(args.model)
        start = time.perf_counter()
        with stages() as report:
            result = export_model(model, out, kind, options=options, report=report)
        if web:
            return _site(args, out, start)
        seconds, size = time.perf_counter() - start, out.stat().st_size
    if args.json:
        figures = {"file": str(out), "bytes": size, "seconds": round(seconds, 2), **asdict(result)}
        print(json.dumps(figures, ensure_ascii=False))
    else:
        print(f"{out}: {size / 1e6:.2f} MB in {seconds:.1f} s; {result}")
    return 0


def _without_torch(model: str) -> Path | None:
    """The ONNX file of a bundled model where there is no PyTorch to write another; None otherwise."""
    try:
        from ..models import checkpoint  # noqa: F401
    except ModuleNotFoundError:
        return bundled_onnx(model)
    return None


def _name(model: str) -> str:
    """Of a model, from its path; a folder may have a point in its name, or be "."."""
    return Path(model).resolve().name.removesuffix(".safetensors").removesuffix(".onnx")


def _site(args: Namespace, file: str | Path, start: float) -> int:
    """Writes the page of an ONNX file."""
    from ..serve.site import runtime_files, write_site

    name = _name(args.model)
    folder = Path(args.out or f"{name}_web")
    size = write_site(file, folder, name=name, runtime=runtime_files(args.runtime))
    seconds, weights = time.perf_counter() - start, Path(file).stat().st_size
    if args.json:
        figures = {"folder": str(folder), "bytes": size, "model_bytes": weights, "seconds": round(seconds, 2)}
        print(json.dumps(figures, ensure_ascii=False))
    else:
        print(f"{folder}: {size / 1e6:.1f} MB and the model, {weights / 1e6:.1f} MB, in {seconds:.1f} s")
        print(f"look at it: python -m http.server --directory {folder} --bind 127.0.0.1")
    return 0
