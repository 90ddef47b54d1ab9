"""What a network costs: parameters and multiply-accumulates, counted as the papers do."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .maskconver import MaskConver


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Parameters with batch-norm statistics, as the papers count them; only those that are learnt with `trainable`."""
    if trainable:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)
    return sum(v.numel() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked"))


def count_macs(model: MaskConver, size: tuple[int, int] | None = None, proposals: int | None = None) -> int:
    """Multiply-accumulates of one image from pixels to mask logits: convolutions, dense layers and the mask product.

    Nothing is computed: the network runs on shapes only.

    Args:
        model: unchanged.
        size: (height, width) of the canvas in pixels; the model's input size where None.
        proposals: how many masks; the config's number where None.
    """
    shapes_only = copy.deepcopy(model).to("meta").eval()
    height, width = size or model.input.size
    image = torch.empty(1, model.config.in_channels, height, width, device="meta")
    with FlopCounterMode(display=False) as counter:
        shapes_only.predict(image, proposals)
    return counter.get_total_flops() // 2
