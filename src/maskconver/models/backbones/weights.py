"""Weights of others for a backbone: timm's by name, or a file of torchvision, timm or this package."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, first_line
from ..checkpoint import LoadReport, read_state, weights_of

PRETRAINED = "pretrained"
_PREFIXES = ("module.", "model.", "backbone.", "net.")


def load_backbone(backbone: nn.Module, name: str, source: str | os.PathLike[str]) -> LoadReport:
    """Gives a backbone the weights of a file, or timm's own by name.

    Args:
        backbone: changed in place.
        name: the backbone's name in the config.
        source: `pretrained` (timm's weights of that name, from the network or the local cache),
            `pretrained:TAG` (those of a tag, as `pretrained:fb_in22k` for ImageNet-22K), or a file:
            `.safetensors` (this package's model files too), or a pickle of tensors as torchvision and timm
            give them, read with `weights_only=True`.

    Raises:
        CheckpointError: no such file, not readable, or nothing in it fits.
    """
    kind, _, tag = str(source).partition(":")
    state = _timm_state(name, tag) if kind == PRETRAINED else _file_state(Path(source))
    own = weights_of(backbone)
    theirs = {_plain(k): v for k, v in state.items()}
    report = LoadReport()
    known = set()
    for key, value in own.items():
        plain = _plain(key)
        known.add(plain)
        other = theirs.get(plain)
        if other is None:
            report.missing.append(key)
        elif other.shape == value.shape:
            value.copy_(other)
            report.loaded.append(key)
        elif value.dim() == 4 and other.shape[1] == 3 and _but(other.shape) == _but(value.shape):
            value.copy_(_other_channels(other.float(), value.shape[1]))
            report.adapted[key] = f"of {value.shape[1]} image channels"
        else:
            report.mismatched.append(key)
    report.unexpected = sorted(set(theirs) - known)
    if not report.loaded:
        raise CheckpointError(
            f'nothing in {source} fits the backbone "{name}"; are they weights of another network?'
        )
    return report


def _plain(key: str) -> str:
    """A tensor's name without wrappers, and without the flattening of timm's feature extractors."""
    while prefix := next((p for p in _PREFIXES if key.startswith(p)), ""):
        key = key.removeprefix(prefix)
    return re.sub(r"^(stem|stages)_(\d+)\.", r"\1.\2.", key)


def _but(shape: torch.Size) -> tuple[int, ...]:
    return (shape[0], *shape[2:])


def _other_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution for so many image channels: summed for one, repeated and scaled for more."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // 3)
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (3 / channels)


def _timm_state(name: str, tag: str) -> dict[str, Tensor]:
    import timm

    name = f"{name}.{tag}" if tag else name
    try:
        return weights_of(timm.create_model(name, pretrained=True))
    except Exception as error:  # a hub, a cache and a network: many kinds
        raise CheckpointError(
            f'no pretrained weights for "{name}" ({first_line(error)}); without a network give a file: '
            "`backbone_weights=FILE`"
        ) from error


def _file_state(path: Path) -> Mapping[str, Tensor]:
    state = read_state(path)
    inside = {k: v for k, v in state.items() if k.startswith("backbone.")}
    return inside or state  # of a whole model its backbone
