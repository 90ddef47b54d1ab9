"""Measure PQ, mIoU and AP of a model on a data set with ground truth.

Example: maskconver evaluate nuclei --data my_data --split val --per-class
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.files import EXPORTED_SUFFIXES
from .options import (
    add_common,
    add_data_paths,
    add_model,
    add_postprocess_options,
    add_semantic_from,
    add_tile_options,
    add_tta,
    data_paths,
    plain_console,
    postprocess_settings,
    progress_bar,
    refuse_old_options,
    require_ending,
    shown,
    table,
    tile_settings,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from ..inference.evaluation import Evaluation, Figures

prepare = refuse_old_options


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver evaluate`."""
    add = parser.add_argument
    add_model(parser)
    add_common(parser, "data", "split")
    add_data_paths(parser)
    add_common(parser, "by")
    add("--per-class", action="store_true", help="also print figures for each class")
    add("--ap", action="store_true", help='also measure COCO mask AP of things (needs the extra "ap")')
    add(
        "--instances-from",
        type=Literal["panoptic", "scores"] | None,
        default=None,
        help="compute --ap from the thing segments of the panoptic result, or from the best 100 pairs of a "
        "mask and a class, which may overlap; by default scores for kMaX-DeepLab and ReMaX, panoptic for "
        "MaskConver",
    )
    add_semantic_from(parser, "compute mIoU")
    add(
        "--gallery",
        type=str | None,
        default=None,
        help="folder for drawings of the best and the worst results beside their ground truth",
    )
    add(
        "--tune",
        type=str | None,
        default=None,
        help="find the best thresholds on this data, and save the model with them to this file",
    )
    add(
        "--remask",
        action="store_true",
        help="relax masks with the ReMask branches of the model file (ReMaX, Table 5), which a run keeps "
        "there with --loss.remax.keep_branches true",
    )
    add_postprocess_options(parser)
    add_tta(parser)
    add_tile_options(parser)
    add_common(parser, "proposals", "white_level", "device")
    add("--json", action="store_true", help="print the figures as JSON, as fractions from 0 to 1")


def run(args: Namespace) -> int:
    """Runs `maskconver evaluate`; 0 when every image was evaluated, 1 when some failed."""
    from ..core.malloc import keep_freed_memory
    from ..data.open import open_dataset
    from ..data.semantic import as_model_sees
    from ..errors import ConfigError
    from ..inference.evaluation import evaluate, tune, write_gallery
    from ..inference.predictor import Predictor

    if args.tune and args.model.endswith(EXPORTED_SUFFIXES):
        raise ConfigError(f"{args.model} cannot be changed; tune the model it was exported from")
    require_ending("tune", args.tune, ".safetensors")
    dataset = open_dataset(args.data, args.split, data_paths(args))
    settings = postprocess_settings(args) | tile_settings(args)
    model: Any = _relaxing(args) if args.remask else args.model
    keep_freed_memory()
    predictor = Predictor(model, device=args.device, proposals=args.proposals, tta=args.tta, **settings)
    dataset.read_for(predictor.runtime.input, args.white_level)
    dataset = as_model_sees(dataset, predictor.categories)
    if args.tune:
        with progress_bar("thresholds", len(dataset)) as advance:
            predictor.postprocess, grid = tune(predictor, dataset, on_image=advance)
        _save_tuned(args.model, args.tune, predictor.postprocess)
        if not args.json:
            best = max(grid, key=lambda row: -1.0 if math.isnan(row[2]) else row[2])
            print(f"best thresholds: score {best[0]}, overlap {best[1]}; saved {args.tune}")
    start = time.perf_counter()
    with progress_bar("", len(dataset)) as advance:
        result = evaluate(
            predictor,
            dataset,
            by=args.by,
            mask_ap=args.ap,
            semantic_from=args.semantic_from,
            instances_from=args.instances_from,
            on_image=advance,
        )
    seconds = time.perf_counter() - start
    if args.json:
        print(json.dumps(_json(result, args.by, seconds), ensure_ascii=False))
    else:
        _print(result, args, seconds)
    if args.gallery:
        paths = write_gallery(Path(args.gallery), predictor, dataset, quality=result.quality)
        print(f"{len(paths)} images: {args.gallery}", file=sys.stderr)
    for path, reason in result.failures:
        print(f"failed: {path}: {shown(reason)}", file=sys.stderr)
    return 1 if result.failures else 0


