"""Exported files end to end: ours, the original with its merge in the graph, and two transformers.

The files are made first (minutes) and kept; then everything is timed in turn, round by round.

Run: .venv/bin/python benchmarks/export.py --model runs/overfit100/last.safetensors --images my_data/images
     .venv/bin/python benchmarks/export.py --model facade --images FOLDER --kinds litert --parts sizes
Needs the extras train, export and litert, and transformers.
"""

from __future__ import annotations

import copy
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from harness import SHARED, arguments, fresh, in_turn, machine, medians, peak, table

warnings.filterwarnings("ignore")
SIZES = (256, 384, 640)
PROPOSALS = (100, 50, 20, 15, 10)
PAUSE = 0.03  # seconds before a call, in which the threads of the one before stop waiting for work
THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))
NEEDED = {"onnx": ("onnxscript", "onnxruntime"), "litert": ("litert_torch", "ai_edge_litert")}
KINDS = {"onnx": ".onnx", "litert": ".tflite"}
# The papers' figures on a Pixel 6 CPU, output at input size: milliseconds, and without post-processing.
PAPER_SIZES = {256: (46.9, 33.49), 384: (117.1, None), 640: (347.9, 244.5)}
PAPER_PROPOSALS = {100: 66.8, 50: 46.9, 20: 40.7, 15: 39.9, 10: 36.6}


