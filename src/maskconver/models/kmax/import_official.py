"""Weights of the official kMaX-DeepLab PyTorch code, by its names, into models of this package."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.categories import Categories
from ...errors import CheckpointError
from ..checkpoint import COUNTER, LoadReport, read_state, weights_of
from ..registry import create_model
from .model import KMaXDeepLab

_IGNORED = ("criterion.empty_weight", "pixel_mean", "pixel_std")  # of the losses and of preparing images
_PIXEL, _TRANSFORMER = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
# Our names → the official ones: every rule that fits is applied, in this order.
_RULES: tuple[tuple[str, Any], ...] = (
    (r"^backbone\.conv1\.", "backbone.stem.conv1."),
    (r"^backbone\.bn1\.", "backbone.stem.conv1.norm."),
    (r"^backbone\.layer(\d)\.", lambda m: f"backbone.res{int(m[1]) + 1}."),
    (r"^(backbone\.res.*\.)bn(\d)\.", r"\1conv\2.norm."),
    (r"^(backbone\.res.*\.)downsample\.0\.", r"\1shortcut."),
    (r"^(backbone\.res.*\.)downsample\.1\.", r"\1shortcut.norm."),
    (r"^backbone\.net\.stem\.", "backbone.downsample_layers.0."),
    (r"^backbone\.net\.stages\.(\d)\.downsample\.", r"backbone.downsample_layers.\1."),
    (r"^backbone\.net\.stages\.(\d)\.blocks\.", r"backbone.stages.\1."),
    (r"^(backbone\.stages.*)\.conv_dw\.", r"\1.dwconv."),
    (r"^(backbone\.stages.*)\.mlp\.fc(\d)\.", r"\1.pwconv\2."),
    (r"^pixel_decoder\.norms\.", f"{_PIXEL}_in_norms."),
    (r"^pixel_decoder\.stages\.(\d)\.(\d)\.", rf"{_PIXEL}_stages.\1._blocks.\2."),
    (r"^pixel_decoder\.(low|high)\.(\d)\.", rf"{_PIXEL}_resized_fuses.\2._conv_bn_\1."),
    (r"^decoder\.centers$", f"{_TRANSFORMER}_cluster_centers.weight"),
    (r"^decoder\.layers\.", f"{_TRANSFORMER}_kmax_transformer_layers."),
    (r"^decoder\.(class|mask)_projection\.", rf"{_TRANSFORMER}_\1_embedding_projection."),
    (r"^decoder\.predictor\.", f"{_TRANSFORMER}_predcitor."),
    (r"^semantic_head\.", f"{_TRANSFORMER}_auxiliary_semantic_predictor."),
    # residual blocks
    (r"\.conv([12])\.(conv|bn)\.", r"._conv\1_bn_act.\2."),
    (r"\.conv3\.(conv|bn)\.", r"._conv3_bn.\1."),
    (r"\.shortcut\.(conv|bn)\.", r"._shortcut.\1."),
    (r"\.attention\.(height|width)\.", r"._attention._\1_axis."),
    (r"_axis\.qkv\.", "_axis.qkv_transform.conv."),
    (r"_axis\.qkv_bn\.", "_axis._batch_norm_qkv."),
    (r"_axis\.similarity_bn\.", "_axis._batch_norm_similarity."),
    (r"_axis\.output_bn\.", "_axis._batch_norm_retrieved_output."),
    (r"_axis\.(query|key|value)_table$", r"_axis._\1_rpe._embeddings.weight"),
    # k-means layers
    (r"(_layers\.\d)\.(pixel|query)\.", r"\1._\2_conv1_bn_act."),
    (r"(_layers\.\d)\.value\.", r"\1._pixel_v_conv_bn."),
    (r"(_layers\.\d)\.qkv\.", r"\1._query_qkv_conv_bn."),
    (r"(_layers\.\d)\.attention\.similarity_bn\.", r"\1._query_self_attention._batch_norm_similarity."),
    (r"(_layers\.\d)\.attention\.value_bn\.", r"\1._query_self_attention._batch_norm_retrieved_value."),
    (r"(_layers\.\d)\.attention_out\.", r"\1._query_conv3_bn."),
    (r"(_layers\.\d)\.ffn1\.", r"\1._query_ffn_conv1_bn_act."),
    (r"(_layers\.\d)\.ffn2\.", r"\1._query_ffn_conv2_bn."),
    (r"(_layers\.\d)\.kmeans_bn\.", r"\1._kmeans_query_batch_norm_retrieved_value."),
    (r"(_layers\.\d)\.kmeans_out\.", r"\1._kmeans_query_conv3_bn."),
    (r"(_layers\.\d)\.predictor\.", r"\1._predcitor."),
    # predictors
    (r"_predcitor\.pixel([01])\.", r"_predcitor._pixel_space_head_conv\1bnact."),
    (r"_predcitor\.pixel2\.", "_predcitor._pixel_space_head_last_convbn."),
    (r"_predcitor\.mask_kernel\.", "_predcitor._transformer_mask_head."),
    (r"_predcitor\.class_head\.", "_predcitor._transformer_class_head.conv."),
    (r"_predcitor\.mask_bn\.", "_predcitor._pixel_space_mask_batch_norm."),
    # auxiliary semantic heads
    (r"_semantic_predictor\.aspp\.branch0\.", "_semantic_predictor._aspp._aspp_conv0."),
    (r"_predictor\.aspp\.atrous\.(\d)\.", lambda m: f"_predictor._aspp._aspp_conv{int(m[1]) + 1}."),
    (r"_semantic_predictor\.aspp\.pool\.", "_semantic_predictor._aspp._aspp_pool."),
    (r"_semantic_predictor\.aspp\.project\.", "_semantic_predictor._aspp._proj_conv_bn_act."),
    (r"_semantic_predictor\.low(\d)\.", r"_semantic_predictor._low_level_projection_os\1."),
    (
        r"_semantic_predictor\.fuse(\d)\.(\d)\.",
        r"_semantic_predictor._low_level_fusion_os\1_conv\2_bn_act.",
    ),
    (r"_semantic_predictor\.head\.(\d)\.", r"_semantic_predictor.conv_block_\1."),
    (r"_semantic_predictor\.out\.", "_semantic_predictor.final_conv.conv."),
    (r"_semantic_predictor\.2\.", "_semantic_predictor.2.conv."),
    (r"\.bn\.", ".norm."),
)


def official_name(key: str) -> str:
    """The name that a tensor of ours has in the official checkpoints."""
    for pattern, name in _RULES:
        key = re.sub(pattern, name, key)
    return key


def import_kmax_deeplab(model: KMaXDeepLab, state: Mapping[str, Any]) -> LoadReport:
    """Loads a checkpoint of the official PyTorch code; class channels are taken as they are, void last.

    Args:
        model: changed in place; of the checkpoint's backbone, sizes, queries and number of classes.
        state: tensors (or arrays) by official name, as they are or under a `model` key.

    Raises:
        CheckpointError: tensors are missing, unknown or of another shape; the first ones are named. The model
            is unchanged then.
    """
    state = state.get("model", state)
    own = weights_of(model)
    names = {official_name(key): key for key in own}
    theirs = {
        k: torch.as_tensor(v) for k, v in state.items() if not k.endswith(COUNTER) and k not in _IGNORED
    }
    auxiliary = f"{_TRANSFORMER}_auxiliary_semantic_predictor."
    unused = [k for k in theirs if k not in names and k.startswith(auxiliary) and model.semantic_head is None]
    unknown = [k for k in theirs if k not in names and k not in unused]
    missing = [k for k in names if k not in theirs]
    other = [k for k, ours in names.items() if k in theirs and not _fits(theirs[k], own[ours])]
    if missing or unknown or other:
        shapes = [f"{k} {tuple(theirs[k].shape)} for {tuple(own[names[k]].shape)}" for k in other[:3]]
        parts = [("missing", missing, missing[:3]), ("unknown", unknown, unknown[:3])]
        parts.append(("of another shape", other, shapes))
        text = "; ".join(f"{len(found)} {what} ({', '.join(shown)})" for what, found, shown in parts if found)
        raise CheckpointError(f"the checkpoint does not fit {model.name or 'this model'}: {text}")
    with torch.no_grad():
        for name, key in names.items():
            own[key].copy_(theirs[name].reshape(own[key].shape))
    return LoadReport(list(names), unexpected=unused)


def _fits(theirs: Tensor, ours: Tensor) -> bool:
    """Equal shapes, but for the last side of 1×1 kernels, which the official code has in one dimension."""
    short, long = sorted((tuple(theirs.shape), tuple(ours.shape)), key=len)
    return long[: len(short)] == short and all(n == 1 for n in long[len(short) :])


def read_official(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of an official checkpoint: safetensors, or a pickle, of which no code is executed.

    Raises:
        CheckpointError: not readable, or without tensors of a kMaX-DeepLab.
    """
    state = read_state(path)
    if f"{_TRANSFORMER}_cluster_centers.weight" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of the official kMaX-DeepLab PyTorch code")
    return state


