"""Training with Lightning's Trainer."""

import lazy_loader as lazy

from ..models import backbones as _backbones  # noqa: F401  (makes torchvision importable, before lightning)

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, submod_attrs={"config": ["TrainConfig"], "run": ["train"], "task": ["SegmentationTask"]}
)
