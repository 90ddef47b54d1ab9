"""Weights of the official kMaX-DeepLab PyTorch code, by its names, into models of this package."""

from __future__ import annotations

import re

_NET = "sem_seg_head."
# Our names → the official ones, in order; the first rule of each group that fits is applied (kmax page §9).
_BACKBONE = (
    (r"^backbone\.(conv1|bn1)\.", lambda m: f"backbone.stem.conv1{'.norm' if m[1] == 'bn1' else ''}."),
    (r"^backbone\.layer(\d)\.(\d)\.conv(\d)\.", lambda m: f"backbone.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}."),
    (
        r"^backbone\.layer(\d)\.(\d)\.bn(\d)\.",
        lambda m: f"backbone.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm.",
    ),
    (
        r"^backbone\.layer(\d)\.(\d)\.downsample\.(\d)\.",
        lambda m: f"backbone.res{int(m[1]) + 1}.{m[2]}.shortcut{'.norm' if m[3] == '1' else ''}.",
    ),
    (r"^backbone\.net\.stem\.", lambda m: "backbone.downsample_layers.0."),
    (r"^backbone\.net\.stages\.(\d)\.downsample\.", lambda m: f"backbone.downsample_layers.{m[1]}."),
    (r"^backbone\.net\.stages\.(\d)\.blocks\.(\d+)\.", lambda m: f"backbone.stages.{m[1]}.{m[2]}."),
)
_CONVNEXT = ((".conv_dw.", ".dwconv."), (".mlp.fc1.", ".pwconv1."), (".mlp.fc2.", ".pwconv2."))


def official_name(key: str) -> str:
    """The official name of a tensor of ours."""
    for pattern, name in _BACKBONE:
        key, count = re.subn(pattern, name, key)
        if count:
            break
    for ours, theirs in _CONVNEXT:
        key = key.replace(ours, theirs)
    return key
