"""Copy-paste and AutoAugment as part of making a training example."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from maskconver.core.config import InputConfig
from maskconver.core.segments import SegmentTable
from maskconver.data.dataset import Sample
from maskconver.data.synth.write import write_dataset
from maskconver.errors import ConfigError
from maskconver.training.augment.autoaugment import PANOPTIC, auto_augment
from maskconver.training.augment.copy_paste import CopyPasteConfig, choose_segments, copy_paste, paste
from maskconver.training.augment.example import AugmentConfig, train_example
from maskconver.training.loader import DataConfig, SegmentationData
from maskconver.training.targets import TargetConfig

IS_THING = np.array([True, True, False, False])
CANVAS = (24, 32)
# labels 0 and 1 are things, 2 and 3 stuff; the second thing is crowd; 0 is void
ROWS = SegmentTable(
    np.array([5, 6, 7, 8, 9], np.int32),
    np.array([0, 1, 1, 2, 3]),
    np.array([False, True, False, False, False]),
    np.zeros(5, np.int64),
)
ALWAYS = CopyPasteConfig(probability=1.0, frequency=1.0, scale=(1.0, 1.0), pasted_scale=(1.0, 1.0))
NEVER = dataclasses.replace(ALWAYS, frequency=0.0)


def sample(seed: int = 0, size: tuple[int, int] = CANVAS) -> Sample:
    """Void in the first column, then a column band for each segment; every pixel says its id and seed."""
    ids = np.zeros(size, np.int32)
    for k, i in enumerate(ROWS.ids):
        ids[:, 1 + 6 * k : 7 + 6 * k] = i
    image = np.stack([ids * 10, np.full_like(ids, seed), np.zeros_like(ids)], -1).astype(np.uint8)
    return Sample(image, ids, ROWS, image_id=seed)


def made(config: CopyPasteConfig, seed: int = 0, **sizes: tuple[int, int]) -> Sample:
    base = sample(1, sizes.get("base", CANVAS))
    pasted = sample(2, sizes.get("pasted", CANVAS))
    return copy_paste(
        base, pasted, CANVAS, is_thing=IS_THING, config=config, flip=0.0, rng=np.random.default_rng(seed)
    )


class TestCopyPaste:
    def test_pasted_images_are_cropped_and_not_magnified(self) -> None:
        augment = AugmentConfig(crop=(12, 16), flip=0.0, copy_paste=NEVER)
        found = train_example(
            sample(1), InputConfig(size=CANVAS), augment, targets=TargetConfig(), is_thing=IS_THING,
            rng=np.random.default_rng(0), partner=sample(2)
        )  # fmt: skip
        changes = np.flatnonzero(np.diff(found.image[0, 5]))
        assert found.image.shape[1:] == (12, 16)
        assert len(changes) >= 2 and set(np.diff(changes)) == {6}  # bands as wide as they were

    @pytest.mark.parametrize(("crop", "scale"), [((12, 16), 1.0), (None, 1.0), ((12, 16), 0.5)])
    def test_images_of_native_input_are_pasted_at_their_own_size(
        self, crop: tuple[int, int] | None, scale: float
    ) -> None:
        augment = AugmentConfig(crop=crop, flip=0.0, copy_paste=NEVER)
        form = InputConfig(mode="native", size=(16, 20), scale=scale)
        found = train_example(
            sample(1), form, augment, targets=TargetConfig(), is_thing=IS_THING,
            rng=np.random.default_rng(0), partner=sample(2)
        )  # fmt: skip
        changes = np.flatnonzero(np.diff(found.targets.regions[5]))
        assert found.image.shape[1:] == (crop or (16, 20))
        assert len(changes) >= 2 and set(np.diff(changes)) == {6 * scale}

    def test_all_segments_but_crowd_and_void_are_pasted(self) -> None:
        result = made(ALWAYS)
        from_second = result.image[..., 1] == 2
        original = sample().ids
        np.testing.assert_array_equal(from_second, (original > 0) & (original != 6))
        shift = int(ROWS.ids.max()) + 1
        np.testing.assert_array_equal(result.ids, np.where(from_second, original + shift, original))
        assert len(np.unique(result.segments.ids)) == 10
        assert result.segments.labels.tolist() == ROWS.labels.tolist() * 2
        assert result.image_id == 1

    def test_a_pasted_segment_never_gets_the_id_of_one_that_is_cut_off(self) -> None:
        base = sample(1)
        base.ids = np.where(base.ids == 5, 5, 0).astype(np.int32)  # 11 to 14 are in the table alone
        base.segments = dataclasses.replace(ROWS, ids=np.array([5, 11, 12, 13, 14], np.int32))
        pasted = sample(2)
        result = paste(base, pasted, pasted.ids == 5)
        assert len(np.unique(result.segments.ids)) == len(result.segments) == 10
        new = result.ids[pasted.ids == 5]
        assert result.segments.labels[result.segments.ids == new[0]].tolist() == [0]

    def test_nothing_is_pasted_at_frequency_zero(self) -> None:
        result = made(NEVER)
        np.testing.assert_array_equal(result.ids, sample().ids)
        assert (result.image[..., 1] == 1).all() and result.image.dtype == np.uint8

    def test_each_object_and_each_stuff_class_is_drawn_on_its_own(self) -> None:
        twice = SegmentTable(
            np.array([1, 2, 3, 4], np.int32), np.array([0, 0, 2, 2]), np.zeros(4, bool), np.zeros(4, np.int64)
        )
        rng = np.random.default_rng(0)
        drawn = np.array(
            [choose_segments(twice, IS_THING, CopyPasteConfig(1.0, 0.3), rng) for _ in range(2000)]
        )
        np.testing.assert_allclose(drawn.mean(0), 0.3, atol=0.04)
        assert (drawn[:, 0] != drawn[:, 1]).any() and (drawn[:, 2] == drawn[:, 3]).all()

    def test_crowd_is_never_drawn(self) -> None:
        assert choose_segments(
            ROWS, IS_THING, CopyPasteConfig(1.0, 1.0), np.random.default_rng(0)
        ).tolist() == [1, 0, 1, 1, 1]

    def test_stuff_may_lose_pixels_and_things_may_not(self) -> None:
        result = made(dataclasses.replace(ALWAYS, stuff_drop=0.5))
        from_second, original = result.image[..., 1] == 2, sample().ids
        assert from_second[(original == 5) | (original == 7)].all()
        assert 0.3 < from_second[original >= 8].mean() < 0.7

    def test_what_is_left_of_a_covered_object_stays_that_object(self) -> None:
        base, pasted = sample(1), sample(2)
        where = pasted.ids == 7
        where[0, 13] = False  # one pixel of the base's segment 7 stays
        result = paste(base, pasted, where)
        assert (result.ids == 7).sum() == 1 and (result.ids == 7 + 10).sum() == where.sum()

    def test_what_no_image_covers_is_void_or_padding(self) -> None:
        small = dataclasses.replace(NEVER, scale=(0.5, 0.5000001))
        assert (made(small).ids[12:] == 0).all() and (made(small).image[12:] == 0).all()
        padded = made(dataclasses.replace(small, padding="ignore"))
        assert (padded.ids[12:] == -1).all() and (padded.ids[:12, :16] >= 0).all()

    def test_a_small_second_image_lies_top_left_or_anywhere(self) -> None:
        small = dataclasses.replace(ALWAYS, pasted_scale=(0.25, 0.2500001))
        assert (made(small).image[6:, :, 1] == 1).all()
        anywhere = dataclasses.replace(small, place="random")
        tops = {int(np.flatnonzero((made(anywhere, k).image[..., 1] == 2).any(1))[0]) for k in range(30)}
        assert len(tops) > 5

    def test_it_is_part_of_the_example_and_its_padding_counts_as_the_recipe_says(self) -> None:
        for padding, counts in (("void", True), ("ignore", False)):
            config = dataclasses.replace(NEVER, scale=(0.5, 0.5000001), padding=padding)
            example = train_example(
                sample(1), InputConfig(size=CANVAS), AugmentConfig(flip=0.0, copy_paste=config),
                targets=TargetConfig(ignore_void=False), is_thing=IS_THING, rng=np.random.default_rng(0),
                partner=sample(2)
            )  # fmt: skip
            assert example.image.shape == (3, *CANVAS)
            assert example.targets.valid[:12, :16].all()
            assert example.targets.valid[12:].all() == counts

    def test_the_loader_draws_the_second_image(self, tmp_path: Path) -> None:
        write_dataset(tmp_path, "cells", 4, size=CANVAS, split="train")
        write_dataset(tmp_path, "cells", 1, size=CANVAS, split="val")

        def first_image(copy: CopyPasteConfig) -> np.ndarray:
            config = DataConfig(
                data=str(tmp_path), batch_size=1, workers=0, augment=AugmentConfig(flip=0.0, copy_paste=copy)
            )
            dataset = SegmentationData(config, InputConfig(size=CANVAS), 4).train_dataloader().dataset
            return np.stack([dataset[k, 0].image for k in range(4)])

        plain = first_image(CopyPasteConfig())
        pasted = first_image(dataclasses.replace(ALWAYS, frequency=0.5))
        assert all(np.array_equal(plain[0], p) for p in plain)
        assert not np.array_equal(plain, pasted)
        np.testing.assert_array_equal(pasted, first_image(dataclasses.replace(ALWAYS, frequency=0.5)))


class TestAutoAugment:
    def test_sub_policies_come_equally_often_and_operations_with_their_probability(self) -> None:
        image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        rng = np.random.default_rng(0)
        changed = np.mean([auto_augment(image, PANOPTIC, rng) is not image for _ in range(3000)])
        none = np.mean([np.prod([1 - p for _, p, _ in steps]) for steps in PANOPTIC])
        assert changed == pytest.approx(1 - none, abs=0.03)

    def test_no_policy_leaves_image_and_stream_alone(self) -> None:
        rng = np.random.default_rng(0)
        image = np.zeros((4, 4, 3), np.uint8)
        assert auto_augment(image, (), rng) is image
        assert rng.random() == np.random.default_rng(0).random()

    def test_the_example_gets_it_before_it_is_scaled_and_the_targets_never(self) -> None:
        def example(policy: object) -> tuple[np.ndarray, np.ndarray]:
            made = train_example(
                sample(), InputConfig(size=CANVAS, mean=(0,) * 3, std=(1,) * 3),
                AugmentConfig(flip=0.0, autoaugment=policy),  # type: ignore[arg-type]
                targets=TargetConfig(), is_thing=IS_THING, rng=np.random.default_rng(0)
            )  # fmt: skip
            return made.image, made.targets.regions

        (plain, regions), (inverted, same) = example("none"), example([[("invert", 1.0, 0.0)]])
        np.testing.assert_allclose(inverted, 1 - plain, atol=1e-6)
        np.testing.assert_array_equal(regions, same)

    def test_an_unknown_operation_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="cutout"):
            AugmentConfig(autoaugment=[[("cutout", 0.5, 1.0)]])

    def test_a_policy_of_ones_own_can_be_written_in_a_recipe(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import yaml

        from maskconver.cli.main import main

        recipe = tmp_path / "r.yaml"
        own = [[["invert", 1.0, 0], ["posterize", 0.5, 6]], [["equalize", 0.2, 1]]]
        augment = {"autoaugment": own, "copy_paste": {"probability": 1.0, "pasted_scale": [0.1, 1.5]}}
        recipe.write_text(json.dumps({"data": {"augment": augment}}))
        words = ["train", f"--config={recipe}", "--print-config"]
        assert main(words) == 0
        printed = yaml.safe_load(capsys.readouterr().out)["data"]["augment"]
        assert printed["autoaugment"] == own and printed["copy_paste"]["pasted_scale"] == [0.1, 1.5]
        assert (
            main(["train", f"--config={recipe}", "--data.augment.autoaugment=panoptic", "--print-config"])
            == 0
        )
        assert yaml.safe_load(capsys.readouterr().out)["data"]["augment"]["autoaugment"] == "panoptic"
