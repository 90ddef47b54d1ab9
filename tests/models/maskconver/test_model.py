"""What the options of a MaskConver change, and that nothing else changes with them."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskconver.errors import ConfigError
from maskconver.models import create_model
from maskconver.models.inspect import count_macs
from maskconver.models.layers import Conv2d
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.peaks import peak_scores, top_peaks
from maskconver.models.maskconver.position import TERMS, UNIT


def small(**changes: object) -> MaskConver:
    torch.manual_seed(0)
    fields = {"filters": 16, "low_level_filters": 16, "embedding_dim": 16, **changes}
    return create_model("maskconver_mobile_256", num_classes=5, **fields).eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("k", [10, 50, 400, 1000])
def test_the_number_of_proposals_is_settable_at_inference(image: Tensor, k: int) -> None:
    model = small()
    proposals = model.predict(image, k)
    assert proposals.mask_logits.shape == (1, k, 32, 32)
    many = model.predict(image, 1000)
    torch.testing.assert_close(proposals.scores, many.scores[:, :k], rtol=0, atol=0)
    torch.testing.assert_close(proposals.labels, many.labels[:, :k], rtol=0, atol=0)


def test_more_proposals_than_cells_and_classes_are_all_there_is() -> None:
    assert small().predict(torch.randn(1, 3, 16, 16), 1000).scores.shape == (1, 5 * 2 * 2)


def test_seven_by_seven_heads_change_the_six_depthwise_kernels_of_the_heads_only() -> None:
    shapes = [{k: v.shape for k, v in small(head_kernel=kernel).state_dict().items()} for kernel in (3, 7)]
    changed = {k for k in shapes[0] if shapes[0][k] != shapes[1][k]}
    heads = ("class_head", "embedding_head", "mask_head")
    assert changed == {f"{head}.dw.{i}.weight" for head in heads for i in (0, 1)}
    assert all(shapes[1][k][-2:] == (7, 7) for k in changed)


def test_concatenation_widens_only_what_follows_the_fusion(image: Tensor) -> None:
    summed, joined = small(), small(fusion="concat", low_level_filters=8)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (summed, joined)]
    changed = {k.split(".", 1)[1] for k in shapes[0] if shapes[0][k] != shapes[1][k]}
    assert changed >= {"lowlevel.conv.weight", "dw.0.weight", "pw.0.weight"}
    assert all(k.startswith(("lowlevel.", "dw.0.", "pw.0.", "norm.dw.0.")) for k in changed)
    assert joined.class_head.dw[0].weight.shape[0] == 16 + 8
    assert joined(image).mask_features.shape == summed(image).mask_features.shape


def test_a_sum_of_unequal_widths_is_refused() -> None:
    with pytest.raises(ConfigError, match="fusion=sum adds 8 low-level filters to 16"):
        small(low_level_filters=8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"level": 5}, "no features of stride 32, which this model needs; its strides are 4, 8, 16"),
        (
            {"fusion": "none"},
            "with fusion=none the maps are those of the backbone's last level: give level=4",
        ),
        ({"class_embedding": "product"}, "'product' - at `class_embedding`"),
        ({"padding": "valid"}, "'valid' - at `padding`"),
        ({"filters": "many"}, "at `filters`"),
        ({"input": {"size": [256]}}, "at `input.size`"),
    ],
)
def test_values_that_no_network_can_have_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        small(**changes)


def test_padding_changes_what_the_strided_convolutions_see_and_no_weight(image: Tensor) -> None:
    same, symmetric = small(), small(padding="symmetric")
    symmetric.load_state_dict(same.state_dict())
    with torch.no_grad():
        a, b = same(image).mask_features, symmetric(image).mask_features
    assert a.shape == b.shape
    assert (a - b).abs().max() > 0.1 * a.abs().max()
    # Of even sizes `same` pads right and below only, `symmetric` all around: a pixel apart they agree.
    conv, other = Conv2d(3, 4, 3, stride=2), Conv2d(3, 4, 3, stride=2, padding="symmetric")
    other.load_state_dict(conv.state_dict())
    shifted = torch.roll(image, (-1, -1), (2, 3))
    torch.testing.assert_close(conv(image)[..., 1:-1, 1:-1], other(shifted)[..., 1:-1, 1:-1])


@given(
    n=st.integers(1, 40), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_both_paddings_keep_one_position_a_stride(n: int, kernel: int, stride: int, dilation: int) -> None:
    for padding in ("same", "symmetric"):
        conv = Conv2d(1, 1, kernel, stride=stride, dilation=dilation, padding=padding)  # type: ignore[arg-type]
        assert conv(torch.zeros(1, 1, n, n + 3)).shape[-2:] == (-(-n // stride), -(-(n + 3) // stride))


def quadratic_form(terms: Tensor, cell: tuple[int, int], h: int, w: int) -> Tensor:
    """c + px·dx + py·dy + pxx·dx² + pxy·dx·dy + pyy·dy² of the offsets from a cell, h×w."""
    dy = (torch.arange(h)[:, None] - cell[0]) / UNIT
    dx = (torch.arange(w)[None, :] - cell[1]) / UNIT
    c, px, py, pxx, pxy, pyy = terms
    return c + px * dx + py * dy + pxx * dx**2 + pxy * dx * dy + pyy * dy**2


def test_position_aware_masks_add_a_quadratic_form_around_the_centre() -> None:
    model = small(position=True)
    maps = model(torch.randn(2, 3, 128, 96))
    batch = torch.tensor([0, 0, 1])
    cells, labels = torch.tensor([[0, 0, 0], [0, 15, 11], [0, 7, 3]]), torch.tensor([0, 3, 4])
    embeddings = model.mask_embeddings(maps.embedding_map, batch, cells, labels=labels)
    basis = model.mask_basis(maps.mask_features)
    read = maps.embedding_map[0][batch, :, cells[:, 1], cells[:, 2]]
    raw = model.mlp(read * model.class_embedding(labels))
    for i, image in enumerate(batch):
        looks = torch.einsum("d,dhw->hw", raw[i, :-TERMS], maps.mask_features[image])
        place = quadratic_form(raw[i, -TERMS:], tuple(cells[i, 1:].tolist()), 16, 12)
        mask = torch.einsum("d,dhw->hw", embeddings[i], basis[image])
        torch.testing.assert_close(mask, looks + place, atol=1e-5, rtol=1e-5)


def test_position_aware_masks_tell_equal_looking_places_apart() -> None:
    model = small(position=True)
    flat = torch.zeros(1, 16, 8, 8)
    cells, image, labels = torch.tensor([[0, 1, 1], [0, 6, 6]]), torch.tensor([0, 0]), torch.tensor([2, 2])
    embeddings = model.mask_embeddings((flat,), image, cells, labels=labels)
    masks = torch.einsum("nd,dhw->nhw", embeddings, model.mask_basis(flat)[0])
    assert not torch.allclose(masks[0], masks[1])
    torch.testing.assert_close(masks[0, :3, :3], masks[1, 5:, 5:])  # the same form about its own centre


def test_masks_are_made_in_full_precision_under_autocast(image: Tensor) -> None:
    model = small(position=True)
    plain = model.predict(image, 5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.predict(image, 5)
    assert mixed.mask_logits.dtype == mixed.scores.dtype == torch.float32
    assert plain.mask_logits.shape == mixed.mask_logits.shape


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_peaks_come_by_score_and_then_by_place_and_class(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (2, 3, 5, 4), generator=generator).float()  # many ties
    peaks = top_peaks([logits], 30)
    for b in range(2):
        flat = peak_scores(logits)[b].permute(1, 2, 0).flatten()
        order = sorted(range(len(flat)), key=lambda i: (-flat[i].item(), i))[:30]
        expected = [(i // 12, i // 3 % 4, i % 3) for i in order]
        found = [(int(y), int(x), int(c)) for (_, y, x), c in zip(peaks.cells[b], peaks.labels[b])]
        assert found == expected
        torch.testing.assert_close(peaks.scores[b], flat[order], rtol=0, atol=0)


@pytest.mark.parametrize("window", [None, (4, 4), (32, 64), (2, 2)])
def test_a_batch_of_one_image_trains(window: tuple[int, int] | None) -> None:
    model = small(aspp_pool_window=window).train()  # of 4×4 cells: all, just all, more than all, four windows
    maps = model(torch.randn(1, 3, 64, 64))
    every = (*maps.heatmap_logits, *maps.embedding_map, maps.mask_features)
    torch.stack([m.square().mean() for m in every]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.decoder.pool.conv.weight.grad is not None  # type: ignore[union-attr]


class TestFullConvolutions:
    """What the large single-scale models have and the mobile ones have not."""

    def test_replace_every_separable_one_of_aspp_and_heads(self, image: Tensor) -> None:
        model = small(separable=False, fusion="none", level=4, activation="swish", aspp_rates=(2, 3))
        kernels = [m for m in model.decoder.modules() if isinstance(m, Conv2d)]
        assert all(m.groups == 1 for m in kernels)
        assert [m.dilation[0] for m in kernels if m.kernel_size == (3, 3)] == [2, 3]
        for head in (model.class_head, model.embedding_head, model.mask_head):
            assert head.lowlevel is None and head.out.kernel_size == (3, 3)
            assert [m.kernel_size for m in head.conv] == [(3, 3), (3, 3)]
        assert model(image).mask_features.shape == (1, 16, 16, 16)  # nothing to fuse: at the ASPP's stride

    def test_activation_is_that_of_aspp_and_heads_and_not_of_the_backbone(self, image: Tensor) -> None:
        relu, swish = small(), small(activation="swish")
        swish.load_state_dict(relu.state_dict())
        with torch.no_grad():
            a, b = relu.backbone(image), swish.backbone(image)
            assert all(torch.equal(a[level], b[level]) for level in a)
            assert (relu.decoder(a)[4] >= 0).all() and (swish.decoder(a)[4] < 0).any()
            decoded, low = torch.randn(1, 16, 8, 8), torch.randn(1, 64, 16, 16)
            assert not torch.equal(relu.class_head(decoded, low), swish.class_head(decoded, low))


def test_the_input_size_changes_the_cost_and_no_weight() -> None:
    one, other = small(), small(input={"size": (512, 256)})
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    assert other.input.size == (512, 256)
    assert count_macs(other, proposals=1) == pytest.approx(2 * count_macs(one, proposals=1), rel=0.01)
