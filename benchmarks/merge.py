"""The merge beside the network it follows, and beside other ways to merge the same masks.

Run: .venv/bin/python benchmarks/merge.py [--data FOLDER] [--model FILE]
     .venv/bin/python benchmarks/merge.py --share FOLDER --model facade --sizes 256

With --data and --model (`maskconver train --config coco_overfit --data my_data/coco-panoptic-150
--overfit 100 --steps 2600 --out runs/overfit100`) the first table has trained masks of real images, and the
network's time in ONNX Runtime; without, masks are generated blobs and there is no network. The merge has one
thread, the network --threads; transformers' post-processing is timed with one and with two.
Everything needed: pip install -e ".[bench]".
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import arguments, in_turn, machine, median, medians, table
from maskconver.core.categories import Categories
from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry, Proposals
from maskconver.core.resize import Taps, resize_bilinear
from maskconver.merge import postprocess
from maskconver.merge.maskconver import merge_masks, output_taps

CATEGORIES = Categories.coco()
ALGORITHMS = ("fast", "reference")


def seconds(call: Callable[[], Any], rounds: int = 5, limit: float = 4.0) -> float:
    """Median wall time of a call; fewer rounds where they would take too long."""
    return median(call, rounds, clock=time.perf_counter, limit=limit)


def turns(calls: list[Callable[[], Any]], rounds: int = 5) -> list[float]:
    """The same of several calls that take turns."""
    named = {str(i): call for i, call in enumerate(calls)}
    return [*medians(in_turn(named, rounds, clock=time.perf_counter, limit=12.0)).values()]


def blobs(n: int, size: tuple[int, int], seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Scores, labels and masks like a trained network's: few sure ones, large, steep at their edge."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(-0.7, 1, (n, 6, 6)).astype(np.float32)
    masks = np.stack([resize_bilinear(c, size) for c in coarse]) * np.float32(8)
    return np.sort(rng.random(n, np.float32) ** 3)[::-1].copy(), rng.integers(0, 133, n), masks


def single(scores: NDArray, labels: NDArray, masks: NDArray, geometry: Geometry | None = None) -> Proposals:
    return Proposals(scores[None], labels[None], masks[None], geometry=(geometry,) if geometry else ())


def crude(proposals: Proposals, config: PostprocessConfig) -> NDArray[np.int64]:
    """The idea of bounds in its plainest form: one level of cells; the winners, own areas computed, too."""
    scores, logits = proposals.scores[0], proposals.mask_logits[0]
    rows, columns = output_taps(logits.shape[1:], proposals.geometry[0], None)
    keep = np.flatnonzero(scores > config.score_threshold)
    scores, logits = scores[keep], logits[keep]
    padded = np.pad(logits, ((0, 0), (1, 1), (1, 1)), "edge")
    top, bottom = padded[:, :-1], padded[:, 1:]
    corners = np.stack([top[..., :-1], top[..., 1:], bottom[..., :-1], bottom[..., 1:]])
    bids = scores[:, None, None] / (1 + np.exp(-corners))
    alive = bids.max(0) >= bids.min(0).max(0) * (1 - 1e-5)
    (y, weight_y, valid_y), (x, weight_x, valid_x) = (
        _cells(t, n) for t, n in zip((rows, columns), logits.shape[1:])
    )

    def tiles(candidate: NDArray, cell_y: NDArray, cell_x: NDArray) -> NDArray:
        """(m, P, P) probabilities of candidates in cells."""
        a, b, c, d = corners[:, candidate, cell_y, cell_x][..., None]
        w, v = weight_y[cell_y], weight_x[cell_x][:, None]
        left, right = a + w * (c - a), b + w * (d - b)
        return 1 / (1 + np.exp(-(left[..., None] + v * (right - left)[..., None])))

    winner = np.repeat(np.repeat(alive.argmax(0), valid_y.sum(1), 0), valid_x.sum(1), 1)
    count = alive.sum(0)
    for m in np.unique(count[count > 1]):
        cell_y, cell_x = np.nonzero(count == m)
        candidates = np.nonzero(alive[:, cell_y, cell_x].T)[1].reshape(-1, m)
        bid = tiles(candidates.ravel(), np.repeat(cell_y, m), np.repeat(cell_x, m))
        bid = bid.reshape(*candidates.shape, *bid.shape[1:]) * scores[candidates][..., None, None]
        best = np.take_along_axis(candidates[..., None, None], bid.argmax(1)[:, None], 1)[:, 0]
        inside = (valid_y[cell_y][..., None] & valid_x[cell_x][:, None]).nonzero()
        winner[y[cell_y][inside[0], inside[1]], x[cell_x][inside[0], inside[2]]] = best[inside]
    above = (corners > 0).all(0)
    own = (above * np.outer(valid_y.sum(1), valid_x.sum(1))).sum((1, 2))
    candidate, cell_y, cell_x = np.nonzero((corners > 0).any(0) & ~above)
    partly = tiles(candidate, cell_y, cell_x) > 0.5
    partly &= valid_y[cell_y][..., None] & valid_x[cell_x][:, None]
    own += np.bincount(candidate, partly.sum((1, 2)), len(own)).astype(int)
    return winner


def _cells(taps: Taps, length: int) -> tuple[NDArray, NDArray, NDArray]:
    """Pixels of each of length + 1 cells, their weights, and which of these exist; (length + 1, P) each."""
    cell = np.where((taps.low == 0) & (taps.weight == 0), 0, taps.low + 1)
    first = np.searchsorted(cell, np.arange(length + 2))
    pixels = first[:-1, None] + np.arange(np.diff(first).max())
    valid = pixels < first[1:, None]
    pixels = np.minimum(pixels, len(cell) - 1)
    return pixels, taps.weight[pixels], valid


def transformers_merge(
    proposals: Proposals, size: tuple[int, int], config: PostprocessConfig
) -> Callable[[], Any]:
    """The post-processing of Mask2Former in Hugging Face's library on the same scores and masks."""
    import torch

    import maskconver.models.backbones  # noqa: F401 - before transformers imports torchvision

    try:
        from transformers import Mask2FormerImageProcessor  # isort: skip
    except ModuleNotFoundError:
        raise SystemExit('transformers is not installed: pip install -e ".[bench]"') from None

    scores, labels = (torch.from_numpy(np.asarray(a)) for a in (proposals.scores, proposals.labels))
    # The rest of the probability is shared among all other classes, so that none, nor "no object", wins.
    rest = ((1 - scores) / len(CATEGORIES)).clamp(1e-6)
    logits = rest[..., None].repeat(1, 1, len(CATEGORIES) + 1)
    logits = logits.scatter(2, labels[..., None], scores[..., None]).log()
    outputs = SimpleNamespace(
        class_queries_logits=logits, masks_queries_logits=torch.from_numpy(proposals.mask_logits)
    )
    stuff = {c for c in range(len(CATEGORIES)) if not CATEGORIES[c].is_thing}
    return partial(
        Mask2FormerImageProcessor().post_process_panoptic_segmentation,
        outputs,
        threshold=config.score_threshold,
        overlap_mask_area_threshold=config.overlap_threshold,
        label_ids_to_fuse=stuff,
        target_sizes=[size],
    )


