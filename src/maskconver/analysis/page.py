"""Pages as one HTML file: tables, curves and images, without a script, font or image from elsewhere."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from ..core.files import atomic_path

# Colours that people with any kind of colour vision can tell apart (Okabe and Ito, 2008), and a grey.
COLORS = ("#56b4e9", "#0072b2", "#cc79a7", "#e69f00", "#f0e442", "#009e73", "#d55e00", "#8b93a5")
SIDE = 640  # longer side of an image in a page, pixels
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 220, 46, 10, 10, 36  # of a chart, and its margins

Points = Sequence[tuple[float, float]]


def write_page(path: Path, title: str, body: Iterable[str]) -> None:
    """Write a page, whole or not at all.

    Args:
        path: of the HTML file.
        title: of the page, plain text.
        body: its parts, HTML.

    Raises:
        OSError: the file cannot be written.
    """
    page = Template(files("maskconver.analysis").joinpath("page.html").read_text(encoding="utf-8"))
    text = page.substitute(title=escape(title), body="\n".join(body))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent, a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], *, words: bool = False) -> str:
    """A table of figures; `words`: the last column is text."""
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def jpeg(drawn: Image.Image) -> str:
    """An image as a data URL, reduced to `SIDE`."""
    drawn = drawn.convert("RGB")
    drawn.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=82)
    return data_url(buffer.getvalue(), "image/jpeg")


def data_url(content: bytes, kind: str) -> str:
    """Bytes of a file as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def chart(
    title: str,
    lines: Mapping[str, Points],
    *,
    across: str,
    note: str = "",
    top: float | None = None,
    right: float | None = None,
    diagonal: bool = False,
    dots: bool = False,
    mark: float | None = None,
) -> str:
    """Lines through points, as SVG in a figure; both axes begin at 0.

    Args:
        title: of the figure.
        lines: (x, y) points by the name of the line; those that are not finite are left out.
        across: what x is.
        note: the line below.
        top, right: where the axes end; where the points do if left out.
        diagonal: also draws a dashed line from corner to corner.
        dots: draws the points, too, each with its value.
        mark: x of the points that are in use now.
    """
    kept = {name: [p for p in line if all(map(math.isfinite, p))] for name, line in lines.items()}
    points = [p for line in kept.values() for p in line]
    ups = _ticks(max((y for _, y in points), default=0.0), top)
    downs = _ticks(max((x for x, _ in points), default=0.0), right)
    high, end = ups[-1], downs[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x / end * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - max(y, 0.0) / high * (HEIGHT - BOTTOM - TOP),
        )

    parts = []
    for value in ups:
        _, y = at(0, value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in downs:
        x, y = at(value, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{_short(value)}</text>')
    if diagonal:
        (x1, y1), (x2, y2) = at(0, 0), at(end, high)
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        parts.append(f'<line {place} stroke="var(--soft)" stroke-dasharray="4"/>')
    legend = []
    for number, (name, line) in enumerate(kept.items()):
        color = "var(--mark)" if len(kept) == 1 else COLORS[(number + 1) % len(COLORS)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in line))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="2"/>')
        for x, y in line if dots or len(line) == 1 else ():
            used = mark is not None and abs(x - mark) < 1e-9
            told = f"{name} {across} {x:.4g}: {y:.4g}{', in use' if used else ''}".strip()
            cx, cy = at(x, y)
            circle = f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{5 if used else 3}" fill="{color}">'
            parts.append(f"{circle}<title>{escape(told)}</title></circle>")
        if len(kept) > 1:
            legend.append(f'<li><i style="background:{color}"></i>{escape(name)}</li>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(across)}</text>')
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(title)}">'
    below = f'<ul class="legend">{"".join(legend)}</ul>' if legend else ""
    below += f'<span class="soft">{escape(note)}</span>' if note else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{head}{''.join(parts)}</svg>{below}</figure>"


def _ticks(most: float, end: float | None) -> list[float]:
    """Four to six round numbers from 0 to what holds `most`, or to `end`."""
    if end is not None:
        return [end * share for share in (0, 0.25, 0.5, 0.75, 1)]
    most = most if most > 0 else 1.0
    rough = most / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    return [step * n for n in range(math.ceil(most / step * 0.999) + 1)]


def _short(value: float) -> str:
    """A number on an axis, thousands as k."""
    return f"{value / 1000:.4g}k" if value >= 10_000 else f"{value:.4g}"