def _relaxing(args: Namespace) -> Any:
    """The model with its ReMask branches at work, where it will run."""
    from ..errors import ConfigError
    from ..inference.torch import best_device
    from ..models.checkpoint import load

    if args.model.endswith(EXPORTED_SUFFIXES):
        raise ConfigError(f"{args.model} has no ReMask branches; give the model it was exported from")
    return load(args.model).with_remask().optimized().to(args.device or best_device())


def _save_tuned(model: str, path: str, postprocess: Any) -> None:
    from ..models.checkpoint import find, load, read_metadata, save

    loaded = load(model)
    loaded.config.postprocess = postprocess
    save(loaded, path, extra=read_metadata(find(model))["extra"])


def _json(result: Evaluation, by: str | None, seconds: float) -> dict[str, Any]:
    answer = result.total.to_json()
    name, value = result.total.headline
    answer["mIoU"]["from"] = result.semantic_from
    if "AP" in answer:
        answer["AP"]["from"] = result.instances_from
    answer["headline"] = {"name": name, "value": None if math.isnan(value) else value}
    if by:
        answer["groups"] = {name: figures.to_json() for name, figures in sorted(result.groups.items())}
    answer["images_per_second"] = round(result.total.images / seconds, 3)
    answer["failed"] = [{"file": path, "reason": shown(reason)} for path, reason in result.failures]
    return answer


def _print(result: Evaluation, args: Namespace, seconds: float) -> None:
    console = plain_console()
    groups = [("", result.total), *((name or '""', f) for name, f in sorted(result.groups.items()))]
    console.print(_semantic(groups) if result.total.headline[0] == "mIoU" else _panoptic(groups))
    if args.ap:
        assert result.total.mask_ap is not None
        values = result.total.mask_ap.compute().to_json()
        how = "" if result.instances_from == "panoptic" else ", from the scores of all masks"
        console.print(
            f"mask AP of things{how}: " + ", ".join(f"{k} {_percent(v)}" for k, v in values.items())
        )
    if result.semantic_from == "scores":
        console.print("mIoU is from the scores of all masks, see --semantic-from")
    if args.per_class:
        console.print(_classes(result.total))
    console.print(f"{result.total.images / seconds:.2f} images/s, with reading and metrics")


def _semantic(groups: list[tuple[str, Figures]]) -> Any:
    made = table("", "images", "mIoU", "pixel accuracy", "classes", "PQ", "SQ", "RQ")
    for name, figures in groups:
        miou, quality = figures.miou.compute(), figures.pq.compute().all
        occur = sum(not math.isnan(v) for v in miou.per_class.values())
        figure = [_percent(v) for v in (miou.miou, miou.pixel_accuracy)]
        more = [_percent(v) for v in (quality.pq, quality.sq, quality.rq)]
        made.add_row(name or "all", str(figures.images), *figure, str(occur), *more)
    return made


def _panoptic(groups: list[tuple[str, Figures]]) -> Any:
    made = table("", "images", "PQ", "SQ", "RQ", "classes", "mIoU", "AP@0.5")
    for name, figures in groups:
        _rows(made, name, figures)
    return made


def _rows(made: Any, name: str, figures: Figures) -> None:
    quality, json_figures = figures.pq.compute(), figures.to_json()
    for kind, group in (("all", quality.all), ("things", quality.things), ("stuff", quality.stuff)):
        if not group.n and kind != "all":
            continue
        extra = ["", ""]
        if kind == "all":
            extra = [_percent(json_figures["mIoU"]["miou"]), ""]
        elif kind == "things":
            extra = ["", _percent(json_figures["AP50_pooled"]["ap"])]
        label = f"{name} {kind}".strip()
        values = [_percent(v) for v in (group.pq, group.sq, group.rq)]
        made.add_row(label, str(figures.images), *values, str(group.n), *extra)


def _classes(figures: Figures) -> Any:
    made = table("class", "IoU", "PQ", "SQ", "RQ", "TP", "FP", "FN")
    iou = figures.miou.compute().per_class
    for category_id, q in figures.pq.compute().per_class.items():
        if q.tp + q.fp + q.fn or not math.isnan(iou[category_id]):
            name = figures.categories[figures.categories.label(category_id)].name
            values = [_percent(v) for v in (iou[category_id], q.pq, q.sq, q.rq)]
            made.add_row(name, *values, str(q.tp), str(q.fp), str(q.fn))
    return made


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f}"
