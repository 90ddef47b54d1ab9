"""Weights of the public TensorFlow reference, by the names of its variables, into models of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskconver.errors import CheckpointError
from maskconver.models.backbones.resnet import DEPTHS
from maskconver.models.base import SegmentationModel
from maskconver.models.maskconver import MultiScaleConfig

_LEAVES = {
    "kernel": "weight",
    "pointwise_kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "embeddings": "weight",
}
# Checkpoint key → canonical name, by position where the reference numbers its layers.
_SINGLE_SCALE_PARTS = (
    (r"^backbone/layer_with_weights-0/_conv0", "backbone.block0.conv"),
    (r"^backbone/layer_with_weights-0/_norm0", "backbone.block0.bn"),
    (r"^backbone/layer_with_weights-17/_conv0", "backbone.block17.conv"),
    (r"^backbone/layer_with_weights-17/_norm0", "backbone.block17.bn"),
    (r"^backbone/layer_with_weights-18/_conv0", "backbone.block19.conv"),
    (r"^backbone/layer_with_weights-18/_norm0", "backbone.block19.bn"),
    (r"^backbone/layer_with_weights-(\d+)/_conv0", r"backbone.block\1.expand"),
    (r"^backbone/layer_with_weights-(\d+)/_norm0", r"backbone.block\1.expand_bn"),
    (r"^backbone/layer_with_weights-(\d+)/_conv1", r"backbone.block\1.dw"),
    (r"^backbone/layer_with_weights-(\d+)/_norm1", r"backbone.block\1.dw_bn"),
    (r"^backbone/layer_with_weights-(\d+)/_conv2", r"backbone.block\1.project"),
    (r"^backbone/layer_with_weights-(\d+)/_norm2", r"backbone.block\1.project_bn"),
    (r"^decoder/aspp/aspp_layers/0/layer_with_weights-0", "decoder.branch0.conv"),
    (r"^decoder/aspp/aspp_layers/0/layer_with_weights-1", "decoder.branch0.bn"),
    (r"^decoder/aspp/aspp_layers/4/layer_with_weights-0/layer_with_weights-0", "decoder.pool.conv"),
    (r"^decoder/aspp/aspp_layers/4/layer_with_weights-0/layer_with_weights-1", "decoder.pool.bn"),
    (r"^decoder/aspp/aspp_layers/(\d)/layer_with_weights-0", r"decoder.branch\1.dw"),
    (r"^decoder/aspp/aspp_layers/(\d)/layer_with_weights-1", r"decoder.branch\1.conv"),
    (r"^decoder/aspp/aspp_layers/(\d)/layer_with_weights-2", r"decoder.branch\1.bn"),
    (r"^decoder/aspp/projection/layer_with_weights-0", "decoder.project.conv"),
    (r"^decoder/aspp/projection/layer_with_weights-1", "decoder.project.bn"),
)
_SHARED_PARTS = (
    (r"^per_pixel_embeddings_head/", "mask_head/"),
    (r"^mlp/dense/0", "mlp.fc1"),
    (r"^mlp/norms/0", "mlp.ln"),
    (r"^mlp/dense/1", "mlp.fc2"),
    (r"^class_embeddings/", "class_embedding/"),
)
_HEAD_PARTS = (
    ("/_dlv3p_conv", ".lowlevel.conv"),
    ("/_dlv3p_norm", ".lowlevel.bn"),
    ("/_classifier", ".out"),
)


# The reference numbers its FPN's layers in topological order.
_FPN_LAYERS = (
    "lateral.5", "lateral.4", "post.5", "lateral.3", "extra.6", "post.3", "post.4", "extra.7",
    "ln.3", "ln.4", "ln.5", "ln.6", "ln.7",
)  # fmt: skip
_BLOCK_MEMBERS = {
    "depthwise_conv": "dwconv",
    "norm": "ln",
    "pointwise_conv1": "fc1",
    "pointwise_conv2": "fc2",
    "_squeeze_excitation/_se_reduce": "se.reduce",
    "_squeeze_excitation/_se_expand": "se.expand",
}


@cache
def _multi_scale_parts(unet_depths: tuple[int, ...]) -> list[tuple[str, str]]:
    """Patterns of checkpoint keys and their canonical names, for so many blocks of the UNet's levels."""
    parts = [(rf"^decoder/layer_with_weights-{i}/", f"decoder.{name}/") for i, name in enumerate(_FPN_LAYERS)]
    layers = ["stem.conv", "stem.bn"]
    layers += [f"res{stage}.{block}" for stage, depth in enumerate(DEPTHS, 2) for block in range(depth)]
    for level, depth in enumerate(unet_depths):
        layers += [f"unet.{level}.{part}" for part in ("up.conv", "up.ln") if level]
        layers += [f"unet.{level}.lateral.conv", f"unet.{level}.lateral.ln"]
        layers += [f"unet.{level}.blocks.{block}" for block in range(depth)]
    for i, name in enumerate(layers):
        start = rf"^backbone/layer_with_weights-{i}/"
        if name.startswith("res"):
            parts += [(start + "_shortcut", f"backbone.{name}.shortcut.conv")]
            parts += [(start + "_norm0", f"backbone.{name}.shortcut.bn")]
            parts += [(rf"{start}_conv(\d)", rf"backbone.{name}.conv\1")]
            parts += [(rf"{start}_norm(\d)", rf"backbone.{name}.bn\1")]
        elif ".blocks." in name:
            parts += [(f"{start}{k}/", f"backbone.{name}.{v}/") for k, v in _BLOCK_MEMBERS.items()]
        parts.append((start, f"backbone.{name}/"))
    return parts


