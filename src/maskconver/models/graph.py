"""What a network is made of: modules, parameters and the shapes they give; nothing is computed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .inspect import count_parameters
from .registry import Model


@dataclass
class Stage:
    """One module of the tree.

    Attributes:
        name: path in the model, `decoder.fpn`.
        depth: 1 for the model's own children.
        kind: name of its class.
        parameters: with batch-norm statistics.
        shapes: C×h×w of every output of every call, named by level where there are levels; empty where the
            module is never called as a whole.
    """

    name: str
    depth: int
    kind: str
    parameters: int
    shapes: list[str]


def stages(model: Model, size: tuple[int, int] | None = None, depth: int = 2) -> list[Stage]:
    """The modules of a model down to a depth, in the order of their definition.

    Args:
        model: unchanged.
        size: (height, width) of the canvas in pixels; the model's input size where None.
        depth: how many levels of modules.
    """
    network = copy.deepcopy(model).to("meta").eval()
    rows: dict[str, Stage] = {}
    for name, module in network.named_modules():
        level = name.count(".") + 1
        if not name or level > depth:
            continue
        parameters = count_parameters(module)
        row = rows[name] = Stage(name, level, type(module).__name__, parameters, [])
        module.register_forward_hook(lambda _m, _i, output, row=row: row.shapes.extend(_shapes(output)))
    height, width = size or model.input.size
    network.predict(torch.empty(1, model.config.in_channels, height, width, device="meta"))
    return [row for row in rows.values() if row.parameters or row.shapes]


def _shapes(output: Any) -> list[str]:
    if isinstance(output, Tensor):
        return ["×".join(str(n) for n in output.shape[1:])]
    if isinstance(output, Mapping):
        return [f"{k}: {shape}" for k, v in output.items() for shape in _shapes(v)]
    return [shape for v in output for shape in _shapes(v)] if isinstance(output, tuple | list) else []


def graph(model: Model, size: tuple[int, int] | None = None, depth: int = 2) -> str:
    """`stages` as text, one line a module."""
    rows = stages(model, size, depth)
    names = ["  " * (row.depth - 1) + row.name.rsplit(".", 1)[-1] for row in rows]
    wide, kinds = max(len(n) for n in names), max(len(row.kind) for row in rows)
    lines = [
        f"{name:<{wide}}  {row.kind:<{kinds}}  {row.parameters:>12,}  {', '.join(row.shapes)}".rstrip()
        for name, row in zip(names, rows)
    ]
    height, width = size or model.input.size
    total = f"{count_parameters(model):,} parameters, image {model.config.in_channels}×{height}×{width}"
    return "\n".join([f"{model.name}: {total}", *lines])