def import_official(
    path: str | os.PathLike[str], categories: Categories | None
) -> tuple[KMaXDeepLab, LoadReport]:
    """A model with the weights of an official checkpoint.

    Args:
        path: of the checkpoint.
        categories: the label set; COCO's where the checkpoint has 133 classes and this is None.

    Raises:
        CheckpointError: see `read_official`, `model_of` and `import_kmax_deeplab`; or nobody says what the
            classes are called.
    """
    state = read_official(path)
    model = model_of(state, categories)
    if model.categories is None:
        raise CheckpointError(
            f"{path} has {model.num_classes} classes and not their names: give `categories=FILE`, a "
            "panoptic JSON file whose categories stand in the order of the file's class channels"
        )
    return model, import_kmax_deeplab(model, state)


# Backbones that the official code has, by blocks and channels of the third stage.
_CONVNEXT = {(9, 384): "kmax_convnext_t", (27, 384): "kmax_convnext_s"}
# What the published models of other data sets than COCO have, by their classes (bytedance/kmax-deeplab).
_CITYSCAPES, _ADE20K = 19, 150
_OF_DATASET: dict[int, dict[str, Any]] = {
    _CITYSCAPES: {
        "input": {"size": (1025, 2049)},
        "postprocess": {
            "score_threshold": 0.5,
            "stuff_threshold": 0.3,
            "overlap_threshold": 0.9,
            "mask_exponent": 0.0,
        },
    },
    _ADE20K: {"postprocess": {"score_threshold": 0.4, "stuff_threshold": 0.4}},  # at 1281 px, as COCO's
}


