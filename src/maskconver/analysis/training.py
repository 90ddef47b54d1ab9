"""A training run as one HTML page: its curves, what it was shown, and what it predicted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path

from ..errors import DataError
from .page import Points, chart, data_url, percent, table, write_page

NAME = "report.html"
DRAWN = 200  # points of a line at most; a point is then the mean of several steps
NO_TERMS = ("train/total", "train/dropped", "train/fp_fn", "train/fp_fn_unrelaxed")
SLOW_LOADER = 0.25  # share of the time a step waits for images, from which the page says so

Metrics = dict[str, list[tuple[int, float]]]


def read_metrics(folder: Path) -> Metrics:
    """(step, value) of everything a run logged, also of its parts before it was resumed.

    Args:
        folder: of the run.

    Raises:
        DataError: it has no metrics.csv, or one that is damaged.
    """
    files = [*sorted(folder.glob("metrics_before_*.csv"), key=_number), folder / "metrics.csv"]
    if not files[-1].is_file():
        raise DataError(f"{folder} is not the folder of a training run: it has no metrics.csv")
    found: dict[str, dict[int, float]] = {}
    for file in files:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            try:
                for row in csv.DictReader(lines):
                    step = int(row["step"] or "")
                    for name, text in row.items():
                        if name != "step" and isinstance(text, str) and text:
                            found.setdefault(name, {})[step] = float(text)
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise DataError(f"{file} is not a table of metrics ({error})") from error
    return {name: sorted(values.items()) for name, values in found.items()}


def _number(path: Path) -> tuple[int, str]:
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0, path.name


def read_validations(folder: Path) -> Metrics:
    """(step, value) of each figure of the validations, by name without `val/`; damaged lines are left out."""
    found: dict[str, dict[int, float]] = {}
    path = folder / "curve.jsonl"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            step = int(row.pop("step"))
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
        for name, value in row.items():
            if isinstance(value, int | float):
                found.setdefault(name.removeprefix("val/"), {})[step] = float(value)
    return {name: sorted(values.items()) for name, values in found.items()}


def write_run_report(folder: Path, path: Path | None = None) -> Path:
    """Gather a run in one page.

    Args:
        folder: of the run.
        path: of the page; `report.html` in the folder if left out.

    Returns:
        The path of the page.

    Raises:
        DataError: it is not the folder of a run.
        OSError: the page cannot be written.
    """
    metrics, figures = read_metrics(folder), read_validations(folder)
    title = f"Training {folder.resolve().name}"
    last = max((step for line in [*metrics.values(), *figures.values()] for step, _ in line[-1:]), default=0)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{last} steps so far.</p>',
        *(f'<p class="advice">{escape(text)}</p>' for text in _notes(metrics, figures)),
        _validations(figures),
        '<h2>Curves</h2><div class="charts">',
        *_charts(metrics, figures),
        "</div>",
        *_images(folder),
    ]
    recipe = folder / "recipe.yaml"
    if recipe.is_file():
        text = escape(recipe.read_text(encoding="utf-8", errors="replace"))
        body.append(f"<h2>Recipe</h2><details><summary>All fields</summary><pre>{text}</pre></details>")
    path = folder / NAME if path is None else path
    write_page(path, title, body)
    return path


def _headline(figures: Metrics) -> str:
    """The figure that chooses the best model: PQ where it means something, mIoU otherwise."""
    return "pq" if figures.get("pq_things") else "miou"


def _notes(metrics: Metrics, figures: Metrics) -> list[str]:
    notes = []
    name = _headline(figures)
    if line := figures.get(name):
        best, last = max(line, key=lambda point: point[1]), line[-1]
        word = {"pq": "PQ", "miou": "mIoU"}[name]
        text = f"Best {word}: {percent(best[1])} at step {best[0]}."
        if last[0] != best[0]:
            text += f" At step {last[0]} it is {percent(last[1])}."
        notes.append(text)
    waits = [value for _, value in metrics.get("wait share", [])]
    if waits and (wait := sum(waits) / len(waits)) > SLOW_LOADER:
        notes.append(
            f"{percent(wait, 0)} % of the time the steps wait for images. More loader processes "
            "(data.workers) or smaller files help."
        )
    return notes


def _validations(figures: Metrics) -> str:
    names = {
        "pq": "PQ",
        "pq_things": "PQ, things",
        "pq_stuff": "PQ, stuff",
        "sq": "SQ",
        "rq": "RQ",
        "miou": "mIoU",
    }
    there = {name: dict(figures[name]) for name in names if figures.get(name)}
    steps = sorted({step for line in there.values() for step in line})[-12:]
    if not steps:
        return '<p class="soft">No validation yet.</p>'
    rows = [[str(step), *(percent(line.get(step)) for line in there.values())] for step in steps]
    return "<h2>Validation, in percent</h2>" + table(["step", *(names[name] for name in there)], rows)


def _charts(metrics: Metrics, figures: Metrics) -> Iterable[str]:
    def curves(names: dict[str, str], *, source: Metrics = metrics, scale: float = 1.0) -> dict[str, Points]:
        return {
            shown: [(x, scale * y) for x, y in thinned(source[name])]
            for name, shown in names.items()
            if source.get(name)
        }

    terms = [name for name in metrics if name.startswith("train/") and name not in NO_TERMS]
    qualities = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "miou": "mIoU"}
    kinds = {"pq_things": "things", "pq_stuff": "stuff"}
    speeds = {"images/s": "whole", "step images/s": "step alone"}
    drawn = [
        ("Loss", curves({"train/total": "total"}), ""),
        ("Loss terms", curves({name: name.removeprefix("train/") for name in terms}), ""),
        ("Quality", curves(qualities, source=figures, scale=100), "at each validation, in percent"),
        ("PQ of things and stuff", curves(kinds, source=figures, scale=100), "in percent"),
        ("Learning rate", curves({"learning rate": "learning rate"}), ""),
        ("Images per second", curves(speeds), "whole: with waiting for images"),
        ("Memory", curves({"memory GB": "memory"}), "GB: of the GPU at most, or of the process"),
        (
            "False-positive loss / false-negative loss",
            curves({"train/fp_fn": "as trained", "train/fp_fn_unrelaxed": "before relaxing"}),
            "of the masks (ReMaX, Figure 1)",
        ),
    ]
    for title, lines, note in drawn:
        if lines:
            yield chart(title, lines, across="step", note=note, dots=title == "Quality")


def thinned(line: list[tuple[int, float]], most: int = DRAWN) -> list[tuple[float, float]]:
    """Means of neighbours, so that at most `most` points are left; without what is not finite."""
    line = [point for point in line if math.isfinite(point[1])]
    size = -(-len(line) // most) or 1
    groups = [
        [point for _, point in group] for _, group in groupby(enumerate(line), lambda item: item[0] // size)
    ]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _images(folder: Path) -> Iterable[str]:
    drawn = [
        (
            "What the network saw first",
            "batch_*.jpg",
            2,
            "Augmented images, masks and centres to learn, heatmaps.",
        ),
        ("Predictions beside the ground truth", "step_*.jpg", 1, "Of the last validation."),
    ]
    for title, pattern, count, text in drawn:
        paths = sorted(folder.joinpath("images").glob(pattern))
        chosen = paths[:count] if pattern.startswith("batch") else paths[-count:]
        if chosen:
            yield f"<h2>{title}</h2><p>{text}</p>"
        for path in chosen:
            source = data_url(path.read_bytes(), "image/jpeg")
            yield f'<p><img src="{source}" alt="{escape(path.stem)}" style="max-width:100%"></p>'
