"""The network against the reference implementation, part by part and whole."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskconver.models import create_model
from maskconver.models.inspect import count_parameters
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.peaks import peak_scores, top_peaks
from tests.golden.model_garden import _own_layout, _own_name, import_model_garden

from .reference import SEMANTIC, case, image, nchw, noise, variable_rows, weight

pytestmark = pytest.mark.golden


def by_formula(model: MaskConver) -> MaskConver:
    """Fills a model of any width with the formula's weights, through the importer's own naming."""
    own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    known = {_own_name(r["name"]): r["name"] for r in variable_rows()}
    variables = {}
    for key, value in own.items():
        name = known[key]
        shape = tuple(value.shape)
        if name.endswith("depthwise_kernel"):
            shape = (shape[2], shape[3], shape[0], 1)
        elif name.endswith(".kernel"):
            shape = (shape[2], shape[3], shape[1], shape[0]) if len(shape) == 4 else shape[::-1]
        variables[name] = weight(name, shape)
    import_model_garden(model, variables)
    return model.eval()


@pytest.fixture(scope="module")
def mobile() -> MaskConver:
    return by_formula(create_model("maskconver_mobile_256", num_classes=201))


@pytest.mark.parametrize("key", ["name", "checkpoint_key"])
def test_importer_takes_canonical_names_and_checkpoint_keys(key: str) -> None:
    model = create_model("maskconver_mobile_256", num_classes=201)
    rows = variable_rows()
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE" if key == "checkpoint_key" else ""
    values = {r[key] + suffix: np.full(r["shape"], i, np.float32) for i, r in enumerate(rows)}
    import_model_garden(model, values)
    state = model.state_dict()
    for i, row in enumerate(rows):
        if "block19" not in row["name"]:
            assert (state[_own_name(row["name"])] == i).all(), row["name"]


def test_importer_selects_the_rows_of_the_categories() -> None:
    model = create_model("maskconver_mobile_256")
    variables = {r["name"]: weight(r["name"], tuple(r["shape"])) for r in variable_rows()}
    import_model_garden(model, variables)
    expected = variables["class_embedding.embeddings"][model.categories.ids]
    np.testing.assert_array_equal(model.class_embedding.weight.detach().numpy(), expected)
    assert count_parameters(model) == 3_418_985 - 34_884


@pytest.mark.parametrize("name", ["backbone_64", "backbone_65x71"])
def test_backbone(mobile: MaskConver, name: str) -> None:
    arrays = case(f"maskconver/{name}")
    with torch.no_grad():
        features = mobile.backbone(nchw(arrays["image"]))
    for level in (2, 3, 4):
        torch.testing.assert_close(features[level], nchw(arrays[f"level{level}"]), atol=1e-5, rtol=1e-5)


def test_aspp(mobile: MaskConver) -> None:
    with torch.no_grad():
        out = mobile.decoder({4: nchw(np.abs(noise(1, (1, 6, 5, 448), 0.5)))})[4]
    torch.testing.assert_close(out, nchw(case("maskconver/decoder_aspp")["output"]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["class_head", "embedding_head", "mask_head"])
def test_heads(mobile: MaskConver, name: str) -> None:
    low, aspp = np.abs(noise(2, (1, 8, 6, 64), 0.5)), np.abs(noise(3, (1, 4, 3, 256), 0.5))
    with torch.no_grad():
        out = mobile.get_submodule(name)(nchw(aspp), nchw(low))
    torch.testing.assert_close(out, nchw(case(f"maskconver/head_{name}")["output"]), atol=1e-5, rtol=1e-5)


def test_head_with_seven_by_seven_kernels() -> None:
    model = by_formula(create_model("maskconver_mobile_256", num_classes=201, head_kernel=7))
    assert count_parameters(model) == 3_480_425
    low, aspp = np.abs(noise(2, (1, 8, 6, 64), 0.5)), np.abs(noise(3, (1, 4, 3, 256), 0.5))
    with torch.no_grad():
        out = model.class_head(nchw(aspp), nchw(low))
    expected = nchw(case("maskconver/head_class_head_dw7")["output"])
    torch.testing.assert_close(out[:, ::4], expected.reshape(out[:, ::4].shape), atol=1e-5, rtol=1e-5)


def test_embedding_mlp(mobile: MaskConver) -> None:
    arrays = case("maskconver/mlp")
    with torch.no_grad():
        out = mobile.mlp(torch.from_numpy(arrays["input"]))
    torch.testing.assert_close(out, torch.from_numpy(arrays["output"]), atol=1e-5, rtol=1e-5)


def test_peaks_and_their_order() -> None:
    arrays = case("maskconver/peaks_topk")
    logits = nchw(arrays["logits"])
    torch.testing.assert_close(peak_scores(logits), nchw(arrays["peak_scores"]), atol=1e-6, rtol=0)
    peaks = top_peaks([logits], int(arrays["k"]))
    np.testing.assert_array_equal(peaks.labels, arrays["classes"])
    np.testing.assert_array_equal(peaks.cells[..., 1:], arrays["indices_yx"])
    np.testing.assert_allclose(peaks.scores, arrays["scores"], atol=1e-6)
    gathered = nchw(arrays["embedding_map"])[
        torch.arange(2)[:, None], :, peaks.cells[..., 1], peaks.cells[..., 2]
    ]
    np.testing.assert_array_equal(gathered, arrays["gathered"])


def test_mask_embeddings_at_given_points(mobile: MaskConver) -> None:
    arrays = case("maskconver/mask_embeddings_at_points")
    with torch.no_grad():
        maps = mobile(nchw(image(256, 256)))
        cells = F.pad(torch.from_numpy(arrays["indices_yx"]).long(), (1, 0))
        pooled = maps.embedding_map[0][0, :, cells[:, 1], cells[:, 2]].T
        out = mobile.mask_embeddings(
            maps.embedding_map,
            torch.zeros(4, dtype=torch.long),
            cells,
            labels=torch.from_numpy(arrays["classes"]).long(),
        )
    torch.testing.assert_close(pooled, torch.from_numpy(arrays["pooled"]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out, torch.from_numpy(arrays["mask_embeddings"]), atol=1e-4, rtol=1e-4)


def test_whole_model(mobile: MaskConver) -> None:
    arrays = case("maskconver/model_mobile256")
    pixels = image(256, 256)
    assert abs(pixels.sum() - arrays["image_sum"]) < 1e-1
    with torch.no_grad():
        heatmap = mobile(nchw(pixels)).heatmap_logits[0][0]
    channels = torch.from_numpy(arrays["heatmap_channels"]).long()
    torch.testing.assert_close(heatmap[channels], nchw(arrays["heatmap_logits"]).squeeze(), atol=5e-5, rtol=0)
    proposals = mobile.predict(nchw(pixels), 50)
    np.testing.assert_array_equal(proposals.labels[0], arrays["classes"])
    np.testing.assert_allclose(proposals.scores[0], arrays["scores"], atol=1e-5)
    torch.testing.assert_close(
        proposals.mask_logits[0, :10], nchw(arrays["mask_logits_top10"]), atol=1e-3, rtol=0
    )
    np.testing.assert_allclose(proposals.mask_logits[0].mean((1, 2)), arrays["mask_logits_mean"], atol=1e-3)


@pytest.mark.parametrize("name", SEMANTIC)
def test_semantic_variants(name: str) -> None:
    classes, changes = SEMANTIC[name]
    arrays = case(f"maskconver/model_{name}_tiny")
    model = by_formula(create_model("maskconver_mobile_256", num_classes=classes, **changes))
    images = nchw(arrays["image"])
    with torch.no_grad():
        decoded = model.decoder(model.backbone(images))[4][0]
        maps = model(images)
    torch.testing.assert_close(
        decoded[:: decoded.shape[0] // arrays["decoder"].shape[-1]],
        nchw(arrays["decoder"]),
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(
        maps.heatmap_logits[0][0], nchw(arrays["heatmap_logits"]), atol=1e-4, rtol=1e-4
    )
    proposals = model.predict(images, 20)
    np.testing.assert_array_equal(proposals.labels[0], arrays["classes"])
    np.testing.assert_allclose(proposals.scores[0], arrays["scores"], atol=1e-5)
    torch.testing.assert_close(proposals.mask_logits[0], nchw(arrays["mask_logits"]), atol=1e-4, rtol=1e-4)


def test_every_variable_of_the_reference_has_its_layout_here() -> None:
    model = create_model("maskconver_mobile_256", num_classes=201)
    state = model.state_dict()
    for row in variable_rows():
        if "block19" not in row["name"]:
            value = _own_layout(row["name"], np.zeros(row["shape"], np.float32))
            assert value.shape == tuple(state[_own_name(row["name"])].shape), row["name"]
    assert not any(re.search("block19", k) for k in state)
