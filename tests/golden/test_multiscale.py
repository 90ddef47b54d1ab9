"""The multi-scale network against the reference implementation, part by part and whole."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskconver.core.categories import Categories
from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry, Proposals
from maskconver.merge import postprocess
from maskconver.models import create_model
from maskconver.models.backbones.resnet import ResNet
from maskconver.models.decoders.convnext_unet import ConvNeXtBlock, ConvNeXtUNet
from maskconver.models.decoders.fpn import FPN
from maskconver.models.inspect import count_macs, count_parameters
from maskconver.models.layers import LayerNorm2d
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.heads import MLP, Head, PanopticFPNFusion, SumFusion
from maskconver.models.maskconver.peaks import peak_scores, top_peaks
from tests.golden.model_garden import _own_name, import_model_garden

from .reference import case, multiscale_input, multiscale_weight, nchw, variable_rows

pytestmark = pytest.mark.golden

LEVELS = (3, 4, 5, 6, 7)
Name = Callable[[str], str]


def fill(module: nn.Module, name: Name) -> None:
    """Gives a part the formula's weights; `name` turns a submodule's path into the canonical one."""
    for key, value in module.state_dict().items():
        stem, leaf = key.rsplit(".", 1) if "." in key else ("", key)
        if leaf == "num_batches_tracked":
            continue
        owner = module.get_submodule(stem)
        canonical, shape = name(stem), tuple(value.shape)
        if leaf == "weight" and isinstance(owner, nn.Conv2d):
            out, inp, height, width = shape
            if owner.groups > 1:
                array = multiscale_weight(f"{canonical}.depthwise_kernel", (height, width, out, 1))
                array = array.transpose(2, 3, 0, 1)
            else:
                kind = "pointwise_kernel" if stem.endswith(".pw") else "kernel"  # of a separable convolution
                array = multiscale_weight(f"{canonical}.{kind}", (height, width, inp, out))
                array = array.transpose(3, 2, 0, 1)
        elif leaf == "weight" and isinstance(owner, nn.Linear):
            dense = (1, 1) if ".se." in canonical else ()
            array = multiscale_weight(f"{canonical}.kernel", (*dense, shape[1], shape[0]))
            array = array.reshape(shape[1], shape[0]).T
        elif leaf == "layer_scale":
            array = multiscale_weight(f"{canonical}.layer_scale", (1, 1, 1, *shape)).reshape(shape)
        else:
            norm = isinstance(owner, nn.LayerNorm | nn.BatchNorm2d | nn.GroupNorm)
            leaves = {
                "weight": "gamma",
                "bias": "beta" if norm else "bias",
                "running_mean": "moving_mean",
                "running_var": "moving_variance",
            }
            array = multiscale_weight(f"{canonical}.{leaves[leaf]}", shape)
        value.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    module.eval()


def close(actual: Tensor, expected: NDArray, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(actual, nchw(expected), atol=tolerance, rtol=0)


@torch.no_grad()
def test_convnext_block() -> None:
    arrays = case("multiscale/convnext_block")
    block = ConvNeXtBlock(16)
    fill(block, lambda stem: f"case.block.{stem}".rstrip("."))
    x = nchw(multiscale_input("case.block.x", (2, 9, 11, 16)))
    close(x, arrays["x"])
    after = block.dwconv(x)
    close(after, arrays["after_dwconv"])
    after = block.ln(after.permute(0, 2, 3, 1))
    np.testing.assert_allclose(after, arrays["after_ln"], atol=1e-4)
    after = block.excite(nn.functional.gelu(block.fc1(after)))
    np.testing.assert_allclose(after[:, :3, :3], arrays["after_se"], atol=1e-4)
    np.testing.assert_allclose(block.fc2(after), arrays["after_fc2"], atol=1e-4)
    close(block(x), arrays["y"])


def resnet_name(prefix: str) -> Name:
    def name(stem: str) -> str:
        stem = re.sub(r"^(conv|bn)1$", r"stem.\1", stem)
        stem = re.sub(r"downsample\.0$", "shortcut.conv", stem)
        stem = re.sub(r"downsample\.1$", "shortcut.bn", stem)
        return f"{prefix}." + re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", stem)

    return name


@torch.no_grad()
def test_backbone_and_unet() -> None:
    arrays = case("multiscale/unet_small")
    backbone = ResNet(widths=(8, 8, 16, 32, 64))
    unet = ConvNeXtUNet({n: backbone.channels[n] for n in (3, 4, 5)}, 16, (2, 1, 1))
    fill(backbone, resnet_name("case.unet"))
    fill(unet, lambda stem: f"case.unet.unet.{stem}".rstrip("."))
    assert count_parameters(backbone) + count_parameters(unet) == 402_856
    x = nchw(multiscale_input("case.unet.x", (1, 64, 96, 3)))
    close(x, arrays["x"])
    features = unet(backbone(x))
    for level in (2, 3, 4, 5):
        close(features[level], arrays[f"p{level}"])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@torch.no_grad()
def test_fpn(fusion: str) -> None:
    arrays = case("multiscale/fpn")
    published = fusion == "concat"
    fpn = FPN(
        dict.fromkeys((3, 4, 5), 16),
        LEVELS,
        8,
        fusion=fusion,  # type: ignore[arg-type]
        separable=published,
        kernel=7 if published else 3,
    )
    prefix = "case.fpn" if published else "case.fpnsum"
    # `lateral.3.dw` and `lateral.3.pw` are parts of one separable layer of the reference
    fill(fpn, lambda stem: f"{prefix}.{stem.replace('norm.', 'ln.')}".removesuffix(".dw").removesuffix(".pw"))
    sizes = {3: (16, 12), 4: (8, 6), 5: (4, 3)}
    inputs = {n: nchw(multiscale_input(f"case.fpn.x{n}", (1, *size, 16))) for n, size in sizes.items()}
    for level, output in fpn(inputs).items():
        close(output, arrays[f"{fusion}_p{level}"])


def pyramid(levels: tuple[int, ...] = LEVELS) -> dict[int, Tensor]:
    return {n: nchw(multiscale_input(f"case.pyramid.{n}", (1, 128 >> n, 128 >> n, 8))) for n in levels}


class TestHeads:
    @pytest.mark.parametrize(("kind", "out"), [("class", 5), ("embed", 6)])
    @torch.no_grad()
    def test_separable_heads_with_norms_of_each_level(self, kind: str, out: int) -> None:
        arrays = case("multiscale/heads")
        head = Head(8, 8, out, depth=2, kernel=7, levels=LEVELS)
        fill(head, lambda stem: f"case.{kind}_head.{stem}")
        for level, x in pyramid().items():
            close(x, arrays[f"pyr{level}"])
            close(head(x, level=level), arrays[f"{kind}_l{level}"])

    @torch.no_grad()
    def test_head_of_full_convolutions(self) -> None:
        arrays = case("multiscale/heads")
        head = Head(8, 8, 5, depth=2, kernel=3, separable=False, activation="swish", levels=LEVELS)
        fill(head, lambda stem: f"case.convclass_head.{stem}")
        for level, x in pyramid().items():
            close(head(x, level=level), arrays[f"convclass_l{level}"])

    @torch.no_grad()
    def test_mask_head_on_the_fused_pyramid(self) -> None:
        arrays = case("multiscale/heads")
        fused = SumFusion()(list(pyramid().values()), (32, 32))
        close(fused, arrays["mask_fused"])
        head = Head(8, 8, 6, depth=2, kernel=7)
        fill(head, lambda stem: f"case.mask_head.{stem}")
        close(head(fused), arrays["mask_out"])

    @torch.no_grad()
    def test_panoptic_fpn_fusion(self) -> None:
        arrays = case("multiscale/panoptic_fpn_fusion")
        fusion = PanopticFPNFusion(8, (3, 4, 5), 32)
        fill(fusion, lambda stem: f"case.pff.{stem.removeprefix('steps.')}")
        y = fusion(list(pyramid((3, 4, 5)).values()), (32, 32))
        close(y[..., ::2, ::2], arrays["y"])


@torch.no_grad()
def test_mask_embedding_mlp() -> None:
    arrays = case("multiscale/mlp")
    mlp = MLP(8, 8, 32, activation="gelu")
    fill(mlp, lambda stem: f"case.mlp.{stem}")
    y = mlp(torch.from_numpy(multiscale_input("case.mlp.x", (2, 5, 8))))
    np.testing.assert_allclose(y, arrays["y"], atol=1e-4)


def flat_positions(cells: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Positions in the concatenation of all levels."""
    starts = torch.tensor([0, *(h * w for h, w in sizes)]).cumsum(0)
    widths = torch.tensor([w for _, w in sizes])
    level, y, x = cells.unbind(-1)
    return starts[level] + y * widths[level] + x


