"""kMaX-DeepLab against the official PyTorch code, part by part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskconver.models import create_model
from maskconver.models.kmax import KMaXDeepLab
from maskconver.models.kmax.axial import Block
from maskconver.models.kmax.decoder import KMeansLayer, Predictor
from maskconver.models.kmax.import_official import import_kmax_deeplab, official_name
from maskconver.models.kmax.pixel_decoder import PixelDecoder
from maskconver.models.kmax.semantic import SemanticDecoder

from .reference import case, kmax_weight, tensorflow_shapes

pytestmark = pytest.mark.golden

# Where each part stands in a whole model, and in the official names.
BLOCK = ("pixel_decoder.stages.0.0.", "sem_seg_head.pixel_decoder._stages.0._blocks.0.")
PIXEL_DECODER = ("pixel_decoder.", "sem_seg_head.pixel_decoder.")
LAYER = ("decoder.layers.0.", "sem_seg_head.predictor._kmax_transformer_layers.0.")
CENTERS = "sem_seg_head.predictor._cluster_centers.weight"
PREDICTOR = ("decoder.predictor.", "sem_seg_head.predictor._predcitor.")
SEMANTIC = ("semantic_head.", "sem_seg_head.predictor._auxiliary_semantic_predictor.")


def fill(module: nn.Module, place: tuple[str, str], prefix: str, keys: str) -> None:
    """Gives a part the formula's weights under its name in a case, which has exactly these keys."""
    ours, theirs = place
    shapes = tensorflow_shapes("case_keys.json")[keys]
    used = set()
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        name = official_name(ours + key).replace(theirs, prefix)
        used.add(name)
        value.copy_(torch.from_numpy(kmax_weight(name, tuple(shapes[name]))).view(value.shape))
    assert used == {k for k in shapes if not k.endswith("num_batches_tracked")}
    module.eval()


def tensors(name: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in case(f"kmax/{name}").items() if v.ndim}


def close(actual: Tensor, expected: Tensor | NDArray, tolerance: float = 1e-4) -> None:
    expected = torch.as_tensor(np.asarray(expected))
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@torch.no_grad()
def test_axial_block() -> None:
    block, t = Block(24, (32, 16, 64), "axial"), tensors("axial_block")
    fill(block, BLOCK, "axial_block.", "axial_block")
    assert block.attention is not None
    rows = block.attention.height(t["attention_in"])  # B×C×H×W; the case has a row of N·W lines
    close(rows.permute(0, 3, 1, 2).flatten(0, 1), t["height_axis_out"])
    close(block.attention(t["attention_in"]), t["attention_out"])
    close(block(t["x"]), t["y"])


@torch.no_grad()
def test_bottleneck_block() -> None:
    block, t = Block(24, (8, 8, 32), "bottleneck"), tensors("bottleneck_block")
    fill(block, BLOCK, "bottleneck_block.", "bottleneck_block")
    close(block(t["x"]), t["y"])


@pytest.mark.parametrize("sizes", ["odd", "even", "mixed"])
@torch.no_grad()
def test_pixel_decoder(sizes: str) -> None:
    decoder, t = (
        PixelDecoder((24, 20, 12, 8), (32, 16, 8, 8), (1, 2, 1, 1)),
        tensors(f"pixel_decoder_{sizes}"),
    )
    fill(decoder, PIXEL_DECODER, "pixel_decoder.", "pixel_decoder")
    stages = decoder([t[f"res{i}"] for i in (5, 4, 3, 2)])
    for i, stage in enumerate(stages, 1):
        close(stage, t[f"stage{i}"])


@torch.no_grad()
def test_predictor() -> None:
    predictor, t = Predictor(64, 5), tensors("predictor")
    fill(predictor, PREDICTOR, "predictor.", "predictor")
    found = predictor(t["mask_embedding"].unsqueeze(2), t["class_embedding"].unsqueeze(2), t["pixel"])
    assert found.class_logits is not None
    close(found.class_logits, t["class_logits"])
    close(found.mask_logits, t["mask_logits"])
    close(found.pixel_feature, t["pixel_feature"])


