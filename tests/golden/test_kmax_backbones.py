"""The backbones of kMaX-DeepLab against DeepLab2's and the official PyTorch code."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskconver.models.backbones.resnet import ResNet
from maskconver.models.backbones.timm import ExpandedMobileNetV3, PaddedConvNeXt
from maskconver.models.inspect import count_parameters
from maskconver.models.kmax.max_s import MaXS

from .reference import case, kmax_weight, nchw, tensorflow_shapes

pytestmark = pytest.mark.golden

NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
PARTS = {"query_table": "_query_rpe", "key_table": "_key_rpe", "value_table": "_value_rpe"}
AXIAL_NORMS = {
    "qkv_bn": "_batch_norm_qkv",
    "similarity_bn": "_batch_norm_similarity",
    "output_bn": "_batch_norm_retrieved_output",
}


def fill(module: nn.Module, name: Callable[[str], str], shapes: dict[str, list[int]]) -> None:
    """Gives a backbone the formula's weights; every variable of the reference must be used once."""
    used = set()
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        variable = name(key)
        used.add(variable)
        array = kmax_weight(variable, tuple(shapes[variable]))
        value.copy_(torch.from_numpy(np.ascontiguousarray(own_layout(variable, array))).view(value.shape))
    assert used == set(shapes)
    module.eval()


def own_layout(variable: str, array: NDArray) -> NDArray:
    if variable.endswith("/depthwise_kernel"):
        return array.transpose(2, 3, 0, 1)
    if variable.endswith("/qkv_kernel"):
        return array.T
    return array.transpose(3, 2, 0, 1) if variable.endswith("/kernel") else array


def conv_bn(stem: str, leaf: str) -> str:
    """`…/conv1` + conv or norm to DeepLab2's `_conv1_bn_act/_conv/kernel` and so on."""
    layer, kind = stem.rsplit("/", 1)
    layer = re.sub(r"(conv[12])$", r"_\1_bn_act", layer)
    layer = re.sub(r"conv3$", "_conv3_bn", layer).replace("shortcut", "_shortcut")
    return f"{layer}/_conv/kernel" if kind == "conv" else f"{layer}/_batch_norm/{NORM[leaf]}"


def check(features: dict[int, Tensor], file: str, prefix: str) -> None:
    arrays = case(f"kmax/{file}")
    for level, feature in features.items():
        step = feature.shape[1] // 8
        shown = feature[:, ::step][:, :8]
        key = f"{prefix}{level}"
        torch.testing.assert_close(shown, nchw(arrays[f"{key}_c8"]), atol=1e-4, rtol=1e-4)
        mean_std = torch.stack([feature.mean(), feature.std(correction=0)])
        torch.testing.assert_close(
            mean_std, torch.from_numpy(arrays[f"{key}_meanstd"]).float(), atol=1e-4, rtol=1e-4
        )


@torch.no_grad()
def test_resnet50_of_deeplab2() -> None:
    def name(key: str) -> str:
        stem, leaf = key.rsplit(".", 1)
        if stem in ("conv1", "bn1"):
            return conv_bn(f"encoder/_stem/{'conv' if stem == 'conv1' else 'norm'}", leaf)
        _, stage, block, layer, *rest = re.split(r"layer|\.", stem)
        if layer == "downsample":
            part = f"shortcut/{'conv' if rest[0] == '0' else 'norm'}"
        else:
            part = f"conv{layer[-1]}/{'conv' if layer.startswith('conv') else 'norm'}"
        return conv_bn(f"encoder/_stage{int(stage) + 1}/_block{int(block) + 1}/{part}", leaf)

    backbone = ResNet(padding="symmetric", activation="relu", eps=1e-3, pool=False, raw=True, stem=True)
    fill(backbone, name, tensorflow_shapes("tf_variables_resnet50_dl2.json"))
    assert count_parameters(backbone, trainable=True) == 23_508_032
    x = nchw(case("kmax/backbone_resnet50_dl2_65")["x"])
    check(backbone(x), "backbone_resnet50_dl2_65", "stage")


