"""What the augmentation of every shipped recipe does to an example, measured on examples."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
import yaml

pytest.importorskip("torch")

from maskconver.core.config import InputConfig
from maskconver.core.segments import SegmentTable
from maskconver.data.dataset import Sample
from maskconver.recipes import FOLDER
from maskconver.training.augment.copy_paste import CopyPasteConfig, choose_segments
from maskconver.training.augment.example import AugmentConfig, Example, train_example
from maskconver.training.targets import TargetConfig

SIDE = 120
# Names as recipes begin: the range of scales that an image takes, from the paper or the public configuration.
SCALES = {
    "kmax_coco": (0.3, 1.7),
    "remax_coco": (0.3, 1.7),
    "remax_ade20k": (0.3, 1.7),
    "kmax_ade20k": (0.5, 2.0),
    "kmax_cityscapes": (0.5, 2.0),
    "remax_cityscapes": (0.5, 2.0),
    "maskconver_mobile": (0.1, 1.9),
    "maskconver_spinenet49_640_coco": (0.5, 1.5),
    "maskconver_spinenet49plus_640_coco": (0.5, 1.5),
    "maskconver_spinenet49_640_paper": (0.1, 1.9),
    "maskconver_spinenet49plus_640_paper": (0.1, 1.9),
    "maskconver_r50_640": (0.05, 2.9),
    "maskconver_r50_1280_coco_things": (0.5, 2.0),
    "maskconver_r50_1280": (0.05, 2.9),
    "maskconver_r50_fpn": (0.01, 3.61),  # two jitters of 0.1 to 1.9, as its public configuration has them
    "maskconver_seg_mobile_cityscapes": (0.1, 1.9),
    "maskconver_seg": (0.5, 2.0),
}
RECIPES = [p.stem for p in sorted(FOLDER.glob("*.yaml"))]
OWN = ("remax_nuclei", "remax_small")  # recipes of this package
PUBLISHED = [r for r in RECIPES if r.startswith(("kmax", "remax_", "maskconver")) and r not in OWN]
DEEPLAB2 = [name for name in PUBLISHED if name.startswith(("kmax", "remax"))]
PLAIN = InputConfig(size=(SIDE, SIDE), mean=(0.25, 0.5, 0.75), std=(1.0, 1.0, 1.0))
IS_THING = np.array([True, False])


def augment_of(recipe: str) -> AugmentConfig:
    content = yaml.safe_load((FOLDER / f"{recipe}.yaml").read_text(encoding="utf-8"))
    made = msgspec.convert(content["data"].get("augment", {}), AugmentConfig)
    return dataclasses.replace(made, crop=None)


def ramp() -> Sample:
    """One thing that is all of the image, whose red rises by one level a pixel and whose green by row."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(SIDE), np.arange(SIDE)[:, None]
    rows = SegmentTable(np.array([1], np.int32), np.array([0]), np.zeros(1, bool), np.zeros(1, np.int64))
    return Sample(image, np.ones((SIDE, SIDE), np.int32), rows)


def void() -> Sample:
    """An image of which nothing can be pasted."""
    none = SegmentTable(
        np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.int64)
    )
    return dataclasses.replace(ramp(), ids=np.zeros((SIDE, SIDE), np.int32), segments=none)


def examples(augment: AugmentConfig, count: int, base: Sample, partner: Sample) -> list[Example]:
    pasted = partner if augment.copy_paste.probability else None
    targets = TargetConfig(stuff="global", islands_dilation="none")
    return [
        train_example(
            base,
            PLAIN,
            augment,
            targets=targets,
            is_thing=IS_THING,
            rng=np.random.default_rng(seed),
            partner=pasted,
        )
        for seed in range(count)
    ]


