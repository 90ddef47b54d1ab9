"""Small networks with random weights that answer as trained ones do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from maskconver.models import create_model
from maskconver.models.base import SegmentationModel
from maskconver.models.registry import model_config

SMALL: dict[str, dict[str, Any]] = {
    "kmax": {"proposals": 12},
    "maskconver": {"filters": 24, "low_level_filters": 24, "embedding_dim": 20, "proposals": 15},
}


@torch.no_grad()
def trained_looking(name: str, **changes: Any) -> Any:
    """A model whose batch norms and last convolutions do something.

    Also those that start at 0, and those of one channel, which turn the sign.
    """
    torch.manual_seed(0)
    family = "kmax" if name.startswith(("kmax", "remax")) else "maskconver"
    known = vars(model_config(name))
    small = {key: value for key, value in SMALL[family].items() if key in known}
    model = create_model(name, **{"num_classes": 5, **small, **changes})
    most = 1.0 if family == "kmax" else 1.5  # deep networks amplify
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, most).mul_(-1 if module.num_features == 1 else 1)
            module.bias.normal_(0, 0.1)
    for head in ("class_head", "embedding_head", "mask_head"):
        if last := getattr(getattr(model, head, None), "out", None):
            last.weight.normal_(0, 0.5)
            last.bias.normal_()
    assert isinstance(model, SegmentationModel)
    return model.eval()