def test_one_top_k_over_all_levels() -> None:
    arrays = case("multiscale/topk")
    logits = [nchw(arrays[f"logits{n}"]) for n in LEVELS]
    for n in (3, 4):
        close(peak_scores(logits[n - 3]), arrays[f"peaks{n}"], 1e-6)
    peaks = top_peaks(logits, 40)
    np.testing.assert_allclose(peaks.scores, arrays["confidence"], atol=1e-6)
    np.testing.assert_array_equal(peaks.labels, arrays["classes"])
    positions = flat_positions(peaks.cells, [(m.shape[-2], m.shape[-1]) for m in logits])
    np.testing.assert_array_equal(positions, arrays["box_indices"])
    np.testing.assert_array_equal(positions * 5 + peaks.labels, arrays["flat_indices"])


def formula_variables(classes: int, key: str = "name") -> dict[str, NDArray]:
    """Every variable of R50-UNet by the formula, class-shaped ones for so many classes."""
    variables = {}
    for row in variable_rows("r50_unet"):
        shape = tuple(classes if n == 201 else n for n in row["shape"])
        variables[row[key]] = multiscale_weight(row["name"], shape)
    return variables


@pytest.fixture(scope="module")
def whole() -> MaskConver:
    model = create_model("maskconver_r50_640", num_classes=11, proposals=20)
    assert isinstance(model, MaskConver)
    import_model_garden(model, formula_variables(11))
    return model.eval()