def original_merge(config: Any, is_thing: Any, size: int) -> Any:
    """The reference's merge in its plain form: N maps of full size, resized, then one-hot (facts: §6, §9).

    Gives category and instance maps.
    """
    import torch
    import torch.nn.functional as F

    class Original(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("is_thing", torch.from_numpy(is_thing).int())

        def forward(self, scores: Any, labels: Any, logits: Any) -> tuple[Any, Any]:
            score, label = scores[0], labels[0].int()
            valid = score > config.score_threshold
            score = score * valid
            masks = F.interpolate(logits, size=(size, size), mode="bilinear")[0].sigmoid()
            score, order = score.topk(len(score))
            masks, label, valid = masks.index_select(0, order), label[order], valid[order]
            masks = masks.permute(1, 2, 0) * valid
            won = ((masks * score).argmax(-1)[..., None] == torch.arange(len(score))).float()  # one-hot
            own_area, visible = (masks > 0.5).float().sum((0, 1)), won.sum((0, 1))
            smallest = config.min_area * size**2
            kept = (visible > smallest) & (own_area > 0) & (visible > config.overlap_threshold * own_area)
            kept = (kept & valid).int()
            won = won.int()
            rank = torch.arange(1, len(score) + 1, dtype=torch.int32)
            category = (won * (kept * (label + 1))).sum(-1)
            instance = (won * (kept * rank * self.is_thing[label.long()])).sum(-1)
            return category, instance

    return Original().eval()


def make(
    kind: str, folder: Path, model_path: str, images: list[Any], sizes: list[int], parts: list[str]
) -> None:
    """Every file of one runtime that is not there yet."""
    import torch

    from maskconver.export.panoptic import PanopticMerge
    from maskconver.models.checkpoint import load
    from maskconver.models.maskconver.optimize import Folded

    logging.disable(logging.WARNING)
    model, suffix = load(model_path), KINDS[kind]
    plain = Folded(model, copy.deepcopy(model))  # as the reference runs it: every map whole, nothing folded
    from maskconver.export.driver import export_model as export

    def missing(name: str) -> Path | None:
        path = folder / f"{name}{suffix}"
        print(f"{time.strftime('%X')} {path.name}", flush=True)
        return None if path.exists() else path

    def convert(module: Any, example: Any, path: Path) -> None:
        if kind == "onnx":
            names = ["scores", "labels", "mask_logits"]
            program = torch.onnx.export(
                module, example, dynamo=True, verbose=False, opset_version=18, input_names=names
            )
            path.write_bytes(program.model_proto.SerializeToString())
        else:
            import litert_torch

            path.write_bytes(litert_torch.convert(module, example).model_content())

    for size in sizes[::-1]:
        if path := missing(f"network_{size}"):
            export(model, path, size=(size, size), proposals=50, images=images[:1])
        if path := missing(f"plain_{size}"):
            export(plain, path, size=(size, size), proposals=50, images=images[:1])
        with torch.inference_mode():
            mask = model.eval().predict(torch.zeros(1, 3, size, size), 50).mask_logits.clone()
        example = (
            torch.rand(1, 50),
            torch.zeros(1, 50, dtype=torch.int64 if kind == "onnx" else torch.int32),
            mask,
        )
        merge = replace(model.postprocess, min_area=256 / 640**2)
        if path := missing(f"merge_{size}"):
            ours = PanopticMerge(merge, model.categories, mask.shape[2:], (size, size)).eval()
            convert(ours, example, path)
        if path := missing(f"original_{size}"):
            convert(original_merge(merge, model.categories.is_thing, size), example, path)
    for size in sizes:
        if path := missing(f"int8_{size}"):
            options = {"quantize": "int8", "calibrate": images[4:12], "images": images[:1]}
            export(model, path, size=(size, size), proposals=50, **options)
    if kind == "onnx":
        for count in PROPOSALS if "proposals" in parts else ():
            if count != 50 and (path := missing(f"network_256_{count}")):
                export(model, path, size=(256, 256), proposals=count, images=images[:1])
        if "alone" in parts and (path := missing("eomt")):
            eomt, pixels = transformer("eomt"), torch.zeros(1, 3, 640, 640)
            program = torch.onnx.export(eomt, (pixels,), dynamo=True, verbose=False, opset_version=18)
            program.save(path)


def transformer(name: str) -> Any:
    """EoMT with ViT-T/16 dimensions, or Mask2Former over Swin-T, with random weights for 133 classes."""
    import torch

    import_module("maskconver.models.backbones")
    from transformers import (
        EomtConfig,
        EomtForUniversalSegmentation,
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        SwinConfig,
    )

    torch.manual_seed(0)
    if name == "mask2former":
        swin = SwinConfig(depths=[2, 2, 6, 2], out_features=["stage1", "stage2", "stage3", "stage4"])
        return Mask2FormerForUniversalSegmentation(
            Mask2FormerConfig(backbone_config=swin, num_labels=133)
        ).eval()
    tiny = EomtConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        num_blocks=3,
        image_size=640,
        num_labels=133,
        num_queries=100,
    )

    class Answer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = EomtForUniversalSegmentation(tiny).eval()
            # Masked attention is annealed away in training: inference has none, which exporters must know.
            del self.model.attn_mask_probs
            self.model.attn_mask_probs = [0.0] * tiny.num_blocks

        def forward(self, pixels: Any) -> tuple[Any, Any]:
            answer = self.model(pixel_values=pixels)
            return answer.class_queries_logits, answer.masks_queries_logits

    return Answer().eval()