def session(model: Any, size: tuple[int, int], proposals: int, threads: int) -> Callable[[NDArray], Any]:
    """The network up to its mask logits in ONNX Runtime, as `maskconver export` writes it."""
    from maskconver.export.driver import export_model
    from maskconver.inference.onnx import OnnxRuntime

    path = Path(tempfile.mkdtemp()) / "network.onnx"
    export_model(model, path, size=size, proposals=proposals)
    return OnnxRuntime(path, threads=threads)


def real(
    model: str,
    files: list[Path],
    size: tuple[int, int] | None,
    proposals: int,
    threads: int,
    others: bool = True,
) -> dict[str, Any]:
    """Network, merges and differing pixels over real images, milliseconds."""
    import torch

    import maskconver
    from maskconver.core.preprocess import prepare
    from maskconver.inference.inputs import as_image

    network = maskconver.load(model).eval()
    image_input = network.input if size is None else replace(network.input, size=size)
    run = session(network, image_input.size, proposals, threads)
    rows = []
    for path in files:
        canvas, geometry = prepare(as_image(path)[0], image_input)
        with torch.inference_mode():
            answer = network.predict(torch.from_numpy(canvas[None]), proposals).numpy()
        # At input size: the image as it lies on the canvas.
        height, width = (
            min(round(n * s), c) for n, s, c in zip(geometry.image_size, geometry.scale, geometry.canvas_size)
        )
        answer = replace(answer, geometry=(Geometry((height, width), geometry.canvas_size),))
        given = answer, network.postprocess, network.categories
        calls = [partial(postprocess, *given, algorithm=name) for name in ALGORITHMS]
        row = dict(zip(ALGORITHMS, turns(calls)))
        row["network"] = seconds(partial(run, canvas[None]))
        if others and not network.postprocess.mask_threshold:
            row["crude"] = seconds(partial(crude, answer, network.postprocess))
            theirs = transformers_merge(answer, (height, width), network.postprocess)
            for count in (1, 2):
                torch.set_num_threads(count)
                row[f"transformers {count}"] = seconds(theirs, 3)
        fast, plain = (call()[0].ids for call in calls)
        row["differing"] = int((fast != plain).sum())
        row["alive"] = int((answer.scores > network.postprocess.score_threshold).sum())
        rows.append(row)
    keys = [key for key in rows[0] if key not in ("differing", "alive")]
    figures: dict[str, Any] = {
        f"{k} ms": round(float(np.median([r[k] for r in rows])) * 1e3, 2) for k in keys
    }
    own, net = (np.array([row[key] for row in rows]) for key in ("fast", "network"))
    figures["share"] = [round(float(np.quantile(own / net, q)), 3) for q in (0.5, 0.95)]
    for key in keys:
        if key not in ("network", "fast"):
            figures[f"{key}/fast"] = round(float(np.median([r[key] for r in rows] / own)), 1)
    figures |= {
        "alive": int(np.median([r["alive"] for r in rows])),
        "differing_pixels": sum(r["differing"] for r in rows),
    }
    return figures


