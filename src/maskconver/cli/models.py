"""List the models with network input, parameters, multiply-accumulates and results.

Example: maskconver models "maskconver_mobile*"

With --graph it prints the modules of each matching model, with their parameters and output shapes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver models`."""
    parser.add_argument(
        "pattern", nargs="?", type=str, default="*", help='names to list, a pattern such as "remax*"'
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        default=133,
        help="count parameters and multiply-accumulates for this number of classes",
    )
    parser.add_argument(
        "--graph", action="store_true", help="print the modules of each model with their output shapes"
    )
    parser.add_argument("--depth", type=int, default=2, help="number of module levels that --graph shows")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Runs `maskconver models`."""
    from ..core.files import WEIGHTS
    from ..errors import ConfigError
    from ..models import list_models
    from ..models.checkpoint import read_metadata

    names = list_models(args.pattern)
    bundled = [p for p in sorted(WEIGHTS.glob("*.safetensors")) if args.pattern in ("*", p.stem)]
    if not names and not bundled:
        raise ConfigError(f'no model matches "{args.pattern}"; known: {", ".join(list_models())}')
    if args.graph:
        return _graph(names, args)
    rows = [_row(name, args.num_classes) for name in names]
    trained = [
        {
            "name": p.stem,
            "model": (meta := read_metadata(p))["model"],
            "metrics": meta["extra"].get("metrics", {}),
        }
        for p in bundled
    ]
    if args.json:
        print(json.dumps({"models": rows, "bundled": trained}, ensure_ascii=False))
    else:
        _print(rows, trained)
    return 0


def _shapes_only(name: str, num_classes: int) -> Any:
    """A model without memory for its weights: all that counting needs."""
    import torch

    from ..models import create_model

    with torch.device("meta"):
        return create_model(name, num_classes=num_classes)


def _graph(names: list[str], args: Namespace) -> int:
    from ..models.inspect import graph, stages

    models = [_shapes_only(name, args.num_classes) for name in names]
    if args.json:
        print(json.dumps({m.name: [asdict(s) for s in stages(m, depth=args.depth)] for m in models}))
    else:
        print("\n\n".join(graph(model, depth=args.depth) for model in models))
    return 0


def _row(name: str, num_classes: int) -> dict[str, Any]:
    from ..models.inspect import count_macs, count_parameters
    from ..models.registry import model_description

    model = _shapes_only(name, num_classes)
    text, published, ours = model_description(name)
    return {
        "name": name,
        "input": list(model.input.size),
        "parameters": count_parameters(model),
        "macs": count_macs(model),
        "macs_as_published": count_macs(model, as_published=True),
        "proposals": model.config.proposals,
        "published": published,
        "ours": ours,
        "description": text,
    }


def _print(rows: list[dict[str, Any]], trained: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    lines: list[tuple[str, ...]] = [("name", "input", "M parameters", "GMACs", "published", "ours", "")]
    lines += [
        (
            row["name"],
            "×".join(str(n) for n in row["input"]),
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['macs'] / 1e9:.2f}",
            row["published"] or "–",
            row["ours"] or "–",
            row["description"],
        )
        for row in rows
    ]
    widths = [max(len(cell) for cell in cells) + 2 for cells in zip(*lines)]
    if sum(widths) > console.width:  # the names matter more than the descriptions
        lines = [line[:-1] for line in lines]
        console.width = max(console.width, sum(widths[:-1]))
    table = Table(*lines[0], box=None, pad_edge=False)
    for line in lines[1:]:
        table.add_row(*line)
    if rows:
        console.print(table)
    for row in trained:
        pq = row["metrics"].get("val/pq_things")
        figure = "" if pq is None else f", PQ of things {100 * pq:.1f} on its validation split"
        console.print(f"bundled with trained weights: {row['name']} ({row['model']}{figure})")
