"""Every registered kMaX-DeepLab and ReMaX network; what they compute is in tests/golden/test_kmax.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor

from maskconver.core.categories import Categories, Category
from maskconver.errors import CheckpointError, ConfigError
from maskconver.models import create_model, list_models
from maskconver.models.checkpoint import init_from, save
from maskconver.models.inspect import count_macs, count_parameters
from maskconver.models.kmax import KMaXDeepLab
from maskconver.models.kmax.import_official import import_kmax_deeplab, official_name
from maskconver.recipes import FOLDER
from tests.models.tester import CLASSES, SAME_TRAINING, ModelTester, TrainingTester, networks, quick

NAMES = sorted({*list_models("kmax*"), *list_models("remax*")})


def kmax(name: str = "remax_t", **changes: Any) -> KMaXDeepLab:
    model = create_model(name, **{"num_classes": CLASSES, "proposals": 12, **changes})
    assert isinstance(model, KMaXDeepLab)
    return model


# model, changes, trainable parameters in millions, canvas, GMACs
STRIDE = {"resnet_layout": "stride"}
TABLE: dict[str, tuple[str, dict[str, Any], float, int, float]] = {
    "T": ("remax_t", {}, 18.628, 640, 18.67),
    "S": ("remax_s", {}, 21.997, 640, 20.77),
    "M": ("remax_m", {}, 50.789, 640, 67.16),
    "M without max-pool": ("remax_m", STRIDE, 50.789, 640, 67.47),
    "B": ("remax_b", {}, 56.580, 1281, 292.05),
    "B without max-pool": ("remax_b", STRIDE, 56.580, 1281, 293.31),
    "R50": ("kmax_r50", {}, 56.580, 641, 74.26),
    "ConvNeXt-T": ("kmax_convnext_t", {}, 60.937, 641, 76.84),
    "ConvNeXt-S": ("kmax_convnext_s", {}, 82.572, 641, 113.10),
}


@pytest.mark.golden
@pytest.mark.parametrize("row", TABLE)
def test_parameters_and_macs_are_the_published_ones(row: str) -> None:
    name, changes, millions, size, gmacs = TABLE[row]
    with torch.device("meta"):
        model = create_model(name, **changes)
    assert round(count_parameters(model, trainable=True) / 1e6, 3) == millions
    assert count_macs(model, (size, size)) / 1e9 == pytest.approx(gmacs, rel=0.002)


@pytest.mark.golden
def test_max_s_has_the_published_parameters() -> None:
    with torch.device("meta"):
        model = create_model("kmax_max_s")
    assert round(count_parameters(model, trainable=True) / 1e6, 3) == 74.416


@pytest.mark.golden
def test_the_cityscapes_model_has_the_published_parameters_and_macs() -> None:
    with torch.device("meta"):
        model = create_model(
            "kmax_r50", num_classes=19, proposals=256, fifth_stage="pytorch", semantic="simple"
        )
    assert round(count_parameters(model, trainable=True) / 1e6, 3) == 56.391
    assert count_macs(model, (1025, 2049)) / 1e9 == pytest.approx(380.84, rel=0.002)


SLOW = [name for name in NAMES if name != "remax_t"]
FEW: dict[str, Any] = {"proposals": 12, "training": {"backbone_drop_path": 0.0, "drop_path": 0.0}}


@pytest.mark.parametrize("name", quick(networks(NAMES, SAME_TRAINING), SLOW))
class TestEveryTraining(TrainingTester):
    changes: ClassVar[dict[str, Any]] = FEW


@pytest.mark.parametrize("name", quick(networks(NAMES), SLOW))
class TestEveryNetwork(ModelTester):
    changes: ClassVar[dict[str, Any]] = FEW

    def maps(self, output: Any) -> list[Tensor]:
        return [output.final.class_logits, output.final.mask_logits]

    @torch.no_grad()
    def test_predictions_of_every_layer_have_their_shapes(self, name: str) -> None:
        model, images = kmax(name).eval(), torch.randn(2, 3, 64, 96)
        output = model(images, deep=True)
        assert output.final.class_logits.shape == (2, 12, CLASSES + 1)
        assert output.final.mask_logits.shape == (2, 12, 16, 24)
        assert output.semantic_logits.shape == (2, CLASSES + 1, 16, 24)
        assert output.semantic_logits.isfinite().all()
        assert len(output.layers) == sum(model.config.decoder_layers)
        assert output.layers[0].mask_logits.shape == (2, 12, 2, 3)
        assert model.predict(images, 7).class_logits.shape == (2, 7, CLASSES + 1)


@pytest.mark.parametrize("size", [(1, 1), (50, 70), (64, 64), (65, 97), (33, 200)])
@torch.no_grad()
def test_images_of_any_size_give_masks_at_stride_4(size: tuple[int, int]) -> None:
    masks = kmax().eval().predict(torch.randn(1, 3, *size)).mask_logits
    assert masks.shape == (1, 12, -(-size[0] // 4), -(-size[1] // 4)) and masks.isfinite().all()


@torch.no_grad()
def test_lines_longer_than_the_table_of_positions_are_accepted() -> None:
    from maskconver.models.kmax.axial import MAX_SPAN, AxialAttention, relative_rows

    rows = relative_rows(300, torch.device("cpu"))
    assert rows.min() == 0 and rows.max() == 2 * MAX_SPAN - 2
    assert rows[0, 0] == MAX_SPAN - 1 and rows[0, 1] == MAX_SPAN
    assert AxialAttention(8, 8, 16, axis="width").eval()(torch.randn(1, 8, 2, 300)).isfinite().all()


@pytest.mark.parametrize(("fifth", "stride"), [("tensorflow", 2), ("pytorch", 2)])
@torch.no_grad()
def test_a_fifth_stage_draws_masks_at_the_stem_s_stride(fifth: str, stride: int) -> None:
    masks = kmax(fifth_stage=fifth).eval().predict(torch.randn(1, 3, 64, 64)).mask_logits
    assert masks.shape[-1] == 64 // stride


@pytest.mark.parametrize("name", ["kmax_cityscapes", "remax_cityscapes"])
@torch.no_grad()
def test_the_cityscapes_recipes_draw_masks_at_stride_2(name: str) -> None:
    chosen = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["model"]
    with torch.device("meta"):
        model = create_model(chosen.pop("name"), num_classes=19, **chosen).eval()
        images = torch.zeros(1, 3, 65, 129)
    assert count_parameters(model, trainable=True) / 1e6 == pytest.approx(56.402, abs=1e-3)  # as published
    assert model.predict(images).mask_logits.shape == (1, 256, 33, 65)


def test_a_fifth_stage_of_stride_2_on_a_pooled_stem_is_refused() -> None:
    with pytest.raises(ConfigError, match="resnet_layout=stride"):
        create_model("kmax_r50", num_classes=CLASSES, fifth_stage="tensorflow")


class TestHalfPrecision:
    @torch.no_grad()
    def test_autocast_stays_near_float32(self) -> None:
        torch.manual_seed(3)
        model, images = kmax().eval(), torch.randn(1, 3, 128, 128)
        plain = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
        assert half.final.mask_logits.dtype == torch.float32
        for a, b in zip(plain.layers, half.layers):
            assert b.mask_logits.isfinite().all()
            scale = a.mask_logits.std()
            assert (a.mask_logits - b.mask_logits).abs().mean() < 0.1 * scale + 0.01

    @torch.no_grad()
    def test_weights_in_bfloat16_give_finite_answers(self) -> None:
        proposals = kmax().eval().bfloat16().predict(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16))
        assert proposals.scores.dtype == torch.float32 and proposals.mask_logits.isfinite().all()

    @torch.no_grad()
    def test_the_sum_of_many_pixels_is_exact_in_bfloat16(self) -> None:
        layer = kmax().decoder.layers[0]
        seen: list[Tensor] = []
        layer.kmeans_bn.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        masks = torch.zeros(1, 12, 64, 64)
        with torch.autocast("cpu", torch.bfloat16):
            layer.eval().kmeans_update(masks, torch.ones(1, 256, 64, 64, dtype=torch.bfloat16))
        assert (seen[0][0, :, 0, 0] == 64 * 64).all() and (seen[0][0, :, 0, 1:] == 0).all()


def test_the_semantic_head_is_for_training_only() -> None:
    model = kmax(training={"drop_path": 0.0})
    without = kmax(semantic="none").eval()
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("semantic_head.")}
    without.load_state_dict(kept)
    assert count_parameters(model) == count_parameters(without)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert model.eval()(images).semantic_logits is None
        assert torch.equal(model(images).final.mask_logits, without(images).final.mask_logits)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one query"):
        kmax(proposals=-1)
    with pytest.raises(ConfigError, match="convnext_tiny"):
        kmax(backbone="vgg")
    with pytest.raises(ConfigError, match="13 proposals of a model with 12 queries"):
        kmax().eval().predict(torch.randn(1, 3, 65, 65), 13)


class TestOfficialCheckpoints:
    def state(self, model: KMaXDeepLab) -> dict[str, Tensor]:
        return {official_name(k): v.clone() for k, v in model.state_dict().items() if "num_batches" not in k}

    def test_a_model_without_the_semantic_head_leaves_it_out(self) -> None:
        state = self.state(kmax())
        report = import_kmax_deeplab(kmax(semantic="none"), state)
        assert report.unexpected and all("_auxiliary_semantic_predictor" in k for k in report.unexpected)
        assert len(report.loaded) + len(report.unexpected) == len(state)

    def test_one_that_does_not_fit_changes_nothing_and_is_refused_with_the_first_names(self) -> None:
        model = kmax()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        state = self.state(kmax(proposals=13))
        state["surplus"] = torch.zeros(1)
        del state["sem_seg_head.pixel_decoder._in_norms.0.bias"]
        with pytest.raises(CheckpointError) as refused:
            import_kmax_deeplab(model, state)
        text = str(refused.value)
        assert "1 missing (sem_seg_head.pixel_decoder._in_norms.0.bias)" in text
        assert "1 unknown (surplus)" in text
        assert "_cluster_centers.weight (256, 13) for (256, 12)" in text
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def named(*names: str) -> KMaXDeepLab:
    categories = Categories([Category(i + 1, name, True, (i, 0, 0)) for i, name in enumerate(names)])
    return kmax(num_classes=None, categories=categories)


def test_init_from_matches_classes_by_name_and_no_object_is_the_last(tmp_path: Path) -> None:
    source, target = named("cat", "dog"), named("cow", "horse", "cat")
    save(source, tmp_path / "source.safetensors")
    report = init_from(target, tmp_path / "source.safetensors")
    ours, theirs = target.decoder.predictor.class_head.weight, source.decoder.predictor.class_head.weight
    assert torch.equal(ours[2], theirs[0]) and torch.equal(ours[-1], theirs[-1])
    assert not torch.equal(ours[0], theirs[0])
    # weight and bias of the final head, of three layers' and of the semantic one
    assert report.adapted == dict.fromkeys(report.adapted, "1 classes by name") and len(report.adapted) == 10
