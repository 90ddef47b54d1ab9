"""kMaX-DeepLab and ReMaX at inference: the plain network, the optimized one, ONNX Runtime and torch.compile.

Run: .venv/bin/python benchmarks/kmax.py --threads 2
     .venv/bin/python benchmarks/kmax.py --models remax_t --ways plain optimized compiled     (takes minutes)
     .venv/bin/python benchmarks/kmax.py --device cuda --ways plain optimized compiled

Plain is the module as it is trained, without its semantic head and the layers' classes; optimized is what
`Predictor` runs; ONNX Runtime runs the exported optimized network; compiled is `torch.compile` of it with its
weights frozen. One image of noise at the model's own size, up to class and mask logits; all ways take turns
in one process, medians. Memory is the highest of a process with this way alone, above that with the model.
Weights are random, batch norms included. Differences are those of the mask logits, relative to the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from maskconver.models import create_model
from maskconver.models.kmax import KMaXDeepLab
from memory import peak

WAYS = ("plain", "optimized", "onnxruntime", "compiled")
CLASSES = 133


class Answer(nn.Module):
    """Images to the final class and mask logits."""

    def __init__(self, model: KMaXDeepLab) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(images)
        final = getattr(output, "final", output)
        return final.class_logits, final.mask_logits


@torch.no_grad()
def trained_looking(name: str) -> KMaXDeepLab:
    """Random weights, and batch norms that change what they get."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=CLASSES)
    assert isinstance(model, KMaXDeepLab)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            if module.num_features > 1:
                module.weight.uniform_(0.2, 0.5)
    return model.eval()


def exported(model: KMaXDeepLab, images: Tensor, threads: int) -> Callable[[], tuple[Tensor, ...]]:
    """ONNX Runtime on the optimized network."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            Answer(model.optimized()), (images,), path, dynamo=True, opset_version=20, verbose=False
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options)
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: tuple(torch.from_numpy(np.asarray(v)) for v in session.run(None, feed))


def prepare(way: str, model: KMaXDeepLab, images: Tensor, threads: int) -> Callable[[], tuple[Tensor, ...]]:
    """A call that gives the class and mask logits."""
    if way == "onnxruntime":
        return exported(model, images, threads)
    network = Answer(model if way == "plain" else model.optimized()).eval()
    if way == "compiled":
        from torch._inductor import config

        config.freezing = True
        compiled = torch.compile(network, fullgraph=True)
        return lambda: compiled(images)
    return lambda: network(images)


def measure(name: str, ways: list[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds and difference of each way; memory where there is one way only."""
    torch.set_num_threads(args.threads)
    model = trained_looking(name).to(args.device)
    images = torch.randn(1, 3, *model.input.size, device=args.device)
    before, result = peak(), {}
    with torch.no_grad():
        wanted = model(images, deep=False).final.mask_logits if len(ways) > 1 else None
        calls = {way: prepare(way, model, images, args.threads) for way in ways}
        for way, call in calls.items():
            masks = call()[1]
            error = float((masks - wanted).abs().max() / wanted.abs().max()) if wanted is not None else 0.0
            result[way] = {"difference": error}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.runs if len(ways) > 1 else 1):
            for way, call in calls.items():
                start = time.perf_counter()
                call()
                if args.device == "cuda":
                    torch.cuda.synchronize()
                times[way].append(time.perf_counter() - start)
    for way in ways:
        result[way]["seconds"] = statistics.median(times[way])
        result[way]["memory"] = peak() - before
    return result


def fresh(name: str, ways: list[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--child", "--models", name, "--ways", *ways]
    command += ["--threads", str(args.threads), "--runs", str(args.runs), "--device", args.device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    answer: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["remax_t", "remax_s", "remax_m"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS[:3]), choices=WAYS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.models[0], args.ways, args)))
        return
    print("| model | way | ms | plain / this | memory, GB | difference |\n|---|---|---|---|---|---|")
    for name in args.models:
        rows = fresh(name, args.ways, args)
        for way in args.ways:
            row, memory = rows[way], fresh(name, [way], args)[way]["memory"]
            ratio = rows["plain"]["seconds"] / row["seconds"] if "plain" in rows else float("nan")
            print(
                f"| {name} | {way} | {row['seconds'] * 1e3:.0f} | {ratio:.2f} | {memory:.2f} | "
                f"{row['difference']:.0e} |",
                flush=True,
            )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    print(f"\n{args.threads} threads of {platform.processor() or platform.machine()}; {packages}")


if __name__ == "__main__":
    main()
