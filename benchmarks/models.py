"""Cost of every model: parameters, MACs, latency, memory; training beside Mask2Former; torch.compile.

Run: .venv/bin/python benchmarks/models.py --threads 2
     .venv/bin/python benchmarks/models.py --parts training --sizes 640     (needs transformers and scipy)
     .venv/bin/python benchmarks/models.py --parts training --sizes 640 --trained maskconver_r50_640 --runs 2
     .venv/bin/python benchmarks/models.py --device cuda --precision bf16 --batch 8 16

Every figure comes from a process of its own. Latency is that of `model.optimized().predict`, which is what
`Predictor` runs, image to mask logits, batch 1, at the model's own input size, the median of a few runs.
Memory is the highest the process had (on a GPU: that torch took there) above what it had with everything
imported; of training steps that without what the C library keeps of freed blocks, and beside it that with
it. A training step is forward, losses, backward and AdamW on noise with a generated annotation of 20
segments, the same for both programs; ours is in the memory layout of `maskconver train`, channels-last, with
its default mask losses. Mask2Former is that of transformers with Swin-T, 100 queries and random weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatch
from importlib.util import find_spec
from typing import Any

import torch

from harness import annotated, arguments, fresh, machine, median, peak, table
from maskconver.models import create_model, list_models
from maskconver.models.batch import Batch
from maskconver.models.inspect import count_macs, count_parameters
from maskconver.models.layers import use_onednn
from maskconver.models.maskconver.losses import LossConfig, MaskConverCriterion

CLASSES, SEGMENTS = 133, 20
RIVAL = "Mask2Former, Swin-T (transformers)"
TRAINED = ("maskconver_mobile_256", "maskconver_r50_640")
COMPILED = ("maskconver_mobile_256", "maskconver_r50_640")
CPU_BATCH = {256: 2, 640: 1}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
SECONDS = 4.0  # a figure's time, unless one run takes longer


def timed(task: Callable[[], object], args: argparse.Namespace) -> float:
    """Median seconds of a task after warming up."""

    def whole() -> None:
        task()
        if args.device == "cuda":
            torch.cuda.synchronize()

    clock = time.process_time if args.processor_time else time.perf_counter
    return median(whole, args.runs, clock=clock, limit=SECONDS)


def used(device: str) -> float:
    """Highest memory so far, GB."""
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else peak()


def mixed(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """Autocast where bf16 is asked for."""
    return torch.autocast(args.device, torch.bfloat16) if args.precision == "bf16" else nullcontext()


def inference(args: argparse.Namespace) -> dict[str, float]:
    """Latency of one image and memory; with --compiled also that of the compiled network."""
    layout = LAYOUTS[args.layout or "contiguous"]
    before = used(args.device)
    model = create_model(args.name, num_classes=CLASSES).eval().to(args.device, memory_format=layout)  # type: ignore[call-overload]
    size = (args.size, args.size) if args.size else model.input.size
    images = torch.randn(args.one_batch, 3, *size, device=args.device).contiguous(memory_format=layout)

    with torch.inference_mode(), mixed(args):
        if not args.compiled:
            fast = model.optimized()
            use_onednn(fast)  # as `Predictor` does
            run = fast.predict
            seconds = timed(lambda: run(images), args)
            return {"seconds": seconds, "memory": used(args.device) - before}
        plain = timed(lambda: model(images), args)
        network = torch.compile(model, fullgraph=True)
        start = time.perf_counter()
        network(images)
        waited = time.perf_counter() - start
        return {
            "seconds": plain,
            "compiled": timed(lambda: network(images), args),
            "wait": waited,
        }


def training(args: argparse.Namespace) -> dict[str, float]:
    """Seconds and memory of a training step, after one that makes AdamW's state."""
    torch.manual_seed(0)
    batch = annotated(args.size, args.one_batch, SEGMENTS, CLASSES)
    before = used(args.device)
    step = rival_step(batch, args) if args.name == RIVAL else own_step(batch, args)
    seconds = timed(step, args)
    return {"seconds": seconds, "memory": used(args.device) - before}


def own_step(batch: Batch, args: argparse.Namespace) -> Callable[[], None]:
    """A training step of one of our models."""
    layout = LAYOUTS[args.layout or "channels-last"]
    model = create_model(args.name, num_classes=CLASSES).train().to(args.device, memory_format=layout)  # type: ignore[call-overload]
    network = torch.compile(model, fullgraph=True) if args.compiled else model
    use_onednn(model)  # as `maskconver train` does
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch = batch.to(args.device)
    images = batch.images.contiguous(memory_format=layout)
    criterion = MaskConverCriterion(model, LossConfig())

    def step() -> None:
        optimizer.zero_grad()
        with mixed(args):
            maps = network(images)
        terms = criterion(model, maps, batch)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return step