@torch.no_grad()
def test_max_s() -> None:
    def name(key: str) -> str:
        stem, leaf = key.rsplit(".", 1) if not key.endswith("_table") else (key, "embeddings")
        path = stem.split(".")
        if path[0] == "stem":
            kind = "conv" if path[2] == "conv" else "norm"
            return conv_bn(f"encoder/_stem/conv{int(path[1]) + 1}/{kind}", leaf)
        block = f"encoder/_{path[0]}/_block{int(path[1]) + 1}"
        if path[2] != "attention":
            return conv_bn(f"{block}/{path[2]}/{'conv' if path[3] == 'conv' else 'norm'}", leaf)
        axis, part = f"{block}/_attention/_{path[3]}_axis", path[4]
        if part == "qkv":
            return f"{axis}/qkv_kernel"
        return (
            f"{axis}/{PARTS[part]}/embeddings"
            if part in PARTS
            else f"{axis}/{AXIAL_NORMS[part]}/{NORM[leaf]}"
        )

    backbone = MaXS(stem=True)
    fill(backbone, name, tensorflow_shapes("state_dict_maxs.json"))
    assert round(count_parameters(backbone, trainable=True) / 1e6, 3) == 41.343
    check(backbone(nchw(case("kmax/backbone_maxs_65")["x"])), "backbone_maxs_65", "stage")


@pytest.mark.parametrize(("size", "millions"), [("small", 0.927), ("large", 2.972)])
@torch.no_grad()
def test_mobilenet_v3_with_depthwise_endpoints(size: str, millions: float) -> None:
    backbone = ExpandedMobileNetV3(f"mobilenetv3_{size}_100", gate="sigmoid", stem=True)
    blocks = [
        (i, j)
        for i, group in enumerate(backbone.net["blocks"])
        for j in range(len(list(group)))  # type: ignore[arg-type]
    ]
    layers = {"conv_pw": "conv1/conv", "bn1": "conv1/norm", "conv_dw": "conv2/conv", "bn2": "conv2/norm"}
    layers |= {"conv_pwl": "conv3/conv", "bn3": "conv3/norm"}
    first = {"conv_dw": "conv2/conv", "bn1": "conv2/norm", "conv_pw": "conv3/conv", "bn2": "conv3/norm"}

    def name(key: str) -> str:
        stem, leaf = key.removeprefix("net.").rsplit(".", 1)
        path = stem.split(".")
        if path[0] != "blocks":
            return conv_bn(f"encoder/_blocks/0/{'conv' if path[0] == 'conv_stem' else 'norm'}", leaf)
        index = blocks.index((int(path[1]), int(path[2]))) + 1
        block, layer = f"encoder/_blocks/{index}", path[3]
        if index == len(blocks):
            return conv_bn(f"{block}/{'conv' if layer == 'conv' else 'norm'}", leaf)
        if layer == "se":
            kernel = "kernel" if leaf == "weight" else "bias"
            return f"{block}/_squeeze_excitation/_se_{path[4].removeprefix('conv_')}/{kernel}"
        found = conv_bn(f"{block}/{(first if index == 1 else layers)[layer]}", leaf)
        depthwise = layer == "conv_dw"
        return found.replace("_conv/kernel", "_depthwise_conv/depthwise_kernel") if depthwise else found

    fill(backbone, name, tensorflow_shapes(f"tf_variables_mnv3_{size}.json"))
    assert round(count_parameters(backbone, trainable=True) / 1e6, 3) == millions
    file = f"backbone_mnv3_{size}_65"
    check(backbone(nchw(case(f"kmax/{file}")["x"])), file, "res")


@pytest.mark.parametrize("file", ["convnext_mini", "convnext_mini_even"])
@torch.no_grad()
def test_convnext_of_any_size(file: str) -> None:
    from maskconver.models.kmax.import_official import official_name

    arrays = case(f"kmax/{file}")
    backbone = PaddedConvNeXt((1, 1, 1, 1), (8, 12, 16, 20))
    for key, value in backbone.state_dict().items():
        name = official_name(f"backbone.{key}").replace("backbone.", "convnext.")
        value.copy_(torch.from_numpy(kmax_weight(name, tuple(value.shape))))
    backbone.eval()
    for level, feature in backbone(torch.from_numpy(arrays["x"])).items():
        torch.testing.assert_close(feature, torch.from_numpy(arrays[f"res{level}"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "millions"), [("tiny", 27.819), ("small", 49.453)])
def test_convnext_sizes(name: str, millions: float) -> None:
    from maskconver.models.backbones.timm import SIZES

    with torch.device("meta"):
        backbone = PaddedConvNeXt(*SIZES[f"convnext_{name}"])
    assert round(count_parameters(backbone) / 1e6, 3) == millions
