"""Shipped recipes parse, fit their models, and cover every published model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from maskconver.cli.main import main
from maskconver.core.config import InputConfig
from maskconver.data.synth.write import write_dataset
from maskconver.models import list_models
from maskconver.models.registry import model_config, model_description, override
from maskconver.recipes import FOLDER
from maskconver.training.augment.example import AugmentConfig
from maskconver.training.loader import DataConfig, SegmentationData
from maskconver.training.targets import TargetConfig

RECIPES = sorted(p.stem for p in FOLDER.glob("*.yaml"))
REFERENCE = {"islands_dilation": "reference", "islands_min_area": 1024, "order": "reference"}


def resolved(recipe: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    capsys.readouterr()
    assert main(["train", f"--config={recipe}", "--print-config", *more]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_shipped_recipe_parses_and_fits_its_model(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = resolved(recipe, capsys)
    model = content["model"]
    registered = model_config(model["name"])
    chosen = {k: v for k, v in model.items() if k not in ("name", "backbone_weights")}
    override(registered, chosen)  # refuses fields that the model does not have
    assert set(chosen) == set(vars(registered))
    text = (FOLDER / f"{recipe}.yaml").read_text()
    assert f"--config {recipe} " in text  # says how it is run


@pytest.mark.parametrize("name", [n for n in list_models() if model_description(n)[1]])
def test_every_published_model_has_a_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own, or one that names it among the models that it also trains by `--model.name`."""
    texts = {r: (FOLDER / f"{r}.yaml").read_text() for r in RECIPES}
    if any(yaml.safe_load(text)["model"]["name"] == name for text in texts.values()):
        return
    named = [r for r, text in texts.items() if re.search(rf"--model\.name[^.]*\b{name}\b", text)]
    assert named
    for recipe in named:
        assert resolved(recipe, capsys, f"--model.name={name}")["model"]["name"] == name


