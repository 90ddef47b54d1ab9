"""Changes of colour: jitter, gamma, inversion; torchvision's operations with draws that come in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass
class ColorConfig:
    """Strengths of the colour jitter; 0 switches an operation off.

    Attributes:
        brightness: the brightness is multiplied by a factor from 1-x…1+x.
        contrast: the contrast is multiplied by a factor from 1-x…1+x.
        saturation: the saturation is multiplied by a factor from 1-x…1+x.
        hue: the hue is shifted by -x…x turns of the colour circle.
        gamma: exponent drawn log-uniformly from 1/(1+x)…1+x.
        invert: probability that the image becomes its negative.
        noise: largest standard deviation of Gaussian noise, as a fraction of the value range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gamma: float = 0.0
    invert: float = 0.0
    noise: float = 0.0


def jitter_color(
    image: NDArray[np.float32], config: ColorConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """An H×W×C float32 image in 0…1, changed and still in 0…1.

    Contrast, saturation and hue are of the first three channels, RGB; of grey only the contrast.
    """
    from torchvision.transforms.v2 import functional as F

    x = torch.from_numpy(image).permute(2, 0, 1)
    if config.invert and rng.random() < config.invert:
        x = 1 - x
    if config.gamma:
        x = x.clamp(0, 1) ** float((1 + config.gamma) ** rng.uniform(-1, 1))
    if config.brightness:
        x = (x * _factor(config.brightness, rng)).clamp(0, 1)
    x, further = x[:3], x[3:]
    for strength, operation in (
        (config.contrast, F.adjust_contrast),
        (config.saturation, F.adjust_saturation),
    ):
        if strength:
            x = operation(x, _factor(strength, rng))
    if config.hue:
        x = F.adjust_hue(x, float(rng.uniform(-config.hue, config.hue)))
    x = torch.cat([x, further]) if len(further) else x
    if config.noise:
        grain = rng.standard_normal(x.shape[1:], np.float32) * np.float32(rng.uniform(0, config.noise))
        x = x + torch.from_numpy(grain)
    return np.ascontiguousarray(x.clamp(0, 1).permute(1, 2, 0).numpy())


def _factor(strength: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(max(0.0, 1 - strength), 1 + strength))