def rival_step(batch: Batch, args: argparse.Namespace) -> Callable[[], None]:
    """A training step of Mask2Former on the same images and masks."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = SwinConfig(depths=[2, 2, 6, 2], out_features=stages)  # type: ignore[call-arg]
    config = Mask2FormerConfig(backbone_config=swin, num_labels=CLASSES)  # type: ignore[call-arg]
    model = Mask2FormerForUniversalSegmentation(config).train().to(args.device)
    network = torch.compile(model) if args.compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch = batch.to(args.device)
    rows = [batch.batch == i for i in range(len(batch))]
    masks = [(m == batch.region[r][:, None, None]).float() for m, r in zip(batch.regions, rows)]
    labels = [batch.labels[r] for r in rows]

    def step() -> None:
        optimizer.zero_grad()
        with mixed(args):
            loss = network(pixel_values=batch.images, mask_labels=masks, class_labels=labels).loss
        loss.backward()
        optimizer.step()

    return step


def measure(kind: str, options: dict[str, Any]) -> dict[str, float]:
    """One figure, in this process."""
    args = argparse.Namespace(**options)
    torch.set_num_threads(args.threads)
    return inference(args) if kind == "inference" else training(args)


def child(args: argparse.Namespace, kind: str, **chosen: object) -> dict[str, Any]:
    """Measures in a fresh process; the last error line where that failed.

    For `memory`, two training steps, the C library is told to give every large block back at once: what it
    would keep in pieces depends on the order of sizes, not on what the program needs.
    """
    options = vars(args) | {"size": None, "one_batch": 1, "compiled": False} | chosen
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536"} if kind == "memory" else {}
    options |= {"runs": 1} if kind == "memory" else {}
    try:
        found: dict[str, Any] = fresh(measure, kind, options, environment=environment)
    except RuntimeError as error:
        return {"error": str(error)}
    return found


def cost_table(args: argparse.Namespace) -> None:
    """One row for each model."""
    row = table("model", "input", "parameters, M", "GMACs", "latency, ms", "peak memory, GB")
    for name in (n for n in list_models() if any(fnmatch(n, pattern) for pattern in args.models)):
        with torch.device("meta"):
            model = create_model(name, num_classes=CLASSES)
        size = model.input.size
        cost = f"{count_parameters(model) / 1e6:.2f}", f"{count_macs(model) / 1e9:.2f}"
        found = child(args, "inference", name=name)
        figures = ("seconds", 1e3, 0), ("memory", 1, 2)
        cells = [found["error"]] if "error" in found else [f"{found[k] * f:.{d}f}" for k, f, d in figures]
        row(f"`{name}`", f"{size[0]}×{size[1]}", *cost, *cells)


def training_table(args: argparse.Namespace) -> None:
    """Steps of our models and of Mask2Former, where transformers is installed."""
    names = [*args.trained, RIVAL]
    if find_spec("transformers") is None:
        print("Mask2Former is left out, transformers is not installed: pip install 'transformers>=4.45'")
        names.remove(RIVAL)
    for size in args.sizes:
        for batch in args.batch or [CPU_BATCH.get(size, 1)]:
            print(f"\nTraining step at {size} px, batch {batch}, {args.precision}:\n")
            figures = "ms per step", "images/s", "ratio", "memory, GB", "ratio", "held by the process, GB"
            row = table("model", *figures)
            for compiled in (False, True) if args.compiled else (False,):
                chosen = {"size": size, "one_batch": batch, "compiled": compiled}
                rows = {name: child(args, "training", name=name, **chosen) for name in reversed(names)}
                for name, found in rows.items():
                    if args.device == "cpu" and "error" not in found:
                        least = child(args, "memory", name=name, **chosen)
                        found["least"] = least.get("memory", float("nan"))
                for name, found in reversed(rows.items()):
                    row(
                        f"{name}{', compiled' if compiled else ''}", *_step(found, rows.get(RIVAL, {}), batch)
                    )


def _step(row: dict[str, Any], rival: dict[str, Any], batch: int) -> list[str]:
    if "error" in row:
        return [str(row["error"])]
    faster = f"{rival['seconds'] / row['seconds']:.2f}" if "seconds" in rival else "–"
    least, other = (r.get("least", r.get("memory", float("nan"))) for r in (row, rival))
    speed = [f"{1e3 * row['seconds']:.0f}", f"{batch / row['seconds']:.2f}", faster]
    return [*speed, f"{least:.2f}", f"{least / other:.2f}", f"{row['memory']:.2f}"]


def compile_table(args: argparse.Namespace) -> None:
    """What torch.compile gains on the network, inference."""
    print()
    row = table("network", "plain, ms", "compiled, ms", "ratio", "first call, s")
    for name in COMPILED:
        for batch in args.batch or [1]:
            found = child(args, "inference", name=name, compiled=True, one_batch=batch)
            label = f"`{name}`" + (f", batch {batch}" if batch > 1 else "")
            if "error" in found:
                row(label, found["error"])
                continue
            plain, fast = 1e3 * found["seconds"], 1e3 * found["compiled"]
            row(label, f"{plain:.1f}", f"{fast:.1f}", f"{plain / fast:.2f}", f"{found['wait']:.0f}")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "cost": cost_table,
    "training": training_table,
    "compile": compile_table,
}


def main() -> None:
    """Prints the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--models", nargs="+", default=["*"], help="patterns of the cost table's names")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[256, 640], help="canvases of the training table"
    )
    parser.add_argument("--trained", nargs="+", default=TRAINED, help="models of the training table")
    parser.add_argument("--batch", type=int, nargs="+", help="images a training step; 2 at 256, 1 at 640")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--layout", choices=list(LAYOUTS), help="of our networks, for every part")
    parser.add_argument("--compiled", action="store_true", help="training steps of compiled networks, too")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--processor-time", action="store_true", help="for one thread beside other programs")
    parser.add_argument("--runs", type=int, default=5, help="at most so many a figure")
    args = parser.parse_args()
    for part in args.parts:
        PARTS[part](args)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    where += f", {args.precision}{', processor time' if args.processor_time else ''}"
    print(f"\n{machine('torch', 'transformers', 'timm', where=where)}")


if __name__ == "__main__":
    main()