def test_importer_takes_canonical_names_and_checkpoint_keys() -> None:
    model = create_model("maskconver_r50_640", num_classes=201)
    rows = variable_rows("r50_unet")
    for key, suffix in (("name", ""), ("checkpoint_key", "/.ATTRIBUTES/VARIABLE_VALUE")):
        values = {r[key] + suffix: np.full(r["shape"], i, np.float32) for i, r in enumerate(rows)}
        import_model_garden(model, values)
        state = model.state_dict()
        seen = {float(v.flatten()[0]) for k, v in state.items() if not k.endswith("num_batches_tracked")}
        assert seen == set(range(787)), key
        for i, row in enumerate(rows):
            name = _own_name(row["name"])
            name = name if name in state else name.removesuffix("bias") + "pw.bias"
            assert (state[name] == i).all(), (key, row["name"])


class TestWholeModel:
    @torch.no_grad()
    def test_every_stage(self, whole: MaskConver) -> None:
        arrays = case("multiscale/whole_model")
        x = nchw(multiscale_input("case.whole.x", (1, 128, 128, 3)))
        features = whole.backbone(x)
        refined = whole.decoder.unet({n: features[n] for n in (3, 4, 5)})  # type: ignore[misc]
        close(features[2][:, :16, ::8, ::8], arrays["backbone_p2"])
        for level, step in ((3, 4), (4, 2), (5, 1)):
            close(refined[level][:, :64, ::step, ::step], arrays[f"backbone_p{level}"])
        outputs = whole.decoder(features)
        for level, step in ((3, 4), (4, 2), (5, 1)):
            close(outputs[level][:, :64, ::step, ::step], arrays[f"fpn_p{level}"])
        close(outputs[6], arrays["fpn_p6"])
        close(outputs[7], arrays["fpn_p7"])

    @torch.no_grad()
    def test_maps(self, whole: MaskConver) -> None:
        arrays = case("multiscale/whole_model")
        maps = whole(nchw(multiscale_input("case.whole.x", (1, 128, 128, 3))))
        heatmaps = torch.cat([m.flatten(2) for m in maps.heatmap_logits], 2)[0].T
        np.testing.assert_allclose(heatmaps, arrays["class_heatmaps"][0], rtol=0, atol=1e-4)
        embeddings = torch.cat([m.flatten(2) for m in maps.embedding_map], 2)[0].T
        np.testing.assert_allclose(embeddings[::16], arrays["dense_embeddings"][0], rtol=0, atol=1e-4)
        close(maps.mask_features[:, :64, ::8, ::8], arrays["per_pixel"])

    def test_proposals(self, whole: MaskConver) -> None:
        arrays = case("multiscale/whole_model")
        x = nchw(multiscale_input("case.whole.x", (1, 128, 128, 3)))
        proposals = whole.predict(x)
        np.testing.assert_allclose(proposals.scores, arrays["confidence"], atol=1e-4)
        np.testing.assert_array_equal(proposals.labels, arrays["classes"])
        with torch.no_grad():
            peaks = top_peaks(whole(x).heatmap_logits, 20)
        sizes = [(128 >> n, 128 >> n) for n in LEVELS]
        np.testing.assert_array_equal(flat_positions(peaks.cells, sizes), arrays["box_indices"])
        close(proposals.mask_logits, arrays["mask_logits"], 1e-3)

    @torch.no_grad()
    def test_masks_of_given_centres(self, whole: MaskConver) -> None:
        arrays = case("multiscale/whole_model")
        maps = whole(nchw(multiscale_input("case.whole.x", (1, 128, 128, 3))))
        positions = torch.from_numpy(arrays["train_box_indices"][0]).long()
        starts = torch.tensor([0, 256, 320, 336, 340])
        level = (positions[:, None] >= starts).sum(1) - 1
        inside, width = positions - starts[level], torch.tensor([16, 8, 4, 2, 1])[level]
        cells = torch.stack([level, inside // width, inside % width], 1)
        labels = torch.from_numpy(arrays["train_classes"][0]).long().clamp(min=0)  # -1 reads row 0 there
        embeddings = whole.mask_embeddings(maps.embedding_map, torch.zeros_like(labels), cells, labels=labels)
        np.testing.assert_allclose(embeddings, arrays["train_mask_embeddings"][0], rtol=0, atol=1e-4)
        masks = torch.einsum("nd,dhw->nhw", embeddings, maps.mask_features[0])
        close(masks[None, :, ::4, ::4], arrays["train_mask_logits"], 1e-3)

    @pytest.mark.parametrize("rescaled", [False, True])
    def test_merged_maps(self, whole: MaskConver, rescaled: bool) -> None:
        arrays = case("multiscale/whole_model")
        scores, classes = arrays["confidence"], arrays["classes"].astype(np.int64)
        geometry: tuple[Geometry, ...] = ()
        if rescaled:
            image, canvas, scale, _ = (tuple(row) for row in arrays["image_info"][0].tolist())
            size = (int(image[0]), int(image[1]))
            geometry = (Geometry(size, (int(canvas[0]), int(canvas[1])), scale),)
        rows = [{"id": i, "name": str(i), "isthing": int(i <= 7)} for i in range(1, 11)]
        proposals = Proposals(
            scores, classes - 1, arrays["mask_logits"].transpose(0, 3, 1, 2), geometry=geometry
        )
        config = PostprocessConfig(score_threshold=0.2, overlap_threshold=0.5, min_area=4 / 64**2)
        found = postprocess(proposals, config, Categories.from_json(rows), output_size=(64, 64))[0]
        category, instance = np.zeros((2, 64, 64), int)
        for segment in found.segments:
            where = found.ids == segment.id
            category[where] = segment.category_id
            # the reference's instance ids are ranks in the order of the scores
            instance[where] = segment.is_thing * (1 + (scores[0] > segment.score).sum())
        ending = "_rescaled" if rescaled else ""
        np.testing.assert_array_equal(category, arrays[f"category_mask{ending}"][0])
        np.testing.assert_array_equal(instance, arrays[f"instance_mask{ending}"][0])


# canvas, proposals, parameters, learnt ones, GMACs
SIZES = {
    "maskconver_r50_640": (640, 256, 57_854_601, 57_748_361, 74.51),
    "maskconver_r50_1280": (1280, 256, 57_854_601, 57_748_361, 297.62),
    "maskconver_r50_fpn_640": (640, 100, 42_066_569, 42_010_889, 138.45),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    size, proposals, parameters, learnt, gmacs = SIZES[name]
    frozen = "fpn" not in name  # as the published recipe has it
    with torch.device("meta"):
        model = create_model(name, num_classes=201, frozen_bn=frozen)
    assert (model.input.size, model.config.proposals) == ((size, size), proposals)
    assert count_parameters(model) == parameters
    assert count_parameters(model, trainable=True) == learnt
    assert count_macs(model) / 1e9 == pytest.approx(gmacs, abs=0.005)


@pytest.mark.parametrize(
    ("name", "millions", "gmacs"),
    [("maskconver_spinenet49_640", 75, 197), ("maskconver_spinenet49plus_640", 97, 199)],
)
def test_rebuilt_spinenets_have_the_published_sizes_within_three_percent(
    name: str, millions: float, gmacs: float
) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=201)
    assert count_parameters(model, trainable=True) / 1e6 == pytest.approx(millions, rel=0.03)
    assert count_macs(model) / 1e9 == pytest.approx(gmacs, rel=0.03)
    assert "reconstruction" in (type(model.backbone).__doc__ or "")


def test_layer_norm_is_over_channels_with_the_references_epsilon() -> None:
    norm = LayerNorm2d(4)
    assert norm.eps == 1e-6
    x = torch.randn(2, 4, 3, 5)
    np.testing.assert_allclose(norm(x).mean(1).detach(), 0, atol=1e-6)