def session(path: Path) -> Any:
    """An ONNX file as a function of arrays in the order of its inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in opened.get_inputs()]
    return lambda *arrays: opened.run(None, dict(zip(names, arrays)))


def interpreter(path: Path) -> Any:
    """The same of a LiteRT file whose outputs have no names."""
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(str(path), num_threads=THREADS)
    run = opened.get_signature_runner()
    names, outputs = sorted(run.get_input_details()), sorted(run.get_output_details())

    def call(*arrays: Any) -> list[Any]:
        answer = run(**dict(zip(names, arrays)))
        return [answer[name] for name in outputs]

    return call


def rows(kind: str, size: int, folder: Path, merge_config: Any) -> dict[str, Callable[[Any], Any]]:
    """What is timed at one size: a function of the image each; those named `network` take its canvas."""
    from maskconver.core.preprocess import prepare
    from maskconver.inference.litert import LiteRtRuntime
    from maskconver.inference.onnx import OnnxRuntime
    from maskconver.merge import postprocess

    suffix = KINDS[kind]
    runtime = OnnxRuntime if kind == "onnx" else LiteRtRuntime
    opened = session if kind == "onnx" else interpreter
    network, plain = (runtime(folder / f"{n}_{size}{suffix}", threads=THREADS) for n in ("network", "plain"))
    ours, original = (opened(folder / f"{name}_{size}{suffix}") for name in ("merge", "original"))
    whole = network.input
    label_type = np.int64 if kind == "onnx" else np.int32

    def proposals(image: Any, net: Any = network) -> Any:
        return net(prepare(image, whole)[0][None])

    def in_graph(graph: Any, image: Any, net: Any = network) -> Any:
        found = proposals(image, net)
        return graph(found.scores, found.labels.astype(label_type), found.mask_logits)

    def outside(image: Any, net: Any = network) -> Any:
        found = proposals(image, net)
        return postprocess(found, merge_config, network.categories, output_size=(size, size))[0].ids

    small = runtime(folder / f"int8_{size}{suffix}", threads=THREADS)
    return {
        "the original's network": lambda image: plain(image[1]),
        "original": lambda image: in_graph(original, image[0], plain),
        "network": lambda image: network(image[1]),
        "ours, post-processing in the graph": lambda image: in_graph(ours, image[0]),
        "ours, post-processing outside": lambda image: outside(image[0]),
        "network, int8": lambda image: small(image[1]),
        "ours, int8, post-processing outside": lambda image: outside(image[0], small),
    }


def timed(functions: dict[str, Callable[[Any], Any]], images: list[Any], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, one after the other in every round."""

    def over(function: Callable[[Any], Any]) -> Callable[[], Any]:
        turn = cycle(images)
        return lambda: function(next(turn))

    calls = {name: over(function) for name, function in functions.items()}
    times = medians(in_turn(calls, rounds, clock=time.perf_counter, pause=PAUSE))
    return {name: 1000 * value for name, value in times.items()}


def sized_images(images: list[Any], size: int) -> list[Any]:
    """Each image, with its canvas."""
    from maskconver.core.config import InputConfig
    from maskconver.core.preprocess import prepare

    return [(p, prepare(p, InputConfig(size=(size, size)))[0][None]) for p in images]


def alone(name: str, files: str, rounds: int) -> dict[str, float]:
    """One network in a process of its own: milliseconds, peak memory and file size at 640 px."""
    folder, pixels = Path(files), np.random.default_rng(0).normal(size=(1, 3, 640, 640)).astype(np.float32)
    if name == "mask2former":
        import torch

        torch.set_num_threads(THREADS)
        model = transformer(name)
        size = sum(p.numel() * p.element_size() for p in model.parameters())

        def run(_: Any) -> None:
            with torch.inference_mode():
                model(pixel_values=torch.from_numpy(pixels))
    else:
        file = folder / ("eomt.onnx" if name == "eomt" else "network_640.onnx")
        call = session(file)
        size = sum(f.stat().st_size for f in folder.glob(f"{file.name}*"))

        def run(_: Any) -> None:
            call(pixels)

    ms = timed({name: run}, [None], rounds)[name]
    return {"ms": ms, "rss": 1000 * peak(), "size": size / 1e6}