def scale_of(example: Example) -> float | None:
    """How much larger the ramp was drawn, from its slope; None where too little of it is left."""
    ys, xs = np.nonzero(example.targets.regions > 0)
    if not len(xs) or np.ptp(xs) < 5 or np.ptp(ys) < 1:
        return None
    red = example.image[0] * 255
    y = int(np.median(ys))
    row = xs[ys == y]
    inner = row[2:-2]
    if len(inner) < 2:
        return None
    return float((inner[-1] - inner[0]) / max(abs(red[y, inner[-1]] - red[y, inner[0]]), 1e-6))


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_an_image_is_scaled_as_the_recipe_s_source_says(recipe: str) -> None:
    augment = dataclasses.replace(augment_of(recipe), autoaugment="none")
    low, high = SCALES[max((name for name in SCALES if recipe.startswith(name)), key=len)]
    found = np.array([s for e in examples(augment, 150, ramp(), void()) if (s := scale_of(e)) is not None])
    assert len(found) > 60
    assert found.min() > low * 0.8 - 0.02 and found.max() < high * 1.1
    if "fpn" not in recipe:  # one draw from a uniform range fills it evenly
        seen = found[found > 0.3]
        above = (seen > max((max(low, 0.3) + high) / 2, 0)).mean()
        assert 0.3 < above < 0.7
        assert found.max() > high * 0.9


@pytest.mark.parametrize("recipe", DEEPLAB2)
class TestAsDeepLab2:
    def test_all_things_are_pasted(self, recipe: str) -> None:
        augment = dataclasses.replace(augment_of(recipe), autoaugment="none", flip=0.0)
        paste = dataclasses.replace(augment.copy_paste, scale=(1.0, 1.0), pasted_scale=(1.0, 1.0))
        augment = dataclasses.replace(augment, copy_paste=paste)
        for made in examples(augment, 10, void(), ramp()):
            assert (made.targets.regions > 0).all()

    def test_what_no_image_covers_is_the_mean_colour_and_counts_in_no_loss(self, recipe: str) -> None:
        augment = augment_of(recipe)
        padded = 0
        for made in examples(augment, 40, ramp(), void()):
            assert not made.image[:, ~made.targets.valid].any()
            padded += not made.targets.valid.all()
        assert padded > 5

    def test_small_images_lie_anywhere(self, recipe: str) -> None:
        augment = dataclasses.replace(augment_of(recipe), autoaugment="none")
        corners = []
        for made in examples(augment, 60, ramp(), void()):
            ys, xs = np.nonzero(made.targets.regions > 0)
            if len(xs) and np.ptp(xs) < SIDE - 12:
                corners.append((ys.min(), xs.min()))
        assert len(corners) > 5
        assert np.array(corners).max(0).min() > 10

    def test_colours_are_varied_before_padding(self, recipe: str) -> None:
        """Equalize and Contrast would see the padding otherwise: a grey image of one value stays as it is."""
        augment = augment_of(recipe)
        flat = dataclasses.replace(ramp(), image=np.full((SIDE, SIDE, 3), 100, np.uint8))
        policy = [[("contrast", 1.0, 9.0), ("equalize", 1.0, 5.0)]]
        augment = dataclasses.replace(augment, autoaugment=policy)  # type: ignore[arg-type]
        for made in examples(augment, 10, flat, void()):
            inside = made.targets.regions > 0
            grey = (made.image[0][inside] + PLAIN.mean[0]) * 255
            np.testing.assert_allclose(grey, 100, atol=1.01)


def test_the_number_of_pasted_stuff_classes_is_drawn_before_which() -> None:
    config = CopyPasteConfig(1.0, things="all", stuff="number")
    count = 7
    rows = SegmentTable(
        np.arange(1, count + 1, dtype=np.int32),
        np.arange(count),
        np.zeros(count, bool),
        np.zeros(count, np.int64),
    )
    rng = np.random.default_rng(0)
    chosen = np.array([choose_segments(rows, np.zeros(count, bool), config, rng) for _ in range(4000)])
    numbers = np.bincount(chosen.sum(1), minlength=count + 1) / len(chosen)
    np.testing.assert_allclose(
        numbers, 1 / (count + 1), atol=0.02
    )  # drawn one by one, 3 and 4 would be common
    np.testing.assert_allclose(chosen.mean(0), 0.5, atol=0.03)


def test_an_image_one_pixel_short_of_the_canvas_is_padded_and_not_resized() -> None:
    from maskconver.core.preprocess import fitted_size

    assert fitted_size((1024, 2048), (1025, 2049)) == (1024, 2048)
    assert fitted_size((640, 480), (641, 641)) == (641, 481)
    assert fitted_size((512, 1024), (1025, 2049)) == (1024, 2049)
