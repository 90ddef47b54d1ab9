"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

Such a pair is common on CPU-only machines (the registry's torchvision is built for CUDA) and fails at import
because two operators that torchvision describes were never loaded. Declaring their names is enough for what
this package and its dependencies (timm, lightning's torchmetrics) use: transforms, no compiled operators.
"""

from contextlib import suppress

import torch

_DECLARED = []
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _library = torch.library.Library("torchvision", "FRAGMENT")
        with suppress(ImportError, RuntimeError):
            import torchvision.extension  # noqa: F401  (loads the operators where they can be loaded)
        if not hasattr(torch.ops.torchvision, _name):
            _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _DECLARED.append(_library)  # the declaration lives as long as the library object
