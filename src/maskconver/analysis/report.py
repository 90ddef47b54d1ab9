"""The report as one HTML file: no script, font or image comes from elsewhere, so it opens from disk."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..core.segmentation import Segmentation
from ..data.dataset import PanopticDataset
from ..errors import MaskconverError
from ..inference.evaluation import failure
from ..metrics.mask_ap import TIDE
from ..metrics.panoptic_quality import panoptic_quality
from .mistakes import CAUSES
from .page import COLORS, chart, jpeg, percent, table, write_page
from .summary import Analysis, Comparison

TITLES = {
    "class": "By class",
    "size": "By size of the object",
    "position": "By position in the image",
    "crowding": "By neighbours",
    "group": "By group of images",
}
SWEPT = {
    "proposals": "masks the network proposes",
    "size": "longer side of the network input in pixels, or factor by which images are resized",
}
HOW = "Prediction on the left of the line, ground truth on the right; drag the line."
REASONS = {
    "boundary": "with inexact edges",
    "coverage": "incomplete",
    "wrong class": "named {other}",
    "merged": "merged with others",
    "split": "split in pieces",
    "inaccurate": "too inaccurate to count",
    "missed": "not found",
    "spurious": "predicted where there is none",
}


def write_report(
    path: Path,
    analysis: Analysis,
    dataset: PanopticDataset,
    worst: Iterable[tuple[int, Segmentation]],
    *,
    title: str,
    comparison: Comparison | None = None,
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        analysis: what it shows.
        dataset: that was analyzed; the images and the ground truth come from it.
        worst: (index in the data set, result) of the images to show, in this order; those that cannot be read
            are added to the failures of the analysis.
        title: what was compared with what.
        comparison: with another model.

    Raises:
        OSError: the file cannot be written.
    """
    shown = _Images(analysis, dataset, worst)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{len(analysis.images)} images, {len(analysis.categories)} classes. '
        "All figures in percent.</p>",
        f'<p class="advice">{escape(analysis.advice())}</p>',
        _headline(analysis),
        shown.worst,
        *([_comparison(comparison)] if comparison else []),
        "<h2>Where panoptic quality is lost</h2>",
        "<p>The parts add up: PQ and all losses together are 100, the mean over the classes that occur.</p>",
        _losses(analysis),
        *(_groups(analysis, kind, text) for kind, text in TITLES.items()),
        _confusion(analysis),
        _mask_ap(analysis),
        _charts(analysis),
        "<h2>What would help most</h2>",
        _oracles(analysis),
        shown.section,
        _failures(analysis),
    ]
    write_page(path, title, body)


def _headline(analysis: Analysis) -> str:
    quality = panoptic_quality(analysis.counts, analysis.categories)
    cells = []
    for name, group in (("all", quality.all), ("things", quality.things), ("stuff", quality.stuff)):
        if group.n:
            values = f"SQ {percent(group.sq)} · RQ {percent(group.rq)}"
            cells.append(f"<div>PQ, {name}<b>{percent(group.pq)}</b>{values}</div>")
    return f'<div class="numbers">{"".join(cells)}</div>'


def _bar(losses: dict[str, float], pq: float) -> str:
    """PQ in grey-white first, then each cause in its colour."""
    parts = [f'<span style="width:{100 * pq:.2f}%" title="PQ {percent(pq)}"></span>']
    for (cause, value), color in zip(losses.items(), COLORS):
        if value > 0:
            style = f"width:{100 * value:.2f}%;background:{color}"
            parts.append(f'<span style="{style}" title="{cause} {percent(value)}"></span>')
    return f'<div class="bar">{"".join(parts)}</div>'


def _losses(analysis: Analysis) -> str:
    quality = panoptic_quality(analysis.counts, analysis.categories)
    columns: list[tuple[str, dict[str, float]]] = [("all", analysis.losses())]
    if quality.things.n and quality.stuff.n:
        columns += [("things", analysis.losses(things=True)), ("stuff", analysis.losses(things=False))]
    rows = []
    for (cause, text), color in zip(CAUSES.items(), COLORS):
        swatch = f'<i style="background:{color};display:inline-block;width:12px;height:12px"></i> '
        rows.append([f"{swatch}{cause}", *(percent(losses[cause]) for _, losses in columns), text])
    pq = 0.0 if math.isnan(quality.all.pq) else quality.all.pq
    return _bar(columns[0][1], pq) + table(
        ["cause", *(name for name, _ in columns), "what it means"], rows, words=True
    )


