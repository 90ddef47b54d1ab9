"""What a network costs: parameters and multiply-accumulates."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .base import SegmentationModel
from .checkpoint import weights_of
from .decoders.aspp import Atrous


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Parameters with batch-norm statistics, as the papers count them; with `trainable` only those learnt.

    What only training uses (a model's `training_only` modules) is not counted.
    """
    helpers = tuple(f"{name}." for name in getattr(model, "training_only", ()))
    tensors = dict(model.named_parameters()) if trainable else weights_of(model)
    return sum(
        v.numel()
        for k, v in tensors.items()
        if not k.startswith(helpers) and (v.requires_grad or not trainable)
    )


def count_macs(
    model: SegmentationModel,
    size: tuple[int, int] | None = None,
    proposals: int | None = None,
    *,
    as_published: bool = False,
) -> int:
    """Multiply-accumulates of one image, pixels to mask logits: convolutions, dense layers, mask product.

    Nothing is computed: the network runs on shapes only.

    Args:
        model: unchanged.
        size: (height, width) of the network input in pixels; the model's own where None.
        proposals: how many masks; the config's number where None.
        as_published: count as the papers' graphs do (1.543 G for `maskconver_mobile_256` with 201 classes,
            where 1.489 G are needed): TensorFlow runs the ASPP's dilated branches on maps padded to a
            multiple of the dilation, so that they cost more than the map has cells.
    """
    shapes_only = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    height, width = size or model.input.size
    image = torch.empty(1, model.config.in_channels, height, width, device="meta")
    padding = 0

    def count_padding(branch: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal padding
        assert isinstance(branch, Atrous)
        padding += space_to_batch_padding(branch, output.shape[-2], output.shape[-1])

    for module in shapes_only.modules():
        if as_published and isinstance(module, Atrous):
            module.register_forward_hook(count_padding)
    with FlopCounterMode(display=False) as counter:
        shapes_only.predict(image, proposals)
    return counter.get_total_flops() // 2 + padding


def space_to_batch_padding(branch: Atrous, height: int, width: int) -> int:
    """Multiply-accumulates an atrous branch spends on padding where it runs as space-to-batch, h×w cells."""
    rate = branch.dw.dilation[0]
    padded = -(-height // rate) * -(-width // rate) * rate**2
    per_cell = branch.dw.weight.numel() + branch.pw.conv.weight.numel()
    return (padded - height * width) * per_cell


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


def stages(model: SegmentationModel, size: tuple[int, int] | None = None, depth: int = 2) -> list[Stage]:
    """The modules of a model down to a depth, in the order of their definition.

    Args:
        model: unchanged.
        size: (height, width) of the network input in pixels; the model's own where None.
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


def graph(model: SegmentationModel, size: tuple[int, int] | None = None, depth: int = 2) -> str:
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
