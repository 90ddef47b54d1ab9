"""The drawing of the architectures on the page "Models".

Run: .venv/bin/python docs/images/make_models.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

NETWORK, HEAD, CENTER, ANSWER, TRAINING = "#d7e5f5", "#dcefdc", "#fdeccd", "#ececec", "#f7dcdc"
INK, FAINT = "#222222", "#666666"
Box = tuple[float, float, float, float]  # centre x, centre y, width, height


def box(ax: Axes, x: float, y: float, w: float, h: float, text: str, color: str, dashed: bool = False) -> Box:
    """A rounded box with text; returns its place."""
    style = {"linestyle": "--", "edgecolor": "#b04040"} if dashed else {"edgecolor": FAINT}
    shape = "round,pad=0,rounding_size=0.7"
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, shape, facecolor=color, lw=0.9, **style))
    head, _, rest = text.partition("\n")
    if rest:
        up = 0.95 * (1 + rest.count("\n"))
        ax.text(x, y + up, head, ha="center", va="center", fontsize=8.4, color=INK, weight="bold")
        ax.text(x, y + up - 1.5, rest, ha="center", va="top", fontsize=7.2, color=INK, linespacing=1.25)
    else:
        ax.text(x, y, head, ha="center", va="center", fontsize=8.4, color=INK, weight="bold")
    return x, y, w, h


def arrow(ax: Axes, *points: tuple[float, float], text: str = "", dashed: bool = False) -> None:
    """A line through points with a head at the last; a text over its first piece."""
    color = "#b04040" if dashed else INK
    line = "--" if dashed else "-"
    xs, ys = zip(*points)
    ax.plot(xs[:-1], ys[:-1], line, color=color, lw=0.9, solid_capstyle="round")
    ax.annotate(
        "", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": color, "lw": 0.9, "ls": line,
                                                "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8},
    )  # fmt: skip
    if text:
        x, y = (xs[0] + xs[1]) / 2, (ys[0] + ys[1]) / 2
        ax.text(x, y + 0.5, text, ha="center", va="bottom", fontsize=7, color=FAINT)


def left(b: Box, dy: float = 0) -> tuple[float, float]:
    return b[0] - b[2] / 2, b[1] + dy


def right(b: Box, dy: float = 0) -> tuple[float, float]:
    return b[0] + b[2] / 2, b[1] + dy


def top(b: Box, dx: float = 0) -> tuple[float, float]:
    return b[0] + dx, b[1] + b[3] / 2


def bottom(b: Box, dx: float = 0) -> tuple[float, float]:
    return b[0] + dx, b[1] - b[3] / 2


def panel(ax: Axes, title: str, note: str) -> None:
    """An empty panel of 120×34 units with its title."""
    ax.set(xlim=(0, 120), ylim=(0, 34))
    ax.axis("off")
    ax.text(0.5, 33, title, fontsize=11, weight="bold", va="center", color=INK)
    ax.text(119.5, 33, note, fontsize=8, va="center", ha="right", color=FAINT)


def centers(ax: Axes, heads: list[Box], how: str) -> None:
    """What follows the three heads of a MaskConver, up to the answer."""
    peaks = box(ax, 76, 26, 13, 7, "k best peaks\nscore, class, place", CENTER)
    chosen = box(ax, 76, 15.5, 13, 8, f"at each peak\nembedding {how}\nclass embedding", CENTER)
    mlp = box(ax, 91, 15.5, 9, 8, "MLP\nmask\nembedding", CENTER)
    masks = box(ax, 102.5, 9, 10.5, 9, "k masks\nembedding ·\nmask features", ANSWER)
    merge = box(ax, 115, 15.5, 8.5, 14, "merge\na pixel goes\nto the largest\nmask × score", ANSWER)
    arrow(ax, right(heads[0]), left(peaks))
    arrow(ax, right(heads[1]), left(chosen))
    arrow(ax, bottom(peaks), top(chosen))
    arrow(ax, right(chosen), left(mlp))
    arrow(ax, right(mlp), (102.5, 15.5), top(masks))
    arrow(ax, right(heads[2]), left(masks, 5 - 9))
    arrow(ax, right(masks), left(merge, 9 - 15.5))
    arrow(ax, right(peaks), (115, 26), top(merge), text="scores, classes")


def mobile(ax: Axes) -> None:
    """The single-scale model."""
    panel(
        ax,
        "MaskConver, mobile",
        "things and stuff are centre points; heatmaps, embeddings and masks at stride 8",
    )
    image = box(ax, 5.5, 15.5, 9, 7, "image\nH × W", ANSWER)
    backbone = box(ax, 21, 15.5, 14, 11, "backbone\nMobileNet-MH\n1/8 and 1/16", NETWORK)
    decoder = box(ax, 38.5, 15.5, 11, 11, "pixel decoder\nASPP\n1/16", NETWORK)
    heads = [
        box(ax, 58, 26, 15, 7, "class head\nheatmap, 1 a class", HEAD),
        box(ax, 58, 15.5, 15, 7, "embedding head\ncentre embeddings", HEAD),
        box(ax, 58, 5, 15, 7, "mask head\nmask features", HEAD),
    ]
    arrow(ax, right(image), left(backbone))
    arrow(ax, right(backbone), left(decoder))
    for head, dy in zip(heads, (2, 0, -2)):
        start = right(decoder, dy)
        if dy:
            arrow(ax, start, (47, start[1]), (47, head[1]), left(head))
        else:
            arrow(ax, start, left(head))
    arrow(ax, bottom(backbone), (21, 2.5), (50.5, 2.5))
    ax.text(35.5, 3.1, "1/8, fused by each head (sum or concat)", ha="center", fontsize=7, color=FAINT)
    centers(ax, heads, "×")


def multiscale(ax: Axes) -> None:
    """The pyramid model."""
    panel(
        ax,
        "MaskConver, multi-scale (R50)",
        "heads shared by five levels, their layer norms not; each segment on the level of its size",
    )
    image = box(ax, 4.5, 15.5, 7.5, 7, "image\nH × W", ANSWER)
    backbone = box(ax, 16, 15.5, 11, 11, "backbone\nResNet-50\n1/8 1/16 1/32", NETWORK)
    unet = box(ax, 29, 15.5, 11, 11, "UNet\nConvNeXt blocks\n18, 1, 1", NETWORK)
    fpn = box(ax, 42, 15.5, 10.5, 11, "FPN\nP3 … P7\n1/8 … 1/128", NETWORK)
    heads = [
        box(ax, 58, 26, 15, 7, "class head\nheatmaps P3 … P7", HEAD),
        box(ax, 58, 15.5, 15, 7, "embedding head\nembeddings P3 … P7", HEAD),
        box(ax, 58, 5, 15, 7, "mask head\nsum of levels at 1/4", HEAD),
    ]
    arrow(ax, right(image), left(backbone))
    arrow(ax, right(backbone), left(unet))
    arrow(ax, right(unet), left(fpn))
    for head, dy in zip(heads, (2, 0, -2)):
        start = right(fpn, dy)
        if dy:
            arrow(ax, start, (48.8, start[1]), (48.8, head[1]), left(head))
        else:
            arrow(ax, start, left(head))
    centers(ax, heads, "+")


def kmax(ax: Axes) -> None:
    """The mask transformer and what ReMaX adds in training."""
    panel(ax, "kMaX-DeepLab and ReMaX", "dashed: ReMaX, in training only")
    image = box(ax, 5, 15.5, 8.5, 7, "image\nH × W", ANSWER)
    backbone = box(ax, 18.5, 15.5, 13, 11, "backbone\nResNet-50, ConvNeXt,\nMaX-S, MobileNetV3", NETWORK)
    decoder = box(ax, 35.5, 15.5, 13, 11, "pixel decoder\naxial attention,\nbottlenecks", NETWORK)
    queries = box(ax, 52, 28, 11, 5, "N queries", CENTER)
    means = box(
        ax,
        58.5,
        18.5,
        23,
        8,
        "k-means decoder\nqueries become cluster centres of\nthe pixels at 1/32, 1/16, 1/8",
        NETWORK,
    )
    feature = box(ax, 58.5, 4.5, 23, 6, "pixel feature\nat 1/4", HEAD)
    classes = box(ax, 82, 24.5, 12, 6, "class head\nclass or no object", CENTER)
    embedding = box(ax, 82, 15.5, 12, 6, "mask head\nmask embedding", CENTER)
    masks = box(ax, 98, 9, 10.5, 9, "N masks\nembedding ·\npixel feature", ANSWER)
    merge = box(ax, 113.5, 15.5, 11, 13, "merge\na pixel goes to\nthe largest mask,\nmasks by score", ANSWER)
    remask = box(ax, 80, 4.5, 13, 6.4, "ReMask\n× semantic masks", TRAINING, dashed=True)
    reclass = box(ax, 99.5, 28, 15, 5.4, "ReClass\nsoft class targets", TRAINING, dashed=True)
    arrow(ax, right(image), left(backbone))
    arrow(ax, right(backbone), left(decoder))
    arrow(ax, right(decoder, 3), left(means))
    arrow(ax, right(decoder, -3), (44.2, 12.5), (44.2, 4.5), left(feature))
    arrow(ax, bottom(queries), (52, 22.5))
    arrow(ax, right(means, 2), (73, 20.5), (73, 24.5), left(classes))
    arrow(ax, right(means, -2), (73, 16.5), (73, 15.5), left(embedding))
    arrow(ax, right(embedding), (98, 15.5), top(masks))
    arrow(ax, right(feature), left(remask), dashed=True)
    arrow(ax, right(remask), (90, 4.5), (90, 7), left(masks, -2), dashed=True)
    arrow(ax, (70, 6.7), (71.5, 6.7), (71.5, 10.5), left(masks, 1.5))
    arrow(ax, right(masks), left(merge, 9 - 15.5))
    arrow(ax, right(classes), (113.5, 24.5), top(merge))
    arrow(ax, bottom(reclass), (99.5, 24.6), dashed=True)


def main() -> None:
    """Writes `models.png` beside this file."""
    figure, axes = plt.subplots(3, 1, figsize=(12, 10.4))
    for draw, ax in zip((mobile, multiscale, kmax), axes):
        draw(ax)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, hspace=0.06)
    figure.savefig(Path(__file__).with_name("models.png"), dpi=130)


if __name__ == "__main__":
    main()
