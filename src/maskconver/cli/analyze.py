"""Find out where a model loses panoptic quality: which mistakes, on what objects, in which images.

Writes one HTML page that opens in any browser, also without a network. PQ and the losses in it add up to 100.

Example: maskconver analyze runs/cells --data my_data --split val --out report.html

`--sweep proposals` shows PQ and time against the number of proposals (MaskConver, Table 3), `--sweep size`
against the size of the network input (Table 2).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_common,
    add_data_paths,
    add_postprocess_options,
    data_paths,
    postprocess_settings,
    progress_bar,
    require_ending,
    shown,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver analyze`."""
    add = parser.add_argument
    add(
        "model",
        type=str,
        help="bundled model name, folder of a training run, model file or exported file; or the COCO "
        "panoptic JSON of predictions, with its folder of PNGs beside it",
    )
    add_common(parser, "data", "split")
    add_data_paths(parser)
    add("--out", type=str, default="analysis.html", help="the page that is written")
    add("--by", type=str | None, default=None, help="also group by this key of images[] in the JSON file")
    add(
        "--versus",
        type=str | None,
        default=None,
        help="another model, or file of predictions, to compare with",
    )
    add(
        "--sweep",
        type=list[str] | str,
        default=["score_threshold", "overlap_threshold"],
        help="what to vary: the thresholds score_threshold, overlap_threshold, min_area; or proposals or "
        "size (of the network input), for which the network runs again; [] for none",
    )
    add(
        "--ap",
        action="store_true",
        help='also split the lost COCO mask AP of things by cause (needs the extra "ap")',
    )
    add("--worst", type=int, default=24, help="how many of the worst images the page shows")
    add_postprocess_options(parser)
    add_common(parser, "device")
    add("--json", action="store_true", help="print all figures as JSON, as fractions from 0 to 1")


def run(args: Namespace) -> int:
    """Runs `maskconver analyze`; 0 when every image was analyzed, 1 when some failed."""
    from ..analysis.report import reasons, write_report
    from ..analysis.run import analyze, results
    from ..analysis.summary import compare
    from ..core.malloc import keep_freed_memory
    from ..data.open import open_dataset
    from ..data.semantic import as_model_sees
    from ..errors import ConfigError
    from ..inference.predictor import Predictor

    if args.worst < 0:
        raise ConfigError(f"`worst` must be 0 or more, got {args.worst}")
    require_ending("out", args.out, ".html", ".htm")
    dataset = open_dataset(args.data, args.split, data_paths(args))

    keep_freed_memory()

    def source(name: str) -> Any:
        if name.endswith(".json"):
            return name
        predictor = Predictor(name, device=args.device, **postprocess_settings(args))
        dataset.read_for(predictor.runtime.input)
        return predictor

    model = source(args.model)
    if isinstance(model, Predictor):
        dataset = as_model_sees(dataset, model.categories)
    with progress_bar("", len(dataset)) as advance:
        found = analyze(
            model,
            dataset,
            by=args.by,
            mask_ap=args.ap,
            keep=args.worst,
            sweeps=(args.sweep,) if isinstance(args.sweep, str) else tuple(args.sweep),
            on_image=advance,
        )
    comparison = None
    if args.versus:
        with progress_bar("the other model", len(dataset)) as advance:
            comparison = compare(found, analyze(source(args.versus), dataset, sweeps=(), on_image=advance))
    ranked = sorted((q, i) for q, i in zip(found.quality, found.indices) if not math.isnan(q))
    worst = [index for _, index in ranked[: args.worst]]
    write_report(
        Path(args.out),
        found,
        dataset,
        results(model, dataset, worst, kept=found.kept),
        title=f"{args.model} on {dataset.path}",
        comparison=comparison,
    )
    answer = found.to_json()
    if args.json:
        more = {} if comparison is None else {"versus": comparison.to_json()}
        print(json.dumps(answer | more, ensure_ascii=False))
    else:
        print(found.advice())
        for cause, loss in sorted(answer["losses"].items(), key=lambda item: -item[1]):
            print(f"  {cause:<12} {100 * loss:5.1f}")
        if worst:
            first = found.indices.index(worst[0])
            told = "; ".join(reasons(found, first)) or "no mistake"
            print(f"worst image {found.images[first]}, PQ {100 * ranked[0][0]:.1f}: {told}")
        for name in found.seconds:
            print(f"PQ against {name}:")
            for row in found.sweep(name):
                used = ", in use" if row["value"] == found.settings[name] else ""
                pq, spent = 100 * row["pq"], 1000 * row["seconds"]
                print(f"  {row['value']:<8g} {pq:5.1f}  {spent:.0f} ms an image{used}")
        if found.unswept:
            few = f"{found.unswept} of {len(found.images)} images"
            print(f"{few} are segmented in tiles and left out where settings are varied")
        if comparison is not None:
            gain, low, high = (
                100 * v for v in (comparison.second - comparison.first, comparison.low, comparison.high)
            )
            print(f"{args.versus}: PQ {gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}")
        print(f"saved {args.out}")
    for path, reason in found.failures:
        print(f"failed: {path}: {shown(reason)}", file=sys.stderr)
    return 1 if found.failures else 0
