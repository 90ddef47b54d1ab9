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

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness import arguments, fresh, in_turn, machine, medians, peak, table
from maskconver.models import create_model
from maskconver.models.base import SegmentationModel
from maskconver.models.kmax import KMaXDeepLab
from maskconver.models.layers import use_onednn

WAYS = ("plain", "optimized", "onnxruntime", "compiled")
CLASSES = 133


class Answer(nn.Module):
    """Images to the final class and mask logits."""

    def __init__(self, model: SegmentationModel) -> None:
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
            assert module.running_mean is not None and module.running_var is not None
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
    if way == "optimized":
        use_onednn(network)  # as `Predictor` does
    if way == "compiled":
        from torch._inductor import config

        config.freezing = True
        compiled = torch.compile(network, fullgraph=True)
        return lambda: compiled(images)
    return lambda: network(images)


def measure(name: str, ways: list[str], threads: int, runs: int, device: str) -> dict[str, dict[str, float]]:
    """Seconds and difference of each way; memory where there is one way only."""
    torch.set_num_threads(threads)
    model = trained_looking(name).to(device)
    images = torch.randn(1, 3, *model.input.size, device=device)
    before, result = peak(), {}

    def whole(call: Callable[[], object]) -> Callable[[], None]:
        def timed() -> None:
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        return timed

    with torch.no_grad():
        wanted = model(images, deep=False).final.mask_logits if len(ways) > 1 else None
        calls = {way: prepare(way, model, images, threads) for way in ways}
        for way, call in calls.items():
            masks = call()[1]
            error = float((masks - wanted).abs().max() / wanted.abs().max()) if wanted is not None else 0.0
            result[way] = {"difference": error}
        rounds = runs if len(ways) > 1 else 1
        whole_calls = {way: whole(call) for way, call in calls.items()}
        times = medians(in_turn(whole_calls, rounds, warm=0, clock=time.perf_counter))
    for way in ways:
        result[way] |= {"seconds": times[way], "memory": peak() - before}
    return result


def main() -> None:
    """Prints a table."""
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["remax_t", "remax_s", "remax_m"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS[:3]), choices=WAYS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    environment = {"OMP_NUM_THREADS": str(args.threads)}

    def found(name: str, ways: list[str]) -> dict[str, dict[str, float]]:
        given = name, ways, args.threads, args.runs, args.device
        answer: dict[str, dict[str, float]] = fresh(measure, *given, environment=environment)
        return answer

    row = table("model", "way", "ms", "plain / this", "memory, GB", "difference")
    for name in args.models:
        rows = found(name, args.ways)
        for way in args.ways:
            own, memory = rows[way], found(name, [way])[way]["memory"]
            ratio = rows["plain"]["seconds"] / own["seconds"] if "plain" in rows else float("nan")
            difference = f"{own['difference']:.0e}"
            row(name, way, f"{own['seconds'] * 1e3:.0f}", f"{ratio:.2f}", f"{memory:.2f}", difference)
    print(f"\n{machine('torch', 'onnxruntime', where=f'{args.threads} threads')}")


if __name__ == "__main__":
    main()
