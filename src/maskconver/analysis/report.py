"""The report as one HTML file: no script, font or image comes from elsewhere, so it opens from disk."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from ..core.files import atomic_path
from ..core.segmentation import Segmentation
from ..data.dataset import PanopticDataset
from ..metrics.panoptic_quality import panoptic_quality
from .mistakes import CAUSES
from .summary import Analysis, Comparison

# Colours that people with any kind of colour vision can tell apart (Okabe and Ito, 2008), and a grey.
COLORS = ("#56b4e9", "#0072b2", "#cc79a7", "#e69f00", "#f0e442", "#009e73", "#d55e00", "#8b93a5")
TITLES = {
    "class": "By class",
    "size": "By size of the object",
    "position": "By position in the image",
    "crowding": "By neighbours",
    "group": "By group of images",
}
SIDE = 640  # longer side of an image in the report, pixels


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
        worst: (index in the data set, result) of the images to show, in this order.
        title: what was compared with what.
        comparison: with another model.

    Raises:
        OSError: the file cannot be written.
    """
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{len(analysis.images)} images, {len(analysis.categories)} classes. '
        "All figures in percent.</p>",
        f'<p class="advice">{escape(analysis.advice())}</p>',
        _headline(analysis),
        *([_comparison(comparison)] if comparison else []),
        "<h2>Where panoptic quality is lost</h2>",
        "<p>The parts add up: PQ and all losses together are 100, the mean over the classes that occur.</p>",
        _losses(analysis),
        *(_groups(analysis, kind, text) for kind, text in TITLES.items()),
        _confusion(analysis),
        _charts(analysis),
        "<h2>What would help most</h2>",
        _oracles(analysis),
        _images(analysis, dataset, worst),
        _failures(analysis),
    ]
    page = Template(files("maskconver.analysis").joinpath("page.html").read_text(encoding="utf-8"))
    text = page.substitute(title=escape(title), body="\n".join(body))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def _headline(analysis: Analysis) -> str:
    quality = panoptic_quality(analysis.counts, analysis.categories)
    cells = []
    for name, group in (("all", quality.all), ("things", quality.things), ("stuff", quality.stuff)):
        if group.n:
            values = f"SQ {_percent(group.sq)} · RQ {_percent(group.rq)}"
            cells.append(f"<div>PQ, {name}<b>{_percent(group.pq)}</b>{values}</div>")
    return f'<div class="numbers">{"".join(cells)}</div>'


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]], *, words: bool = False) -> str:
    """A table of figures; `words`: the last column is text."""
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _bar(losses: dict[str, float], pq: float) -> str:
    """PQ in grey-white first, then each cause in its colour."""
    parts = [f'<span style="width:{100 * pq:.2f}%" title="PQ {_percent(pq)}"></span>']
    for (cause, value), color in zip(losses.items(), COLORS):
        if value > 0:
            style = f"width:{100 * value:.2f}%;background:{color}"
            parts.append(f'<span style="{style}" title="{cause} {_percent(value)}"></span>')
    return f'<div class="bar">{"".join(parts)}</div>'


def _losses(analysis: Analysis) -> str:
    quality = panoptic_quality(analysis.counts, analysis.categories)
    columns: list[tuple[str, dict[str, float]]] = [("all", analysis.losses())]
    if quality.things.n and quality.stuff.n:
        columns += [("things", analysis.losses(things=True)), ("stuff", analysis.losses(things=False))]
    rows = []
    for (cause, text), color in zip(CAUSES.items(), COLORS):
        swatch = f'<i style="background:{color};display:inline-block;width:12px;height:12px"></i> '
        rows.append([f"{swatch}{cause}", *(_percent(losses[cause]) for _, losses in columns), text])
    pq = 0.0 if math.isnan(quality.all.pq) else quality.all.pq
    return _bar(columns[0][1], pq) + _table(
        ["cause", *(name for name, _ in columns), "what it means"], rows, words=True
    )


def _groups(analysis: Analysis, kind: str, title: str) -> str:
    found = analysis.by(kind)
    if not found or (kind == "class" and len(found) < 2):
        return ""
    note = "" if kind in ("class", "group") else '<p class="soft">Things only, classes pooled.</p>'
    rows = [
        [
            escape(g["name"]),
            str(g["segments"]),
            _percent(g["found"]),
            _percent(g["iou"]),
            str(g["spurious"]),
            _percent(g["pq"]),
            _bar(g["losses"], g["pq"]),
        ]
        for g in found
    ]
    heads = ["", "segments", "found", "IoU", "unmatched predictions", "PQ", "PQ and losses"]
    return f"<h2>{title}</h2>{note}{_table(heads, rows)}"


def _confusion(analysis: Analysis) -> str:
    rows = [[escape(a), escape(b), str(n)] for a, b, n in analysis.confusion()[:15]]
    if not rows:
        return ""
    return "<h2>Classes that are confused</h2>" + _table(["true class", "predicted as", "segments"], rows)


