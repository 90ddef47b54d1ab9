"""Draw the class embeddings of a MaskConver model as a map: similar classes lie close together.

The table of class embeddings is brought to two dimensions by PCA of its rows, each scaled to length 1
(MaskConver, Figure 3, shows such a map). Things and stuff have different colours.

Example: maskconver figure classes nuclei --png classes.png
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from . import COLORS, add_png, plot, require_png, write

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

NAMED = 150  # classes whose names still fit


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver figure classes`."""
    parser.add_argument("model", type=str, help="bundled model name, folder of a training run, or model file")
    add_png(parser, "classes.png")


def run(args: Namespace) -> int:
    """Runs `maskconver figure classes`."""
    from ...core.files import EXPORTED_SUFFIXES
    from ...models.checkpoint import load

    path = require_png(args.png)
    if args.model.endswith(EXPORTED_SUFFIXES):
        raise ConfigError(
            f"{args.model} has no table of class embeddings; give the model it was exported from"
        )
    model = load(args.model)
    table: Any = getattr(model, "class_embedding", None)
    if table is None:
        raise ConfigError(
            f"{args.model} ({model.name}) has no class embeddings; a MaskConver has, unless it was made with "
            "class_embedding none"
        )
    if len(table.weight) < 3:
        raise ConfigError(f"{args.model} has {len(table.weight)} classes; a map needs at least 3")
    places, shares = project(table.weight.detach().float().numpy())
    figure, axes = plot(8, 7)
    is_thing = model.categories.is_thing if model.categories else np.zeros(len(places), bool)
    for kind, chosen in (("thing", is_thing), ("stuff", ~is_thing)):
        if chosen.any():
            axes.scatter(*places[chosen].T, s=18, color=COLORS[kind], label=f"{kind} ({chosen.sum()})")
    if model.categories and len(places) <= NAMED:
        size = 8 if len(places) <= 40 else 5
        for (x, y), name in zip(places, model.categories.names):
            axes.annotate(name, (x, y), xytext=(3, 2), textcoords="offset points", fontsize=size)
    axes.margins(0.12)  # room for the names
    axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({shares[1]:.0%})")
    axes.legend()
    write(figure, path)
    return 0


def project(rows: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The first two principal components of C×D rows of length 1, C×2, and their shares of the variance."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    centred = unit - unit.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * values[:2], values[:2] ** 2 / max(float((values**2).sum()), 1e-12)