def canonical_name(key: str, unet_depths: tuple[int, ...] | None = None) -> str:
    """The canonical variable name of a canonical name or a TensorFlow checkpoint key.

    Args:
        key: of either kind.
        unet_depths: of a multi-scale model, whose checkpoints number other layers; None for single-scale.
    """
    key = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").removeprefix("model/")
    parts = _SINGLE_SCALE_PARTS if unet_depths is None else _multi_scale_parts(unet_depths)
    for pattern, name in (*parts, *_SHARED_PARTS):
        key, count = re.subn(pattern, name, key)
        if count:
            break
    for part, name in _HEAD_PARTS:
        key = key.replace(part, name)
    for kind, short in (("_convs", ""), ("_norms", ".norm")):
        if match := re.search(rf"/{kind}/(?:(\d+)/)?(\d+)", key):  # norms of a pyramid: level, then position
            level = f".{int(match[1]) + 3}" if match[1] else ""
            index = int(match[2])
            key = key.replace(match[0], f"{short}{level}.{'pw' if index % 2 else 'dw'}.{index // 2}")
    return key.replace("/", ".")


# Canonical names → modules of this package: of single-scale models, then of multi-scale ones.
_OWN_PARTS = (
    (r"^decoder\.branch([123])\.dw$", lambda m: f"decoder.atrous.{int(m[1]) - 1}.dw"),
    (r"^decoder\.branch([123])\.(conv|bn)$", lambda m: f"decoder.atrous.{int(m[1]) - 1}.pw.{m[2]}"),
    (r"^backbone\.stem\.(conv|bn)$", lambda m: f"backbone.{m[1]}1"),
    (
        r"^backbone\.res(\d)\.(\d)\.shortcut\.(conv|bn)$",
        lambda m: f"backbone.layer{int(m[1]) - 1}.{m[2]}.downsample.{int(m[3] == 'bn')}",
    ),
    (r"^backbone\.res(\d)\.", lambda m: f"backbone.layer{int(m[1]) - 1}."),
    (r"^backbone\.unet\.", lambda m: "decoder.unet."),
    (r"^decoder\.ln\.", lambda m: "decoder.fpn.norm."),
    (r"^decoder\.(lateral|post|extra)\.", lambda m: f"decoder.fpn.{m[1]}."),
)


def _own_name(canonical: str) -> str:
    """This package's parameter name of a canonical variable name."""
    stem, leaf = canonical.rsplit(".", 1)
    for pattern, name in _OWN_PARTS:
        stem = re.sub(pattern, name, stem)
    own = f"{stem}.{_LEAVES.get(leaf, leaf)}"
    if stem.startswith("decoder.fpn.") and (leaf == "pointwise_kernel" or leaf == "depthwise_kernel"):
        own = f"{stem}.{'dw' if leaf == 'depthwise_kernel' else 'pw'}.weight"
    return own


def _own_layout(canonical: str, value: NDArray[Any]) -> NDArray[Any]:
    """TensorFlow's (kh, kw, in, out), (kh, kw, C, 1) and (in, out) as PyTorch has them."""
    if canonical.endswith(".depthwise_kernel"):
        return value.transpose(2, 3, 0, 1)
    if canonical.endswith((".kernel", ".pointwise_kernel")):
        return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return value


def import_model_garden(model: SegmentationModel, variables: Mapping[str, NDArray[Any]]) -> None:
    """Loads variables of the TensorFlow reference: the mobile models, or the multi-scale R50-UNet.

    The reference's channels are raw category ids with 0 for void. A model with categories takes the rows of
    its category ids; one made with `num_classes` equal to the file's takes all.

    Args:
        model: changed in place.
        variables: arrays in TensorFlow layout by canonical name or checkpoint key.
            Block 19 of the mobile backbone, which nothing uses, is ignored.

    Raises:
        CheckpointError: a variable is missing, unknown or of another shape; the first ones are named.
    """
    own = model.state_dict()
    loaded: dict[str, Tensor] = {}
    ids = model.categories.ids if model.categories else None
    unet_depths = model.config.unet_depths if isinstance(model.config, MultiScaleConfig) else None
    for key, value in variables.items():
        canonical = canonical_name(key, unet_depths)
        if canonical.startswith("backbone.block19."):
            continue
        name = _own_name(canonical)
        if name.endswith(".bias") and name not in own:  # of a separable convolution: its 1×1 has it
            name = f"{name.removesuffix('bias')}pw.bias"
        if name not in own:
            raise CheckpointError(f'variable "{key}" ({name}) has no place in {model.name or "this model"}')
        array = _own_layout(canonical, np.asarray(value, np.float32))
        if model.family.is_class_shaped(name) and ids is not None and len(array) != model.num_classes:
            if ids.max() >= len(array):
                raise CheckpointError(
                    f'"{key}" has {len(array)} classes, but the categories go up to id {ids.max()}'
                )
            array = array[ids]
        shape = tuple(own[name].shape)
        if array.size == np.prod(shape) and array.squeeze().shape == shape:  # 1×1 kernels of dense layers
            array = array.reshape(shape)
        if array.shape != shape:
            raise CheckpointError(f'"{key}" has shape {array.shape}, {name} needs {shape}')
        loaded[name] = torch.from_numpy(np.ascontiguousarray(array))
    missing = [k for k in own if k not in loaded and not k.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(f"{len(missing)} variables are missing, first {', '.join(missing[:3])}")
    model.load_state_dict(loaded, strict=False)