def end_to_end(
    folder: Path, images: list[Any], config: Any, rounds: int, kinds: list[str], sizes: list[int]
) -> None:
    """Prints the table of all rows at each size, and ours beside the paper's."""
    ms: dict[tuple[str, int], dict[str, float]] = {}
    differing = []
    for kind in kinds:
        for size in sizes:
            functions = rows(kind, size, folder, config)
            at_size = sized_images(images, size)
            ms[kind, size] = timed(functions, at_size, max(rounds * 256 // size, 3))
            for image in at_size:
                graph = functions["ours, post-processing in the graph"](image)
                ids = next(m for m in graph if m.ndim == 3 and m.shape[-1] == size)[0]
                differing.append(int((ids != functions["ours, post-processing outside"](image)).sum()))
    row = table("", *(f"{kind}, {size} px" for kind, size in ms))
    for name in next(iter(ms.values())):
        ratios = [f" ({found['original'] / found[name]:.1f}x)" for found in ms.values()]
        row(
            name,
            *(f"{f[name]:.1f}{r if name.startswith('ours') else ''}" for f, r in zip(ms.values(), ratios)),
        )
    print(f"\nmedian ms, {THREADS} threads; in brackets how many times faster than the original, end to end.")
    print(f"pixels that differ between our post-processing in the graph and outside: {sum(differing)}\n")

    row = table("input", "network", "end to end", "paper: Pixel 6 CPU", "without post-processing")
    for size in sizes if "litert" in kinds else ():
        found, (whole, network) = ms["litert", size], PAPER_SIZES[size]
        outside = found["ours, post-processing outside"]
        row(size, f"{found['network']:.1f} ms", f"{outside:.1f}", whole, network or "–")


def by_proposals(folder: Path, images: list[Any], config: Any, rounds: int) -> None:
    """Prints the table of numbers of proposals."""
    from maskconver.inference.onnx import OnnxRuntime
    from maskconver.merge import postprocess

    functions = {}
    for n in PROPOSALS:
        file = "network_256.onnx" if n == 50 else f"network_256_{n}.onnx"
        runtime = OnnxRuntime(folder / file, threads=THREADS)
        functions[f"{n} network"] = lambda image, r=runtime: r(image[1])
        functions[f"{n}"] = lambda image, r=runtime: postprocess(
            r(image[1]), config, r.categories, output_size=(256, 256)
        )
    found = timed(functions, sized_images(images, 256), 2 * rounds)
    print()
    row = table("proposals, 256 px", "network", "and post-processing", "paper: Pixel 6 CPU")
    for n in PROPOSALS:
        row(n, f"{found[f'{n} network']:.1f} ms", f"{found[f'{n}']:.1f}", PAPER_PROPOSALS[n])


def networks_alone(folder: Path, rounds: int) -> None:
    """Prints the table of networks of other packages."""
    print()
    row = table("network alone, 640 px", "ms", "images/s", "peak memory, MB", "file, MB")
    for name in ("ours", "eomt", "mask2former"):
        one = fresh(alone, name, str(folder), max(rounds // 3, 3))
        row(name, f"{one['ms']:.0f}", f"{1000 / one['ms']:.1f}", f"{one['rss']:.0f}", f"{one['size']:.1f}")


def main() -> None:
    """Makes what is missing, then measures."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="runs/overfit100/last.safetensors")
    parser.add_argument("--images", type=Path, default=SHARED / "data/coco-panoptic-150/images/train")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, default=list(SIZES))
    parts = ("sizes", "proposals", "alone")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="tables to print")
    parser.add_argument(
        "--files", type=Path, default=Path("runs/export_benchmark"), help="where the files are kept"
    )
    parser.add_argument("--make", action="store_true", help="make the files and stop")
    parser.add_argument("--rounds", type=int, default=24)
    args = parser.parse_args()
    if not args.images.exists():
        print(f"needs {args.images}; left out")
        return
    needed = [name for kind in args.kinds for name in NEEDED[kind]]
    needed += ["transformers"] if "alone" in args.parts else []
    if missing := [name for name in needed if find_spec(name) is None]:
        print(f"needs {', '.join(missing)}; left out")
        return
    from maskconver.inference.runtime import open_runtime
    from maskconver.io.images import read_image
    from maskconver.io.sources import list_images

    images = [read_image(path) for path in sorted(list_images(args.images))[:12]]
    args.files.mkdir(parents=True, exist_ok=True)
    for kind in args.kinds:
        make(kind, args.files, args.model, images, args.sizes, args.parts)
    if args.make:
        return
    described = open_runtime(args.files / f"network_{args.sizes[0]}{KINDS[args.kinds[0]]}")
    config, few = replace(described.postprocess, min_area=256 / 640**2), images[:4]
    if "sizes" in args.parts:
        end_to_end(args.files, few, config, args.rounds, args.kinds, args.sizes)
    if "proposals" in args.parts:
        by_proposals(args.files, few, config, args.rounds)
    if "alone" in args.parts:
        networks_alone(args.files, args.rounds)
    packages = "onnxruntime", "ai-edge-litert", "torch", "transformers"
    print(f"\nweights of {args.model}; {machine(*packages)}")


if __name__ == "__main__":
    main()