def _charts(analysis: Analysis) -> str:
    charts = []
    bins = analysis.calibration()
    if len(bins) > 1:
        points = [(b["score"], b["right"]) for b in bins]
        charts.append(
            _chart("Are scores right?", "score", "share of predictions that match", points, diagonal=True)
        )
    for name, curve in analysis.sweeps.items():
        used = analysis.settings.get(name)
        charts.append(_chart(f"PQ against {name}", name, "PQ", curve, mark=used))
    return f'<h2>Scores and thresholds</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def _chart(
    title: str,
    across: str,
    up: str,
    points: list[tuple[float, float]],
    *,
    diagonal: bool = False,
    mark: float | None = None,
) -> str:
    """A line through the points as SVG; the axes begin at 0 and end at 1 or at the largest value."""
    width, height, left, bottom = 320, 220, 40, 36
    right_end = 1.0 if diagonal or max(x for x, _ in points) > 0.1 else max(x for x, _ in points) or 1.0
    values = [y for _, y in points if not math.isnan(y)]
    top = 1.0 if diagonal else min(1.0, max(values, default=1.0) * 1.15 or 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / right_end * (width - left - 8), height - bottom - y / top * (height - bottom - 10)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in points if not math.isnan(p[1])))
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        (x, low), (_, y) = at(share * right_end, 0), at(0, share * top)
        parts.append(f'<line x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share * top:.0f}</text>')
        parts.append(
            f'<text x="{x:.1f}" y="{low + 14:.1f}" text-anchor="middle">{share * right_end:.4g}</text>'
        )
    if diagonal:
        (x1, y1), (x2, y2) = at(0, 0), at(1, 1)
        parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="var(--soft)" stroke-dasharray="4"/>'
        )
    parts.append(f'<polyline points="{line}" fill="none" stroke="var(--mark)" stroke-width="2"/>')
    for x, y in points:
        if not math.isnan(y):
            cx, cy = at(x, y)
            radius = 5 if mark is not None and abs(x - mark) < 1e-9 else 3
            told = f"{across} {x:.3g}: {100 * y:.1f}" + (", in use" if radius == 5 else "")
            circle = f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}" fill="var(--mark)">'
            parts.append(f"{circle}<title>{told}</title></circle>")
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">{across}</text>')
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">'
    drawn = f"{head}{''.join(parts)}</svg><span class=soft>{up}, in percent</span>"
    return f"<figure><figcaption>{title}</figcaption>{drawn}</figure>"


def _oracles(analysis: Analysis) -> str:
    found = analysis.oracles()
    words = {
        "as it is": "nothing is changed",
        "classes": "segments found under a wrong name get the right one",
        "masks": "segments that are found, also inaccurately, get the true outline",
        "detection": "nothing is missed and nothing is spurious; masks stay as good as they are",
    }
    rows = [
        [name if name == "as it is" else f"perfect {name}", _percent(found[name]), text]
        for name, text in words.items()
    ]
    return _table(["if the model had", "PQ", "that is"], rows, words=True)


def _comparison(c: Comparison) -> str:
    chance = "The interval includes 0, so the difference may be chance." if c.low <= 0 <= c.high else ""
    text = (
        f"<h2>Against the other model</h2><p>PQ {_percent(c.first)} here, {_percent(c.second)} for the "
        f"other: difference {100 * (c.second - c.first):+.1f} points, 95 % interval {100 * c.low:+.1f} to "
        f"{100 * c.high:+.1f}. {chance}</p>"
    )
    heads = ["image", "here", "the other"]
    for name, rows in (("better with the other", c.better), ("worse with the other", c.worse)):
        if rows:
            cells = [[escape(f), _percent(a), _percent(b)] for f, a, b in rows[:8]]
            text += f"<p><b>{len(rows)} images {name}</b>, the largest changes:</p>{_table(heads, cells)}"
    return text


def _images(analysis: Analysis, dataset: PanopticDataset, worst: Iterable[tuple[int, Segmentation]]) -> str:
    number_of = {index: number for number, index in enumerate(analysis.indices)}
    cards = []
    used: dict[str, int] = dict.fromkeys(CAUSES, 0)
    for index, result in worst:
        number = number_of[index]
        causes = image_causes(analysis, number)
        for cause in causes:
            used[cause] += 1
        sample = dataset[index]
        drawn = [_jpeg(one.draw(sample.image)) for one in (result, sample.segmentation(dataset.categories))]
        pq = analysis.quality[number]
        name = escape(sample.file_name)
        told = ", ".join(f"{n} {cause}" for cause, n in causes.items()) or "no mistake"
        cards.append(
            f'<div class="image" data-causes="{"|".join(causes)}"><div class="slider">'
            f'<img src="{drawn[0]}" alt="prediction for {name}">'
            f'<img src="{drawn[1]}" alt="ground truth of {name}">'
            '<input type="range" min="0" max="100" value="50" '
            'aria-label="prediction left, ground truth right">'
            f"</div><div><b>{name}</b>: PQ {_percent(pq)}<br><span class=soft>{told}</span></div></div>"
        )
    if not cards:
        return ""
    chips = "".join(
        f'<button class="chip" aria-pressed="false" data-cause="{cause}"><i style="background:{color}"></i>'
        f"{cause} ({used[cause]})</button>"
        for (cause, _), color in zip(CAUSES.items(), COLORS)
        if used[cause]
    )
    return (
        "<h2>The worst images</h2><p>Prediction on the left of the line, ground truth on the right; drag the "
        f'line. A button shows only images with that mistake.</p><div class="chips">{chips}</div>'
        f'<div class="images">{"".join(cards)}</div>'
    )


def image_causes(analysis: Analysis, number: int) -> dict[str, int]:
    """How many segments of an image each cause of mistakes has, the most frequent first; no matched pairs."""
    m = analysis.mistakes
    rows = (m.image == number) & ~m.matched
    counts = np.bincount(m.cause[rows], minlength=len(CAUSES)).tolist()
    found = {cause: n for cause, n in zip(CAUSES, counts) if n}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _jpeg(drawn: Image.Image) -> str:
    drawn = drawn.convert("RGB")
    drawn.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _failures(analysis: Analysis) -> str:
    if not analysis.failures:
        return ""
    rows: list[list[Any]] = [[escape(path), escape(reason)] for path, reason in analysis.failures]
    return "<h2>Images that could not be read</h2>" + _table(["file", "reason"], rows, words=True)