@pytest.mark.parametrize(
    ("recipe", "steps", "lr", "batch", "scale"),
    [
        ("maskconver_mobile_256_coco", 500_000, 0.04, 64, [0.1, 1.9]),
        ("maskconver_mobile_640_coco", 500_000, 0.04, 64, [0.1, 1.9]),
        ("maskconver_seg_mobile_coco", 200_000, 0.01, 32, [0.5, 2.0]),
        ("maskconver_seg_mobile_voc", 33_000, 0.007, 32, [0.5, 2.0]),
        ("maskconver_seg_mobile_cityscapes", 100_000, 0.1, 64, [0.1, 1.9]),
        ("maskconver_r50_1280_coco", 270_000, 0.001, 128, [1.0, 1.0]),
        ("maskconver_r50_1280_coco_things", 64_000, 0.0003, 256, [0.5, 2.0]),
        ("maskconver_seg_spinenet49plus_coco", 200_000, 0.01, 32, [0.5, 2.0]),
        ("maskconver_seg_spinenet49plus_voc", 30_000, 0.001, 32, [0.5, 2.0]),
        ("maskconver_r50_fpn_640_coco", 200_000, 0.04, 64, [0.1, 1.9]),
        ("maskconver_spinenet49_640_coco", 200_000, 0.08, 64, [0.5, 1.5]),
    ],
)
def test_published_schedules_are_the_reference_s(
    recipe: str, steps: int, lr: float, batch: int, scale: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    content = resolved(recipe, capsys)
    optim, data = content["optim"], content["data"]
    assert (content["steps"], optim["lr"], optim["base_batch"], data["batch_size"]) == (
        steps,
        lr,
        batch,
        batch,
    )
    assert data["augment"]["scale"] == scale
    if content["loss"]["dice"] == "none":  # semantic: the value to ignore counts in no loss
        assert data["targets"]["ignore_void"] and {**data["targets"], **REFERENCE} == data["targets"]
    else:
        assert not data["targets"]["ignore_void"] and data["targets"]["order"] == "reference"


def test_semantic_pretraining_and_panoptic_training_are_joined_by_init_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train2017", "val2017"):
        write_dataset(tmp_path / "d", "scenes", 2, size=(64, 64), split=split)
    small = [
        "--data.batch_size=2", "--data.workers=0", "--steps=1", "--val_every=1", "--schedule.warmup=0",
        "--model.input.size=[64,64]", "--threads=1", "--device=cpu", "--log_images=0",
        f"--data={tmp_path / 'd'}",
    ]  # fmt: skip
    first, second = f"--out={tmp_path / 'seg'}", f"--out={tmp_path / 'pan'}"
    assert main(["train", "--config=maskconver_seg_mobile_coco", first, *small]) == 0
    capsys.readouterr()
    words = ["train", "--config=maskconver_mobile_256_coco", second, *small]
    assert main([*words, f"--init-from={tmp_path / 'seg'}", "--init-modules=backbone,decoder"]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("init from"))
    assert re.search(r": \d{2,} tensors loaded; .*begin at random \(class_", said)


class TestSwitches:
    """Each choice of targets is one value of the recipe, and changes what it should."""

    @pytest.mark.parametrize(
        "choice",
        [
            "center=mask", "center=image", "stuff=global", "stuff=image", "islands=1",
            "islands_dilation=none", "islands_dilation=reference", "islands_min_area=50",
            "island_mask=island", "max_segments=2", "order=reference", "ignore_void=false", "min_iou=0.3",
            "gaussian=iou",
        ],
    )  # fmt: skip
    def test_targets_are_chosen_on_the_command_line(
        self, choice: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name, value = choice.split("=")
        plain = resolved("start", capsys, "--data.targets.islands=3")["data"]["targets"]
        changed = resolved("start", capsys, "--data.targets.islands=3", f"--data.targets.{choice}")
        differs = {k: v for k, v in changed["data"]["targets"].items() if v != plain[k]}
        assert differs == {name: yaml.safe_load(value)}

    @pytest.mark.parametrize(
        ("choice", "field"),
        [
            ("center=mask", "centers"),
            ("center=image", "centers"),
            ("stuff=global", "centers"),
            ("stuff=image", "centers"),
            ("islands=1", "centers"),
            ("islands_min_area=200", "centers"),
            ("island_mask=island", "regions"),
            ("max_segments=2", "keep"),
            ("ignore_void=false", "valid"),
        ],
    )
    def test_and_change_what_the_loader_gives(self, choice: str, field: str, tmp_path: Path) -> None:
        for split in ("train", "val"):
            write_dataset(tmp_path, "scenes", 4, size=(96, 96), split=split)

        def examples(**chosen: object) -> list:
            targets = TargetConfig(**{"islands_dilation": "none", **chosen})  # type: ignore[arg-type]
            config = DataConfig(str(tmp_path), workers=0, augment=AugmentConfig.none(), targets=targets)
            dataset = SegmentationData(config, InputConfig(size=(96, 96)), 4).train_dataloader().dataset
            return [getattr(dataset[k, k].targets, field) for k in range(4)]

        name, value = choice.split("=")
        pairs = zip(examples(), examples(**{name: yaml.safe_load(value)}))
        assert any(a.shape != b.shape or (a != b).any() for a, b in pairs)


@pytest.mark.parametrize(
    ("recipe", "steps", "decay"),
    [
        ("remax_coco", 50_000, 0.005),
        ("remax_coco_100k", 100_000, 0.005),
        ("remax_coco_150k", 150_000, 0.02),
        ("remax_coco_200k", 200_000, 0.02),
    ],
)
def test_longer_schedules_of_remax_decay_at_the_same_shares(
    recipe: str, steps: int, decay: float, capsys: pytest.CaptureFixture[str]
) -> None:
    content = resolved(recipe, capsys)
    assert content["steps"] == steps and content["schedule"]["milestones"] == [0.85, 0.95]
    assert content["optim"]["weight_decay"] == decay


def values_of(name: str, content: object) -> list[object]:
    """Every value of a field, wherever in a recipe it stands."""
    if not isinstance(content, dict):
        return []
    return [v for k, own in content.items() for v in ([own] if k == name else values_of(name, own))]


def test_remax_on_ade20k_is_trained_as_on_coco(capsys: pytest.CaptureFixture[str]) -> None:
    coco, ade, kmax = (resolved(name, capsys) for name in ("remax_coco", "remax_ade20k", "kmax_ade20k"))
    assert values_of("drop_path", ade) == values_of("drop_path", coco) == [0.2]
    assert values_of("drop_path", kmax) == [0.0]
    assert ade["data"]["augment"]["copy_paste"]["scale"] == coco["data"]["augment"]["copy_paste"]["scale"]


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.endswith("_paper")])
def test_recipes_of_the_paper_follow_its_text(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = resolved(recipe, capsys)
    loss, targets = content["loss"], content["data"]["targets"]
    assert [loss[f"{name}_weight"] for name in ("center", "mask", "dice")] == [1, 5, 5]
    assert content["data"]["augment"]["autoaugment"] == "panoptic"
    if targets["stuff"] == "islands":
        assert (targets["islands"], targets["islands_dilation"], targets["islands_min_area"]) == (3, "2d", 0)