def _groups(analysis: Analysis, kind: str, title: str) -> str:
    found = analysis.by(kind)
    if not found or (kind == "class" and len(found) < 2):
        return ""
    pooled = "Classes pooled." if kind == "group" else "Things only, classes pooled."
    note = "" if kind == "class" else f'<p class="soft">{pooled}</p>'
    rows = [
        [
            escape(g["name"]),
            str(g["segments"]),
            percent(g["found"]),
            percent(g["iou"]),
            str(g["spurious"]),
            percent(g["pq"]),
            _bar(g["losses"], g["pq"]),
        ]
        for g in found
    ]
    heads = ["", "segments", "found", "IoU", "unmatched predictions", "PQ", "PQ and losses"]
    return f"<h2>{title}</h2>{note}{table(heads, rows)}"


def _confusion(analysis: Analysis) -> str:
    rows = [[escape(a), escape(b), str(n)] for a, b, n in analysis.confusion()[:15]]
    if not rows:
        return ""
    return "<h2>Classes that are confused</h2>" + table(["true class", "predicted as", "segments"], rows)


def _mask_ap(analysis: Analysis) -> str:
    found = analysis.mask_ap
    if found is None:
        return ""
    rows = [[name, percent(found.gain[name]), str(found.counts[name]), text] for name, text in TIDE.items()]
    kinds = table(["error", "AP50 lost", "number", "what it means"], rows, words=True)
    pairs = [[escape(a or "nothing"), escape(b or "nothing"), str(n)] for a, b, n in found.confusion[:15]]
    confused = table(["true class", "detected as", "number"], pairs) if pairs else ""
    return (
        f"<h2>Mask AP of things</h2><p>AP at an IoU of 0.5 is {percent(found.ap50)}. The table says how much "
        f"it would rise without each kind of error (TIDE); the gains do not add up.</p>{kinds}{confused}"
    )


def _charts(analysis: Analysis) -> str:
    charts = []
    bins = analysis.calibration()
    if len(bins) > 1:
        points = [(100 * b["score"], 100 * b["right"]) for b in bins]
        told = "share of predictions that match, in percent"
        charts.append(
            chart(
                "Are scores right?",
                {"": points},
                across="score",
                note=told,
                top=100,
                right=100,
                diagonal=True,
                dots=True,
            )
        )
    for name, curve in analysis.sweeps.items():
        points, used = [(x, 100 * y) for x, y in curve], analysis.settings.get(name)
        charts.append(
            chart(
                f"PQ against {name}", {"": points}, across=name, note="PQ, in percent", dots=True, mark=used
            )
        )
    tables = [
        f"<h3>PQ against {name}</h3>"
        + table(
            [SWEPT[name], "PQ", "ms an image"],
            [
                [
                    f"{row['value']:g}" + (" (in use)" if row["value"] == analysis.settings[name] else ""),
                    percent(row["pq"]),
                    f"{1000 * row['seconds']:.0f}",
                ]
                for row in analysis.sweep(name)
            ],
        )
        for name in analysis.seconds
    ]
    left_out = ""
    if analysis.unswept:
        which = f"{analysis.unswept} of {len(analysis.images)} images, segmented in tiles, are left out here."
        left_out = f'<p class="soft">Where settings are varied, {which}</p>'
    if not charts:
        return left_out
    drawn = f'<div class="charts">{"".join(charts)}</div>{"".join(tables)}'
    return f"<h2>Scores and thresholds</h2>{left_out}{drawn}"


def _oracles(analysis: Analysis) -> str:
    found = analysis.oracles()
    words = {
        "as it is": "nothing is changed",
        "classes": "segments found under a wrong name get the right one",
        "masks": "segments that are found, also inaccurately, get the true outline",
        "detection": "nothing is missed and nothing is spurious; masks stay as good as they are",
    }
    rows = [
        [name if name == "as it is" else f"perfect {name}", percent(found[name]), text]
        for name, text in words.items()
    ]
    return table(["if the model had", "PQ", "that is"], rows, words=True)


def _comparison(c: Comparison) -> str:
    chance = "The interval includes 0, so the difference may be chance." if c.low <= 0 <= c.high else ""
    text = (
        f"<h2>Against the other model</h2><p>PQ {percent(c.first)} here, {percent(c.second)} for the "
        f"other: difference {100 * (c.second - c.first):+.1f} points, 95 % interval {100 * c.low:+.1f} to "
        f"{100 * c.high:+.1f}. {chance}</p>"
    )
    heads = ["image", "here", "the other"]
    for name, rows in (("better with the other", c.better), ("worse with the other", c.worse)):
        if rows:
            cells = [[escape(f), percent(a), percent(b)] for f, a, b in rows[:8]]
            text += f"<p><b>{len(rows)} images {name}</b>, the largest changes:</p>{table(heads, cells)}"
    return text


