"""Weights and images by formula, and the adapters between the reference's vocabulary and ours."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

CASES = Path(__file__).parent / "cases"


def case(name: str) -> dict[str, NDArray]:
    """Arrays of a golden case, e.g. `maskconver/mlp`."""
    with np.load(CASES / f"{name}.npz") as file:
        return {k: file[k] for k in file.files}


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The value of a variable by the formula of cases/maskconver/README.md."""
    r = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[1]
    if leaf == "gamma":
        value = 1 + 0.1 * r.standard_normal(shape)
    elif leaf in ("beta", "bias", "moving_mean"):
        value = 0.1 * r.standard_normal(shape)
    elif leaf == "moving_variance":
        value = 0.5 + r.random(shape)
    elif leaf == "embeddings":
        value = r.standard_normal(shape)
    elif leaf == "depthwise_kernel":
        value = r.standard_normal(shape) * np.sqrt(2 / (shape[0] * shape[1]))
    else:
        value = r.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
    for ending, factor in (
        (".project.kernel", 0.5),
        (".dw.depthwise_kernel", 0.8),
        ("class_head.out.kernel", 0.7),
        ("mlp.fc2.kernel", 0.8),
    ):
        if name.endswith(ending):
            value = value * factor
    if name == "class_head.out.bias":
        value = value - 2.19
    return value.astype(np.float32)


def multiscale_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The value of a variable by the formula of cases/multiscale/README.md."""
    g = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[1]
    if leaf in ("gamma", "layer_scale"):
        value = 1 + 0.1 * g.standard_normal(shape)
    elif leaf in ("beta", "bias", "moving_mean"):
        value = 0.1 * g.standard_normal(shape)
    elif leaf == "moving_variance":
        value = 0.5 + g.random(shape)
    elif leaf == "embeddings":
        value = g.standard_normal(shape)
    elif leaf == "depthwise_kernel":
        value = g.standard_normal(shape) * np.sqrt(2 / (shape[0] * shape[1]))
    else:
        value = g.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
    return value.astype(np.float32)


def multiscale_input(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """`I(NAME, SHAPE)` of the same page, in the reference's layout."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def variable_rows(model: str = "mobile") -> list[dict]:
    """Names and shapes of a model's variables: `mobile` or `r50_unet`."""
    return json.loads((CASES / "maskconver" / f"variables_{model}.json").read_text())


def image(height: int, width: int) -> NDArray[np.float32]:
    """The 'normalised' image of the whole-model cases, 1×H×W×3."""
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    noise = np.random.default_rng(7).standard_normal((1, height, width, 3)) * 0.3
    waves = [
        np.sin(xx / (17 + 4 * c) + c) * np.cos(yy / 23 - c) + 0.6 * np.sin((xx * (c + 1) + yy) / 15 + c)
        for c in range(3)
    ]
    return (noise + np.stack(waves, -1)[None]).astype(np.float32)


def noise(seed: int, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def nchw(array: NDArray) -> torch.Tensor:
    """N×H×W×C (or H×W×C) NumPy to a torch tensor with channels second (first)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))


_KMAX_FACTORS = (
    (("conv3.norm.weight", "_conv3_bn.norm.weight", "_query_ffn_conv2_bn.norm.weight"), 0.2),
    (("_batch_norm_similarity.weight", "_conv3_bn/_batch_norm/gamma", "_batch_norm_similarity/gamma"), 0.2),
)
_RETRIEVED_VARIANCE = (400, 400, 4000, 4000, 40000, 40000)


def kmax_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The value of a variable by the formula of cases/kmax/README.md, by its PyTorch or TensorFlow name."""
    g = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = re.split(r"[./]", name)[-1]
    if leaf in ("bias", "beta", "running_mean", "moving_mean"):
        value = 0.1 * g.standard_normal(shape)
    elif leaf in ("running_var", "moving_variance"):
        value = 0.5 + g.random(shape)
    elif leaf == "gamma" or len(shape) == 1:
        value = 1 + 0.1 * g.standard_normal(shape)
    elif leaf == "embeddings" or name.endswith(("_rpe._embeddings.weight", "_cluster_centers.weight")):
        value = g.standard_normal(shape)
    else:
        tensorflow = {"kernel": shape[:-1], "qkv_kernel": shape[:-1], "depthwise_kernel": shape[:2]}
        value = g.standard_normal(shape) * np.sqrt(2 / np.prod(tensorflow.get(leaf, shape[1:])))
    value = value.astype(np.float32)
    for endings, factor in _KMAX_FACTORS:
        if name.endswith(endings):
            value = value * np.float32(factor)
    if name.endswith("_kmeans_query_batch_norm_retrieved_value.running_var"):
        layer = re.search(r"_kmax_transformer_layers\.(\d)\.", name)
        value = value * np.float32(_RETRIEVED_VARIANCE[int(layer[1]) if layer else 0])
    return value


def tensorflow_shapes(file: str) -> dict[str, list[int]]:
    """Shapes of the reference's variables, by name."""
    shapes: dict[str, list[int]] = json.loads((CASES / "kmax" / file).read_text())
    return shapes


# The semantic variants of the golden cases: classes, and changes to `maskconver_mobile_256`.
SEMANTIC = {
    "segvoc": (21, {"level": 4, "head_depths": (2, 1, 1)}),
    "segcity": (
        19,
        {
            "level": 4,
            "fusion": "concat",
            "filters": 128,
            "embedding_dim": 128,
            "low_level_filters": 48,
            "aspp_pool_window": (2, 4),
        },
    ),
}