def model_of(state: Mapping[str, Any], categories: Categories | None = None) -> KMaXDeepLab:
    """A model, with random weights, of the architecture of an official checkpoint.

    Canvas and thresholds are those of the published models of its data set: Cityscapes' where it has 19
    classes, ADE20K's with 150, otherwise COCO's.

    Args:
        state: tensors by official name.
        categories: the label set; COCO's where the checkpoint has 133 classes and this is None.

    Raises:
        CheckpointError: a backbone that no registered model has; no classes or queries.
    """
    name = "kmax_r50"
    if "backbone.stem.conv1.weight" not in state:
        blocks = [k for k in state if re.fullmatch(r"backbone\.stages\.2\.\d+\.gamma", k)]
        found = (len(blocks), len(state[blocks[0]]) if blocks else 0)
        if found not in _CONVNEXT:
            raise CheckpointError("the checkpoint's backbone is not ResNet-50, ConvNeXt-T or ConvNeXt-S")
        name = _CONVNEXT[found]
    (outputs,) = _shape(state, f"{_TRANSFORMER}_predcitor._transformer_class_head.conv.bias", 1)
    _, queries = _shape(state, f"{_TRANSFORMER}_cluster_centers.weight", 2)
    classes = outputs - 1  # the last is void
    auxiliary = f"{_TRANSFORMER}_auxiliary_semantic_predictor."
    aspp, simple = f"{auxiliary}final_conv.conv.weight" in state, f"{auxiliary}2.conv.weight" in state
    model = create_model(
        name,
        categories=categories or (Categories.coco() if classes == 133 else None),
        num_classes=classes,
        proposals=queries,
        fifth_stage="pytorch" if f"{_PIXEL}_in_norms.4.weight" in state else "none",
        semantic="aspp" if aspp else "simple" if simple else "none",
        **_OF_DATASET.get(classes, {}),
    )
    assert isinstance(model, KMaXDeepLab)
    return model


def _shape(state: Mapping[str, Any], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that every checkpoint has.

    Raises:
        CheckpointError: it is not there, or of another number of dimensions.
    """
    shape = tuple(getattr(state.get(name), "shape", ()))
    if len(shape) != dimensions:
        raise CheckpointError(
            f"the checkpoint is incomplete: {name} is missing or does not have {dimensions} dimensions"
        )
    return shape
