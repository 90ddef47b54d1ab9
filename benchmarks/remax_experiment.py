r"""kMaX-DeepLab against ReMaX, and MaskConver against MaskConver with ReMask: the same budget for all.

Run: .venv/bin/python benchmarks/remax_experiment.py --runs kmax:0 remax:0 kmax:1 remax:1
     .venv/bin/python benchmarks/remax_experiment.py --runs all
     .venv/bin/python benchmarks/remax_experiment.py --data FACADE --start mobilenetv3_small.safetensors \
         --size 192 --proposals 128 --steps 3000 --val-images 60 --out runs/remax_facade --runs kmax:0 remax:0

Without --data, scenes are generated. Every run is one network, from scratch or with the backbone of --start,
one thread, the same images in the same order for one seed. A run writes a JSON line every few steps (losses,
gradient norm, false-positive/false-negative ratio of the sigmoid masks that the loss sees) and PQ after
validations, to OUT/ARM-SEED.jsonl. A run that is stopped, or that reaches --seconds, goes on where it was
with the same command; one that is done is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import arguments, machine, table
from maskconver.data.synth.write import write_dataset
from maskconver.merge import postprocess
from maskconver.metrics import PanopticQuality
from maskconver.metrics.overlap import Overlap
from maskconver.models import create_model
from maskconver.models.backbones.weights import load_backbone
from maskconver.models.batch import MaskTargets
from maskconver.models.kmax import ReMaXConfig
from maskconver.models.kmax.loss_terms import Assignment, false_losses
from maskconver.models.kmax.losses import KMaXCriterion, KMaXLossConfig, Output
from maskconver.models.layers import use_onednn
from maskconver.models.maskconver.losses import LossConfig, MaskConverCriterion
from maskconver.training.augment.example import AugmentConfig
from maskconver.training.loader import DataConfig, SegmentationData
from maskconver.training.optim import OptimConfig, ScheduleConfig, create_optimizer, learning_rate
from maskconver.training.targets import TargetConfig

RELAXED = {"mask_id_loss": "sigmoid", "remask_layers": 4, "eta": 0.1, "aspp": "separable"}
KMAX = {"bn_momentum": 0.1, "drop_path": 0.0, "proposals": 32}
# model, changes to it, "remask" of MaskConver, factor of the learning rate
ARMS: dict[str, tuple[str, dict[str, Any], bool, float]] = {
    "kmax": ("remax_t", {**KMAX, "remax": {"mask_id_loss": "softmax", "remask_layers": 0, "eta": 0.0},
                         "postprocess": {"mask_activation": "softmax"}, "mask_start": (1.0, 0.0)}, False, 1),
    "sigmoid": ("remax_t", {**KMAX, "remax": {**RELAXED, "remask_layers": 0, "eta": 0.0},
                            "mask_start": (1.0, -3.0)}, False, 1),
    "remask": ("remax_t", {**KMAX, "remax": {**RELAXED, "eta": 0.0}, "mask_start": (1.0, -3.0)}, False, 1),
    "reclass": ("remax_t", {**KMAX, "remax": {**RELAXED, "remask_layers": 0},
                            "mask_start": (1.0, -3.0)}, False, 1),
    "remax": ("remax_t", {**KMAX, "remax": RELAXED, "mask_start": (1.0, -3.0)}, False, 1),
    "maskconver": ("maskconver_mobile_dense_512", {"bn_momentum": 0.1, "proposals": 50}, False, 1),
    "maskconver_remask": ("maskconver_mobile_dense_512", {"bn_momentum": 0.1, "proposals": 50}, True, 1),
}  # fmt: skip
ARMS |= {f"{name}_lr10": (*ARMS[name][:3], 10) for name in ("kmax", "sigmoid", "remax")}
# As published: 128 queries, masks that start at (0.1, 0), peak rate 0.006.
PUBLISHED = {**KMAX, "proposals": 128}
ARMS |= {
    "sigmoid_published": (
        "remax_t",
        {**PUBLISHED, "remax": {**RELAXED, "remask_layers": 0, "eta": 0.0}},
        False,
        6,
    ),
    "remax_published": ("remax_t", {**PUBLISHED, "remax": RELAXED}, False, 6),
}
SEEDS = (0, 1)
OBJECT, OVERLAP = (
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    (0.5, 0.8),
)  # thresholds tried on the validation images
LOG_EVERY, SAVE_EVERY = 4, 20


class Watched(KMaXCriterion):
    """Notes the false-positive/false-negative ratio of every output's masks, image by image."""

    ratios: list[list[float]]  # of the masks that the loss sees: relaxed ones, where masks are relaxed
    raw: list[list[float]]  # of the same masks as they are

    def terms(
        self, output: Output, assignment: Assignment, targets: MaskTargets, **given: Any
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            for found, masks in ((self.ratios, output.relaxed), (self.raw, output.masks)):
                positives, negatives = false_losses(masks, assignment.owner)
                found.append((positives / negatives.clamp(min=1e-6)).tolist())
        return super().terms(output, assignment, targets, **given)


def canvas(args: argparse.Namespace) -> dict[str, Any]:
    """Size, mean and std of the network input: those of ImageNet where the backbone was trained on it."""
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if args.start else ((0.5,) * 3, (0.5,) * 3)
    return {"size": (args.size, args.size), "mean": mean, "std": std}


def data_of(args: argparse.Namespace, seed: int) -> SegmentationData:
    """The generated scenes, written once; or the data set that was given, in crops of the whole image."""
    size = dataclasses.replace(create_model("remax_t", num_classes=1).input, **canvas(args))
    if args.data:
        augment = AugmentConfig(scale=(0.8, 1.6), scale_law="log")
        targets = TargetConfig(stuff="global", max_segments=128)
        config = DataConfig(
            data=args.data,
            workers=0,
            batch_size=args.batch,
            val_images=args.val_images,
            augment=augment,
            targets=targets,
        )
        return SegmentationData(config, size, args.steps * args.batch, seed=seed)
    folder = Path(args.out) / f"scenes{args.size}"
    for split, count in (("train", args.images), ("val", args.val_images)):
        if not (folder / f"panoptic_{split}.json").is_file():
            write_dataset(folder, "scenes", count, size=(args.size, args.size), seed=0, split=split)
    config = DataConfig(
        data=str(folder),
        workers=0,
        batch_size=args.batch,
        augment=AugmentConfig(),
        targets=TargetConfig(islands=1),
    )
    return SegmentationData(config, size, args.steps * args.batch, seed=seed)


def judge(model: Any, data: SegmentationData) -> dict[str, Any]:
    """PQ on the validation images, with the thresholds that are best for it among a few."""
    metrics = {(o, v): PanopticQuality(data.categories) for o in OBJECT for v in OVERLAP}
    model.eval()
    for item in data.val_dataloader():
        proposals = model.predict(torch.from_numpy(item.canvas)[None]).numpy()
        proposals.geometry = (item.geometry,)
        for (score, overlap), metric in metrics.items():
            config = dataclasses.replace(
                model.postprocess,
                score_threshold=score,
                stuff_threshold=None,
                overlap_threshold=overlap,
                min_area=0.0,
            )
            found = postprocess(proposals, config, data.categories)[0]
            truth = item.sample
            metric.add(
                Overlap.of(
                    found.ids,
                    found.segments,
                    truth.ids,
                    truth.segments,
                    categories=data.categories,
                    image=truth.image_id,
                )
            )
    model.train()
    results = {key: metric.compute() for key, metric in metrics.items()}
    best = max(results, key=lambda key: results[key].all.pq)
    groups = {"pq": results[best].all, "things": results[best].things, "stuff": results[best].stuff}
    values = {name: round(group.pq, 4) for name, group in groups.items()}
    return {**values, "sq": round(groups["pq"].sq, 4), "rq": round(groups["pq"].rq, 4), "thresholds": best}


def run(arm: str, seed: int, args: argparse.Namespace) -> str:
    """One run, from where it was; returns what became of it."""
    name, changes, remask, factor = ARMS[arm]
    log = Path(args.out) / f"{arm}-{seed}.jsonl"
    checkpoint = log.with_suffix(".ckpt")
    if log.is_file() and json.loads(log.read_text().splitlines()[-1]).get("end"):
        return "was done"
    started = time.perf_counter()
    data = data_of(args, seed)
    torch.manual_seed(seed)
    changes = dict(changes)
    if args.start and name == "maskconver_mobile_dense_512":
        changes["backbone"] = "mobilenetv3_small_100"
    if args.proposals:
        changes["proposals"] = args.proposals
    remax = changes.pop("remax", None)  # of the losses
    model: Any = create_model(name, categories=data.categories, input=canvas(args), **changes)
    if args.start:
        load_backbone(model.backbone, model.config.backbone, args.start)
    kmax = remax is not None
    sigmoid = kmax and remax["mask_id_loss"] == "sigmoid"
    criterion: Any = (
        Watched(model, KMaXLossConfig(instance_samples=512, remax=ReMaXConfig(**remax)))
        if remax
        else MaskConverCriterion(model, LossConfig(remask=remask, mask_loss_stride=2))
    )
    module = torch.nn.ModuleDict({"model": model, "criterion": criterion}).train()
    use_onednn(module.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    peak = args.lr * factor
    optimizer = create_optimizer(module, OptimConfig(weight_decay=0.005, decay="depthwise"), peak)
    schedule = ScheduleConfig(kind="cosine", warmup=args.steps // 10)
    step, rows = 0, []
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        step = state["step"]
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        rows = [r for r in map(json.loads, log.read_text().splitlines()) if r.get("step", 0) <= step]
    with log.open("w") as file:

        def note(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        for row in rows or [{"arm": arm, "seed": seed, **vars(args)}]:
            note(row)

        def save() -> None:
            state = {"step": step, "module": module.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)

        data.start = step * args.batch
        for batch in data.train_dataloader() if step < args.steps else ():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.steps, peak, schedule)
            torch.manual_seed(hash((seed, step)))
            if kmax:
                criterion.ratios, criterion.raw = [], []
            images = batch.images.contiguous(memory_format=torch.channels_last)
            terms = criterion(model, model(images), batch)
            total = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            total.backward()
            norm = float(
                torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
            )
            if not (math.isfinite(norm) and math.isfinite(total.item())):
                note({"step": step, "end": f"not finite at step {step}"})
                return f"not finite at step {step}"
            optimizer.step()
            step += 1
            if step % LOG_EVERY == 0 or step == 1:
                row = {"step": step, "total": round(total.item(), 4), "norm": round(norm, 4)}
                row |= {"terms": {k: round(v.item(), 4) for k, v in terms.items()}}
                if sigmoid:
                    for name in ("ratios", "raw"):
                        row[name] = [[round(r, 3) for r in own] for own in getattr(criterion, name)]
                note(row)
            out_of_time = time.perf_counter() - started > args.seconds
            if step % args.val_every == 0 or step == args.steps:
                note({"step": step, **judge(model, data)})
            if step % SAVE_EVERY == 0 or out_of_time or step == args.steps:
                save()
            if out_of_time and step < args.steps:
                return (
                    f"stopped at step {step} of {args.steps} after {args.seconds} s; the same command goes on"
                )
        note({"step": step, "end": "done"})
    checkpoint.unlink()
    return f"done, {(time.perf_counter() - started) / 60:.1f} min in this call"


def load(args: argparse.Namespace) -> dict[str, list[list[dict[str, Any]]]]:
    """Rows of every run that has some, by arm."""
    found: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for arm in ARMS:
        for path in sorted(Path(args.out).glob(f"{arm}-*.jsonl")):
            found[arm].append([json.loads(line) for line in path.read_text().splitlines()])
    return found


def print_table(runs: dict[str, list[list[dict[str, Any]]]]) -> None:
    """Prints what each arm reached with every seed; of several also the mean ± half their range."""
    figures = "PQ", "things", "stuff", "loss, last tenth / first", "FP/FN of the layers, median"
    row = table("arm", "steps", *figures, "end")
    for arm, seeds in runs.items():
        cells: list[list[Any]] = [[] for _ in range(7)]
        for rows in seeds:
            steps = [r for r in rows if "total" in r]
            judged = [r for r in rows if "pq" in r]
            if not steps:
                continue
            tenth = max(len(steps) // 10, 1)
            loss = np.mean([r["total"] for r in steps[-tenth:]]) / steps[0]["total"]
            ratio = _ratios(rows)
            last = judged[-1] if judged else {}
            cells[0].append(str(steps[-1]["step"]))
            for cell, key in zip(cells[1:4], ("pq", "things", "stuff")):
                cell.append(100 * last[key] if last else math.nan)
            cells[4].append(f"{loss:.2f}")
            cells[5].append(f"{np.median(ratio):.1f}" if len(ratio) else "–")
            cells[6].append(next((r["end"] for r in rows if "end" in r), "running"))
        cells[1:4] = [[spread(values)] for values in cells[1:4]]
        row(arm, *(", ".join(cell) for cell in cells))


def spread(values: list[float]) -> str:
    """The values, and with several their mean ± half their range; – for those that are missing."""
    shown = ", ".join("–" if math.isnan(v) else f"{v:.1f}" for v in values)
    if len(values) < 2 or any(map(math.isnan, values)):
        return shown
    return f"{np.mean(values):.1f} ± {np.ptp(values) / 2:.1f} ({shown})"


def _ratios(rows: list[dict[str, Any]], kind: str = "ratios") -> np.ndarray:
    """FP/FN of the k-means layers in the second half of a run (the first entry is the final output)."""
    with_ratios = [r[kind][1:] for r in rows if kind in r]
    return np.array([v for r in with_ratios[len(with_ratios) // 2 :] for own in r for v in own])


def plot_ratios(runs: dict[str, list[list[dict[str, Any]]]], path: Path) -> None:
    """FP/FN of the arms with sigmoid masks, of their first seed: the histogram, and how it moves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms = [arm for arm in runs if any("ratios" in row for row in runs[arm][0])]
    if not arms:
        raise SystemExit("no histogram: of these variants none has sigmoid masks, as remax:0 has")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.5), layout="constrained")
    last = min(r[-1] for r in ([row["step"] for row in runs[arm][0] if "ratios" in row] for arm in arms))
    for number, arm in enumerate(arms):
        rows = [r for r in runs[arm][0] if r.get("step", 0) <= last]  # all arms as far as the shortest went
        for kind, what, style in (("ratios", "", "-"), ("raw", ", before ReMask", "--")):
            if kind == "raw" and not arm.startswith(("remask", "remax")):
                continue
            values = np.log10(_ratios(rows, kind).clip(1e-3))
            more = {"alpha": 0.5} if kind == "ratios" else {"histtype": "step"}
            name = arm.removesuffix("_published") + what
            left.hist(values, 30, color=f"C{number}", label=name, **more)
            steps = [r for r in rows if kind in r]
            middle = [np.median([v for own in r[kind][1:] for v in own]) for r in steps]
            right.plot([r["step"] for r in steps], middle, style, color=f"C{number}", label=name)
            first, at_end = middle[0], np.median(_ratios(rows, kind))
            print(f"{name}: median FP/FN {first:.3g} in the first step, {at_end:.3g} in the second half")
    left.set_title(f"log10 FP/FN of the layers, steps {last // 2} to {last}", fontsize=10)
    right.set_title("median FP/FN of a step", fontsize=10)
    right.set_yscale("log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Runs what is asked for, one after the other; prints a table of everything there is."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--runs", nargs="*", default=[], metavar="ARM:SEED", help=f"of {', '.join(ARMS)}; or all"
    )
    parser.add_argument("--data", help="a panoptic data set, in place of generated scenes")
    parser.add_argument("--start", help="weights of mobilenetv3_small_100, the backbone of every arm then")
    parser.add_argument("--proposals", type=int, help="queries or centres, in place of those of the arm")
    parser.add_argument("--out", default="runs/remax_experiment")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--val-images", type=int, default=24)
    parser.add_argument("--val-every", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument(
        "--seconds", type=float, default=450, help="a run stops after so long, to go on later"
    )
    parser.add_argument("--plot-ratios", help="PNG to draw, of the arms with sigmoid masks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    wanted = [f"{a}:{s}" for s in SEEDS for a in ARMS] if args.runs == ["all"] else args.runs
    if unknown := [w for w in wanted if w.partition(":")[0] not in ARMS]:
        parser.error(f"no arm {', '.join(unknown)}; there are {', '.join(ARMS)}")
    for word in wanted:
        arm, _, seed = word.partition(":")
        print(f"{word}: {run(arm, int(seed or 0), args)}", flush=True)
    runs = load(args)
    print_table(runs)
    if args.plot_ratios:
        plot_ratios(runs, Path(args.plot_ratios))
    print(f"\n{machine('torch', 'numpy', where='one thread')}")


if __name__ == "__main__":
    main()