@torch.no_grad()
def test_kmeans_layer() -> None:
    layer, t = KMeansLayer(32, 5), tensors("kmeans_layer")
    fill(layer, LAYER, "kmeans_layer.", "kmeans_layer")
    seen: dict[str, Tensor] = {}
    layer.kmeans_bn.register_forward_hook(lambda _m, inputs, _o: seen.update(total=inputs[0].squeeze(2)))
    layer.kmeans_out.register_forward_hook(lambda _m, _i, out: seen.update(kmeans=out.squeeze(2)))
    layer.attention_out.register_forward_hook(lambda _m, _i, out: seen.update(attention=out.squeeze(2)))
    queries, found = layer(t["pixel"], t["query"].unsqueeze(2))
    assert found.class_logits is not None
    close(found.class_logits, t["class_logits"])
    close(found.mask_logits, t["mask_logits"])
    close(found.pixel_feature, t["pixel_feature"])
    assert torch.equal(found.mask_logits.argmax(1), t["assignment"].long())
    close(seen["total"], t["kmeans_sum"])
    close(seen["kmeans"], t["kmeans_delta"])
    close(seen["attention"], t["selfattn_delta"])
    close(queries.squeeze(2), t["query_out"])


@torch.no_grad()
def test_auxiliary_semantic_decoder() -> None:
    decoder, t = SemanticDecoder({2: 8, 3: 12, 5: 24}, 7), tensors("aux_semantic")
    fill(decoder, SEMANTIC, "aux.", "aux_semantic")
    close(decoder.aspp(t["res5"]), t["aspp_out"])
    close(decoder({level: t[f"res{level}"] for level in (2, 3, 5)}), t["logits"])


FULL = {"r50": "kmax_r50", "convnext_tiny": "kmax_convnext_t"}


@pytest.fixture(scope="module", params=list(FULL))
def full(request: pytest.FixtureRequest) -> tuple[KMaXDeepLab, dict[str, NDArray]]:
    """A whole model with the formula's weights, imported by their official names, and its case."""
    model = create_model(FULL[request.param], proposals=16)
    assert isinstance(model, KMaXDeepLab)
    shapes = {**tensorflow_shapes(f"state_dict_{request.param}.json"), CENTERS: [256, 16]}
    state = {k: kmax_weight(k, tuple(v)) for k, v in shapes.items() if not k.endswith("num_batches_tracked")}
    report = import_kmax_deeplab(model, {"model": state})
    assert set(report.loaded) == set(state) and not report.unexpected
    return model.eval(), case(f"kmax/full_{request.param}_129")


@torch.no_grad()
def test_whole_model(full: tuple[KMaXDeepLab, dict[str, NDArray]]) -> None:
    model, arrays = full

    def same(found: Tensor, name: str) -> None:
        close(found, arrays[name], 1e-3)

    def same_map(found: Tensor, name: str) -> None:
        same(found[:, :: found.shape[1] // 8], f"{name}_c8")
        same(torch.stack([found.mean(), found.std(correction=0)]), f"{name}_meanstd")

    rng = np.random.default_rng(int(arrays["seed"]))
    images = torch.from_numpy(rng.standard_normal((1, 3, 129, 129)).astype(np.float32))
    features = model.backbone(images)
    for level in (2, 3, 4, 5):
        same_map(features[level], f"res{level}")
    stages = model.pixel_decoder([features[level] for level in model.levels])
    for i, stage in enumerate(stages, 1):
        same_map(stage, f"dec_stage{i}")
    queries: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda *a: queries.append(a[2][0])) for layer in model.decoder.layers
    ]
    output = model(images, deep=True)
    for hook in hooks:
        hook.remove()
    for i, prediction in enumerate(output.layers):
        owners = prediction.mask_logits.argmax(1)
        assert np.array_equal(owners.numpy(), arrays[f"layer{i}_assign"])
        same(queries[i][:, :, 0, 0], f"layer{i}_query_q0")
        same(prediction.class_logits[:, 0], f"layer{i}_class_q0")
    same(output.final.class_logits, "class_logits")
    same(output.final.mask_logits, "mask_logits")
    same(output.final.pixel_feature[:, :, ::4, ::4], "pixel_feature_s4")
    same(output.semantic_logits[:, :, ::4, ::4], "aux_sem_s4")


@pytest.mark.parametrize(
    ("file", "name", "changes"),
    [
        ("r50", "remax_b", {}),
        ("convnext_tiny", "kmax_convnext_t", {}),
        ("convnext_small", "kmax_convnext_s", {}),
        (
            "r50_cityscapes",
            "kmax_r50",
            {"num_classes": 19, "proposals": 256, "fifth_stage": "pytorch", "semantic": "simple"},
        ),
    ],
)
def test_names_and_shapes_are_those_of_the_official_checkpoints(file: str, name: str, changes: dict) -> None:
    with torch.device("meta"):
        model = create_model(name, **changes)
    shapes = tensorflow_shapes(f"state_dict_{file}.json")
    theirs = {k: int(np.prod(v)) for k, v in shapes.items() if not k.endswith("num_batches_tracked")}
    own = {official_name(k): v.numel() for k, v in model.state_dict().items() if "num_batches" not in k}
    assert own == theirs
