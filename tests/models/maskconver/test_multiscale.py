"""What the options of a multi-scale MaskConver change, and that nothing else changes with them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskconver.core.categories import Categories
from maskconver.core.proposals import Proposals
from maskconver.errors import ConfigError
from maskconver.merge import postprocess
from maskconver.models import create_model
from maskconver.models.decoders.convnext_unet import ConvNeXtBlock
from maskconver.models.inspect import count_parameters
from maskconver.models.layers import DropPath
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.heads import with_class
from maskconver.models.maskconver.losses import LossConfig
from maskconver.models.maskconver.peaks import peak_scores, top_peaks
from tests.batches import batch_of, squares
from tests.losses import judged

NARROW: dict[str, Any] = {
    "backbone": "mobilenetv3_large_100",
    "unet_dim": 16,
    "unet_depths": (1, 1, 1),
    "filters": 16,
    "embedding_dim": 16,
    "mlp_hidden": 32,
    "head_depths": (1, 1, 1),
}


def narrow(**changes: object) -> MaskConver:
    torch.manual_seed(0)
    model = create_model("maskconver_r50_640", num_classes=5, **{**NARROW, **changes})
    assert isinstance(model, MaskConver)
    return model.eval()


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {k: v.shape for k, v in model.state_dict().items()}


def changed(one: nn.Module, other: nn.Module) -> set[str]:
    """The modules whose tensors differ in number or shape."""
    a, b = shapes(one), shapes(other)
    return {k.split(".")[0] for k in a.keys() | b.keys() if a.get(k) != b.get(k)}


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("decoder", ["convnext_unet", "fpn", "bifpn", "aspp"])
@pytest.mark.parametrize(
    "backbone",
    [
        "mobilenetv3_large_100",
        *(pytest.param(f"convnext_{s}", marks=pytest.mark.slow) for s in ("tiny", "small", "base")),
    ],
)
def test_every_backbone_under_every_pixel_decoder_trains_and_predicts(decoder: str, backbone: str) -> None:
    model = narrow(decoder=decoder, backbone=backbone).train()
    batch = batch_of([squares(), squares()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    losses = []
    for _ in range(5):
        terms = judged(model, model(batch.images), batch, LossConfig())
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    proposals = model.eval().predict(batch.images, 9)
    assert proposals.mask_logits.shape == (2, 9, 16, 16) and proposals.mask_logits.isfinite().all()


@pytest.mark.parametrize(
    ("decoder", "others"),
    [
        ("convnext_unet", {}),
        ("bifpn", {}),
        ("aspp", {}),
        # The pyramid takes levels 6 and 7 from before the norms of 5 and 6, which so must stay.
        ("fpn", {"decoder_norm": "batch", "separable": False, "mask_fusion": "panoptic_fpn"}),
    ],
)
@torch.no_grad()
def test_the_network_for_inference_has_folded_batch_norms_and_the_same_answers(
    decoder: str, others: dict[str, Any], image: Tensor
) -> None:
    model = narrow(decoder=decoder, **others)
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fused = model.optimized()
    left = [n for n, m in fused.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) == (2 if others else 0), left
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    wanted, got = model.predict(image, 9), fused.predict(image, 9)
    torch.testing.assert_close(got.scores, wanted.scores, rtol=0, atol=1e-5)
    scale = float(wanted.mask_logits.abs().max())
    torch.testing.assert_close(got.mask_logits, wanted.mask_logits, rtol=0, atol=1e-4 * scale)


def test_pixel_decoders_differ_in_the_decoder_only() -> None:
    published = narrow()
    for decoder in ("fpn", "bifpn", "aspp"):
        assert changed(published, narrow(decoder=decoder)) == {"decoder"}


def test_depths_of_the_unet_are_the_numbers_of_its_blocks() -> None:
    model = narrow(unet_depths=(3, 2, 0))
    assert [len(level.blocks) for level in model.decoder.unet] == [3, 2, 0]  # type: ignore[union-attr, arg-type]
    assert changed(narrow(), model) == {"decoder"}


def test_kernels_of_the_heads_are_those_of_the_config() -> None:
    assert changed(narrow(), narrow(head_kernel=3)) == {"class_head", "embedding_head", "mask_head"}
    assert narrow(head_kernel=3).mask_head.dw[0].weight.shape[-2:] == (3, 3)


def test_shared_heads_share_convolutions_and_not_norms() -> None:
    model = narrow()
    assert isinstance(model.class_head.norm, nn.ModuleDict)
    assert list(model.class_head.norm) == ["3", "4", "5", "6", "7"]
    assert not isinstance(model.class_head, nn.ModuleDict)
    separate = narrow(shared_heads=False)
    assert changed(model, separate) == {"class_head", "embedding_head"}
    convolutions = sum(p.numel() for k, p in model.class_head.named_parameters() if "norm" not in k)
    more = count_parameters(separate.class_head) - count_parameters(model.class_head)
    assert more == 4 * convolutions
    maps = separate(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps.heatmap_logits] == [8, 4, 2, 1, 1]


def test_fusion_by_sum_narrows_the_fpns_output_convolutions() -> None:
    concat, summed = narrow(), narrow(fusion="sum")
    assert changed(concat, summed) == {"decoder"}
    a, b = shapes(concat), shapes(summed)
    assert {k for k in a if a[k] != b[k]} == {
        f"decoder.fpn.post.{level}.{part}.weight" for level in (3, 4) for part in ("dw", "pw")
    }


@pytest.mark.parametrize("how", ["none", "multiply", "add"])
def test_a_centre_embedding_learns_its_class_as_the_config_says(how: str) -> None:
    model = narrow(class_embedding=how)
    maps = [torch.randn(1, 16, 4, 4), torch.randn(1, 16, 2, 2)]
    cells = torch.tensor([[0, 1, 2], [1, 1, 0], [1, 1, 0]])
    labels, image = torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.long)
    found = model.mask_embeddings(tuple(maps), image, cells, labels=labels)
    pooled = torch.stack([maps[0][0, :, 1, 2], maps[1][0, :, 1, 0], maps[1][0, :, 1, 0]])
    if how == "none":
        assert model.class_embedding is None
        expected = model.mlp(pooled)
        torch.testing.assert_close(found[1], found[2])
    else:
        assert model.class_embedding is not None
        table = model.class_embedding(labels)
        expected = model.mlp(pooled * table if how == "multiply" else pooled + table)
        assert not torch.allclose(found[1], found[2])
    torch.testing.assert_close(found, expected)


def test_the_single_scale_models_have_the_same_switch() -> None:
    pooled, table = torch.randn(2, 3), torch.randn(2, 3)
    for how in ("none", "multiply", "add"):
        model = create_model("maskconver_mobile_256", num_classes=3, class_embedding=how)
        assert (model.class_embedding is None) == (how == "none")
        assert model.predict(torch.randn(1, 3, 64, 64), 2).mask_logits.isfinite().all()
    torch.testing.assert_close(with_class(pooled, table, "multiply"), pooled * table)
    torch.testing.assert_close(with_class(pooled, table, "add"), pooled + table)
    torch.testing.assert_close(with_class(pooled, None, "none"), pooled)


def test_the_mask_features_of_the_fpn_variant_pass_through_convolutions(image: Tensor) -> None:
    model = narrow(mask_fusion="panoptic_fpn")
    assert changed(narrow(), model) == {"mask_fusion"}
    assert [len(steps) for steps in model.mask_fusion.steps.values()] == [1, 2, 3, 4, 5]  # type: ignore[union-attr, operator, arg-type]
    assert model(image).mask_features.shape == (1, 16, 32, 40)


def test_the_number_of_proposals_is_settable_in_the_config_and_at_inference(image: Tensor) -> None:
    assert narrow(proposals=12).predict(image).scores.shape == (1, 12)
    model = narrow()
    many, few = model.predict(image, 60), model.predict(image, 7)
    torch.testing.assert_close(few.scores, many.scores[:, :7], rtol=0, atol=0)


def test_proposals_of_all_levels_compete_in_one_ranking(image: Tensor) -> None:
    maps = narrow()(image)
    logits = [m.detach().clone() for m in maps.heatmap_logits]
    for index, m in enumerate(logits):
        m.fill_(-5)
        m[0, index % 5, 0, 0] = index  # one peak a level, best on the coarsest
    peaks = top_peaks(logits, 5)
    assert peaks.cells[0, :, 0].tolist() == [4, 3, 2, 1, 0] and peaks.labels[0].tolist() == [4, 3, 2, 1, 0]
    torch.testing.assert_close(peaks.scores[0], torch.arange(4, -1, -1).float().sigmoid())


def test_ties_between_levels_go_to_the_finer_one() -> None:
    logits = [torch.zeros(1, 2, 3, 2), torch.zeros(1, 2, 2, 1)]
    cells = top_peaks(logits, 16).cells[0].tolist()
    places = [[0, y, x] for y in range(3) for x in range(2)] + [[1, y, 0] for y in range(2)]
    assert cells == [place for place in places for _ in range(2)]
    assert (peak_scores(logits[0]) == 0.5).all()


class TestFrozenBatchNorm:
    def test_keeps_statistics_and_weights(self) -> None:
        model = narrow(frozen_bn=True).train()
        norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and not any(m.training for m in norms)
        assert not any(p.requires_grad for m in norms for p in m.parameters())
        before = {k: v.clone() for k, v in model.backbone.state_dict().items() if "running" in k}
        model(torch.randn(2, 3, 64, 64))
        assert all(torch.equal(v, model.backbone.state_dict()[k]) for k, v in before.items())
        assert model.class_head.training and not model.eval().class_head.training

    def test_otherwise_they_learn(self) -> None:
        model = narrow().train()
        assert all(m.training for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d))
        assert all(p.requires_grad for p in model.parameters())


def test_stochastic_depth_rises_from_stage_to_stage() -> None:
    with torch.device("meta"):
        model = create_model("maskconver_r50_640", num_classes=2)
    unet = model.decoder.unet  # type: ignore[union-attr]
    stages = [getattr(model.backbone, f"layer{i}") for i in (1, 2, 3, 4)] + [level.blocks for level in unet]
    rates = [{round(m.rate, 6) for m in stage.modules() if isinstance(m, DropPath)} for stage in stages]
    assert rates == [{0.025}, {0.0375}, {0.05}, {0.0625}, {0.075}, {0.0875}, {0.1}]


def test_a_dropped_branch_is_zero_and_the_others_are_scaled_up() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    values = drop(torch.ones(4000, 1, 1, 1)).flatten()
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert values.mean().item() == pytest.approx(1, abs=0.05)
    assert (drop.eval()(torch.ones(10, 1)) == 1).all()


@pytest.mark.parametrize("size", [(64, 96), (65, 70), (33, 127), (1, 1)])
def test_sizes_off_the_stride_are_padded(size: tuple[int, int]) -> None:
    model = narrow()
    images = torch.randn(1, 3, *size)
    proposals = model.predict(images, 4)
    assert proposals.mask_logits.shape == (1, 4, -(-size[0] // 4), -(-size[1] // 4))
    padded = torch.zeros(1, 3, *(-(-n // 32) * 32 for n in size))
    padded[..., : size[0], : size[1]] = images
    full = model.predict(padded, 4)
    h, w = proposals.mask_logits.shape[-2:]
    torch.testing.assert_close(proposals.mask_logits, full.mask_logits[..., :h, :w])


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_images_may_have_other_channels(channels: int) -> None:
    for model in (
        narrow(in_channels=channels),
        create_model("maskconver_mobile_256", num_classes=2, in_channels=channels),
    ):
        assert model.eval().predict(torch.randn(1, channels, 64, 64), 2).scores.shape == (1, 2)


@pytest.mark.parametrize("name", ["maskconver_mobile_256", "maskconver_r50_640"])
def test_a_wrong_number_of_channels_names_the_fix(name: str) -> None:
    model = create_model(
        name, num_classes=2, **({"backbone": "mobilenetv3_large_100"} if "r50" in name else {})
    )
    with pytest.raises(ConfigError, match="have 4 channels, the model takes 3; create it with"):
        model(torch.randn(1, 4, 64, 64))


def test_the_unet_may_have_other_channels_on_each_level() -> None:
    model = narrow(unet_dim=(24, 16, 8)).eval()
    assert model.predict(torch.randn(1, 3, 64, 64)).mask_logits.isfinite().all()
    assert [unet.lateral.conv.out_channels for unet in model.decoder.unet] == [24, 16, 8]
    with pytest.raises(ConfigError, match="length 3, got 2"):
        narrow(unet_dim=(24, 16))


def test_an_unknown_backbone_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError, match=r'no backbone "convnext_tini"; did you mean convnext_tiny'):
        narrow(backbone="convnext_tini")
    with pytest.raises(ConfigError, match='"mobilenet_mh" is not made for multi-scale models'):
        narrow(backbone="mobilenet_mh")


def test_a_field_of_another_kind_of_model_is_refused() -> None:
    with pytest.raises(ConfigError, match='MaskConverConfig has no field "unet_dim"'):
        create_model("maskconver_mobile_256", num_classes=2, unet_dim=3)


def test_there_is_one_range_a_level() -> None:
    with pytest.raises(ConfigError, match="5 levels but 2 level_ranges"):
        narrow(level_ranges=((0, 5), (5, 9)))
    assert (
        len(narrow(levels=(3, 4, 5), level_ranges=((0, 8), (8, 16), (16, 1e9)))(torch.zeros(1, 3, 64, 64))[0])
        == 3
    )


def test_levels_without_a_feature_are_refused() -> None:
    with pytest.raises(ConfigError, match="finest level is 2"):
        narrow(levels=(2, 3, 4), level_ranges=((0, 8), (8, 16), (16, 1e9)))
    with pytest.raises(ConfigError, match="have gaps"):
        narrow(levels=(3, 5, 6), level_ranges=((0, 8), (8, 16), (16, 1e9)))
    coarse = narrow(levels=(4, 5, 6), level_ranges=((0, 8), (8, 16), (16, 1e9)))
    assert [m.shape[-1] for m in coarse(torch.zeros(1, 3, 64, 64)).heatmap_logits] == [4, 2, 1]


@pytest.mark.parametrize(("hard", "winner"), [(False, 1), (True, 0)])
def test_a_hard_sigmoid_makes_sure_masks_surer(hard: bool, winner: int) -> None:
    model = narrow(
        postprocess={"hard_sigmoid": hard, "score_threshold": 0.2, "overlap_threshold": 0, "min_area": 0}
    )
    masks = np.stack([np.full((8, 8), v, np.float32) for v in (3.0, 2.5)])  # 1 and 0.917, or 0.953 and 0.924
    scores, labels = np.array([[0.50, 0.52]], np.float32), np.array([[0, 1]])
    categories = Categories.from_json([{"id": i, "name": str(i), "isthing": 1} for i in (1, 2)])
    found = postprocess(Proposals(scores, labels, masks[None]), model.postprocess, categories)[0]
    assert [s.label for s in found.segments] == [winner]


def test_training_keeps_the_input_of_a_norm_and_calculates_what_follows_again() -> None:
    torch.manual_seed(0)
    block = ConvNeXtBlock(8).train()
    head = narrow().mask_head.train()
    for module, channels, most in ((block, 8, 9), (head, 16, 6)):
        x = torch.randn(1, channels, 16, 16, requires_grad=True)
        kept: dict[int, int] = {}

        def keep(t: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = module(x)
        y.square().sum().backward()
        found = [p.grad for p in module.parameters()]
        own = {p.untyped_storage().data_ptr() for p in module.parameters()}
        assert sum(n for k, n in kept.items() if k not in own) < most * x.untyped_storage().nbytes()
        module.zero_grad()
        with mock.patch("maskconver.models.layers.checkpoint", lambda function, v, **_: function(v)):
            module(x).square().sum().backward()
        assert all(torch.equal(a, b.grad) for a, b in zip(found, module.parameters(), strict=True))  # type: ignore[arg-type]