class _Images:
    """The images that are shown: `worst`, the first of them, for the top of the page; and `section`, all."""

    def __init__(
        self, analysis: Analysis, dataset: PanopticDataset, worst: Iterable[tuple[int, Segmentation]]
    ) -> None:
        number_of = {index: number for number, index in enumerate(analysis.indices)}
        cards: list[str] = []
        used: dict[str, int] = dict.fromkeys(CAUSES, 0)
        self.worst = self.section = ""
        for index, result in worst:
            number = number_of[index]
            try:
                sample = dataset[index]
            except (MaskconverError, OSError) as error:  # predictions of files need no images until now
                analysis.failures.append(failure(dataset.image_path(index), error))
                continue
            causes = image_causes(analysis, number)
            for cause in causes:
                used[cause] += 1
            drawn = [
                jpeg(one.draw(sample.image)) for one in (result, sample.segmentation(dataset.categories))
            ]
            name, pq = escape(sample.file_name), percent(analysis.quality[number])
            slider = (
                f'<div class="slider"><img src="{drawn[0]}" alt="prediction for {name}">'
                f'<img src="{drawn[1]}" alt="ground truth of {name}">'
                '<input type="range" min="0" max="100" value="50" '
                'aria-label="prediction left, ground truth right"></div>'
            )
            told = escape("; ".join(reasons(analysis, number)) or "no mistake")
            if not cards:
                self.worst = (
                    f'<div class="worst">{slider}<div>The worst image<b>{name}</b>PQ {pq}: {told}.'
                    f'<p class="soft">{HOW}</p><a href="#images">More of the worst images</a></div></div>'
                )
            cards.append(
                f'<div class="image" data-causes="{"|".join(causes)}">{slider}<div><b>{name}</b>: PQ {pq}<br>'
                f"<span class=soft>{told}</span></div></div>"
            )
        if not cards:
            return
        chips = "".join(
            f'<button class="chip" aria-pressed="false" data-cause="{cause}">'
            f'<i style="background:{color}"></i>'
            f"{cause} ({used[cause]})</button>"
            for (cause, _), color in zip(CAUSES.items(), COLORS)
            if used[cause]
        )
        self.section = (
            '<h2 id="images">The worst images</h2><p>By the PQ of all their things together (of stuff where '
            f"there is no thing). {HOW} A button shows only images with that mistake.</p>"
            f'<div class="chips">{chips}</div>'
            f'<div class="images">{"".join(cards)}</div>'
        )


def reasons(analysis: Analysis, number: int, most: int = 3) -> list[str]:
    """What costs an image most of its PQ, the most frequent first, such as `9 of 12 window not found`."""
    m = analysis.mistakes[analysis.mistakes.image == number]
    things = analysis.categories.is_thing[m.label]
    m = m[things] if things.any() else m
    found = []
    for k, cause in enumerate(CAUSES):
        rows = ~m.matched & (m.cause == k)
        for label in np.unique(m.label[rows]).tolist():
            mine, name = rows & (m.label == label), analysis.categories[label].name
            if (true := mine & ~m.predicted).any():  # with its predictions it counts once
                mine, name = true, f"of {((m.label == label) & ~m.predicted).sum()} {name}"
            others = [analysis.categories[o].name for o in np.unique(m.other[mine]).tolist() if o >= 0]
            found.append((int(mine.sum()), name, REASONS[cause].format(other=" or ".join(others))))
    found.sort(key=lambda one: -one[0])
    return [f"{count} {name} {text}" for count, name, text in found[:most]]


def image_causes(analysis: Analysis, number: int) -> dict[str, int]:
    """How many segments of an image each cause of mistakes has, the most frequent first; no matched pairs."""
    m = analysis.mistakes
    rows = (m.image == number) & ~m.matched
    counts = np.bincount(m.cause[rows], minlength=len(CAUSES)).tolist()
    found = {cause: n for cause, n in zip(CAUSES, counts) if n}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _failures(analysis: Analysis) -> str:
    if not analysis.failures:
        return ""
    rows: list[list[Any]] = [[escape(path), escape(reason)] for path, reason in analysis.failures]
    return "<h2>Images that could not be read</h2>" + table(["file", "reason"], rows, words=True)