def against_others(
    proposals: Proposals, size: tuple[int, int], config: PostprocessConfig
) -> dict[str, float]:
    """Fast, plain and transformers' merge of the same masks at one size, milliseconds."""
    import torch

    given = partial(postprocess, proposals, config, CATEGORIES, output_size=size)
    row = dict(zip(ALGORITHMS, turns([partial(given, algorithm=name) for name in ALGORITHMS])))
    theirs = transformers_merge(proposals, size, config)
    for count in (1, 2):
        torch.set_num_threads(count)
        row[f"transformers {count}"] = seconds(theirs, 3)
    return {f"{k} ms": round(v * 1e3, 1) for k, v in row.items()} | {
        f"{k}/fast": round(row[k] / row["fast"], 1) for k in row if k != "fast"
    }


def worst(n: int = 50) -> float:
    """Time of the fast merge over the plain one where every candidate may win everywhere."""
    rng = np.random.default_rng(0)
    proposals = single(
        np.full(n, 0.5, np.float32), np.zeros(n, np.int64), rng.normal(0, 3, (n, 80, 80)).astype(np.float32)
    )
    given = partial(postprocess, proposals, PostprocessConfig(), CATEGORIES, output_size=(640, 640))
    fast, plain = turns([partial(given, algorithm=name) for name in ALGORITHMS], rounds=15)
    return round(fast / plain, 2)


def peak_memory(call: Callable[[], Any]) -> float:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return round(peak / 1e6, 1)


def sweeps() -> dict[str, list[tuple[float, ...]]]:
    """(pixels or proposals, fast and plain ms, then their MB) on blobs."""

    def measure(n: int, size: tuple[int, int]) -> tuple[float, ...]:
        scores, labels, masks = blobs(n, (45, 80))
        taps = output_taps((45, 80), None, size)
        things = np.array([c.is_thing for c in CATEGORIES])
        given = partial(
            merge_masks, scores, labels, masks, is_thing=things, taps=taps, config=PostprocessConfig()
        )
        calls = [partial(given, algorithm=name) for name in ALGORITHMS]
        return (*(round(s * 1e3, 1) for s in turns(calls, 7)), *(peak_memory(c) for c in calls))

    sizes = [(180, 320), (360, 640), (720, 1280), (1080, 1920), (2160, 3840)]
    by_pixels = [(size[0] * size[1], *measure(100, size)) for size in sizes]
    by_proposals = [(n, *measure(n, (360, 640))) for n in (10, 20, 50, 100, 200, 400, 1000)]
    return {"pixels": by_pixels, "proposals": by_proposals}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data", type=Path, default=None, help="folder of coco-panoptic-150 and dsb2018-nuclei"
    )
    parser.add_argument("--model", type=str, default=None, help="weights trained on coco-panoptic-150")
    parser.add_argument("--images", type=int, default=25)
    parser.add_argument("--share", type=Path, help="only network and merge, on the images of this folder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[640, 256], help="network inputs of --share")
    parser.add_argument("--threads", type=int, default=2, help="of the network")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(machine("numpy", "onnxruntime", "transformers", where=f"{args.threads} threads of the network"))

    def show(title: str, figures: Any) -> None:
        print(f"{title}: {json.dumps(figures)}", flush=True)

    if args.share:
        files, model = sorted(args.share.glob("*"))[: args.images], args.model or "nuclei"
        row = table("input", "network, ms", "merge, ms", "share, median", "95th percentile", "differing")
        for size in args.sizes:
            found = real(model, files, (size, size), 50, args.threads, others=False)
            ms = (f"{found[f'{key} ms']:.1f}" for key in ("network", "fast"))
            row(size, *ms, *(f"{share:.0%}" for share in found["share"]), found["differing_pixels"])
        return
    if args.data and args.model:
        files = sorted((args.data / "coco-panoptic-150/images/train").glob("*"))[: args.images]
        for size in (640, 256):
            show(f"coco {size} px, 50 proposals", real(args.model, files, (size, size), 50, args.threads))
    if args.data:
        files = sorted((args.data / "dsb2018-nuclei/images/val").glob("*"))
        files = files[:: max(len(files) // args.images, 1)]
        for size, n in ((640, 50), (256, 50), (640, 400)):
            show(f"nuclei {size} px, {n} proposals", real("nuclei", files, (size, size), n, args.threads))
    for n in (100, 200):
        proposals = single(*blobs(n, (80, 80)))
        kept = PostprocessConfig(score_threshold=0.0)
        show(f"{n} kept masks at 640×640", against_others(proposals, (640, 640), kept))
        show(f"{n} kept masks at 1024×2048", against_others(single(*blobs(n, (64, 128))), (1024, 2048), kept))
    show("worst case, over the reference", worst())
    show("sweeps", sweeps())


if __name__ == "__main__":
    main()
