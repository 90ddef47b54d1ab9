"""The training stream, its weights, validation order and batches."""

# ruff: noqa: E402  (the imports need torch)
from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from maskconver.core.config import InputConfig
from maskconver.core.segments import SegmentTable
from maskconver.data.dataset import DataWarning, Sample
from maskconver.data.open import open_dataset
from maskconver.data.synth.write import write_dataset
from maskconver.errors import ConfigError, DataError
from maskconver.models.batch import Batch
from maskconver.training.augment.copy_paste import CopyPasteConfig
from maskconver.training.augment.example import AugmentConfig
from maskconver.training.loader import DataConfig, First, PositionSampler, SegmentationData, collate
from maskconver.training.partners import Partners
from maskconver.training.targets import TargetConfig

INPUT = InputConfig(size=(32, 48))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six generated images to train on and three to validate on; one in three is of kind `b`."""
    out = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 6), ("val", 3)):
        path = write_dataset(out, "scenes", count, size=(32, 48), split=split)
        content = json.loads(path.read_text())
        for number, image in enumerate(content["images"]):
            image["kind"] = "b" if number % 3 == 2 else "a"
        path.write_text(json.dumps(content))
    return out


def data(folder: Path, samples: int = 24, seed: int = 0, **changes: object) -> SegmentationData:
    overfit = changes.pop("overfit", None)
    fields = {"data": str(folder), "batch_size": 2, "workers": 0, "augment": AugmentConfig(scale=(0.5, 2.0))}
    config = DataConfig(**{**fields, **changes})  # type: ignore[arg-type]
    return SegmentationData(config, INPUT, samples, seed=seed, overfit=overfit)  # type: ignore[arg-type]


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.image_ids == b.image_ids
    for name in ("images", "valid", "regions", "batch", "labels", "region", "boxes", "centers", "keep"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


class TestPositions:
    def test_every_image_comes_once_an_epoch_in_another_order(self) -> None:
        stream = list(PositionSampler(10, 30, seed=0))
        assert [p for p, _ in stream] == list(range(30))
        epochs = [tuple(i for _, i in stream[k : k + 10]) for k in (0, 10, 20)]
        assert all(sorted(e) == list(range(10)) for e in epochs) and len(set(epochs)) == 3

    def test_the_stream_depends_on_the_seed_alone(self) -> None:
        assert list(PositionSampler(10, 30, 5)) == list(PositionSampler(10, 30, 5))
        assert list(PositionSampler(10, 30, 5)) != list(PositionSampler(10, 30, 6))

    @pytest.mark.parametrize("start", [0, 1, 7, 10, 23])
    @pytest.mark.parametrize("weights", [None, np.array([0.5, 0.1, 0.1, 0.3])])
    def test_resumed_it_goes_on_as_if_unbroken(self, start: int, weights: np.ndarray | None) -> None:
        unbroken = list(PositionSampler(4, 30, 1, weights=weights))
        resumed = PositionSampler(4, 30, 1, weights=weights)
        resumed.start = start
        assert list(resumed) == unbroken[start:]

    def test_processes_share_the_positions_among_them(self) -> None:
        whole = list(PositionSampler(7, 24, 0))
        parts = [list(PositionSampler(7, 24, 0, rank=r, world=3)) for r in range(3)]
        assert [item for items in zip(*parts) for item in items] == whole
        assert all(len(part) == len(PositionSampler(7, 24, 0, rank=0, world=3)) == 8 for part in parts)

    def test_a_stream_may_be_longer_than_the_data(self) -> None:
        assert [i for _, i in PositionSampler(1, 5, 0)] == [0] * 5

    def test_weights_draw_images_as_often_as_they_say(self) -> None:
        drawn = [i for _, i in PositionSampler(3, 6000, 0, weights=np.array([0.6, 0.3, 0.1]))]
        np.testing.assert_allclose(np.bincount(drawn) / 6000, [0.6, 0.3, 0.1], atol=0.03)


class TestStream:
    def test_batches_do_not_depend_on_the_number_of_workers(self, folder: Path) -> None:
        alone, helped = data(folder, 8).train_dataloader(), data(folder, 8, workers=2).train_dataloader()
        for a, b in itertools.zip_longest(alone, helped):
            assert_equal(a, b)

    def test_resumed_it_equals_the_unbroken_stream(self, folder: Path) -> None:
        unbroken = list(data(folder, 12).train_dataloader())
        module = data(folder, 12)
        module.start = 4
        for a, b in itertools.zip_longest(unbroken[2:], module.train_dataloader()):
            assert_equal(a, b)

    def test_another_seed_gives_other_images(self, folder: Path) -> None:
        a, b = (next(iter(data(folder, 8, seed).train_dataloader())) for seed in (0, 1))
        assert not torch.equal(a.images, b.images)

    def test_an_image_varies_from_epoch_to_epoch(self, folder: Path) -> None:
        batches = list(data(folder, 12).train_dataloader())
        seen: dict[object, list[torch.Tensor]] = {}
        for batch in batches:
            for image_id, image in zip(batch.image_ids, batch.images):
                seen.setdefault(image_id, []).append(image)
        assert all(len(v) == 2 and not torch.equal(*v) for v in seen.values())

    def test_the_steps_do_not_depend_on_torch_s_random_state(self, folder: Path) -> None:
        torch.manual_seed(1)
        a = next(iter(data(folder).train_dataloader()))
        torch.manual_seed(2)
        assert_equal(a, next(iter(data(folder).train_dataloader())))


class TestBalance:
    def test_rare_kinds_are_drawn_more_often(self, folder: Path) -> None:
        kinds = ["a", "a", "b", "a", "a", "b"]
        for power, share in ((0.0, 1 / 3), (1.0, 1 / 2)):
            weights = data(folder, balance="kind", balance_power=power)._weights()
            assert weights is not None
            assert weights.sum() == pytest.approx(1)
            assert sum(w for w, k in zip(weights, kinds) if k == "b") == pytest.approx(share)

    def test_images_of_rare_classes_are_drawn_more_often(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = data(folder, balance="classes", balance_power=1.0)
        held = [[0], [0], [0, 1], [0], [0], []]  # class 1 in one image of five
        module.categories = [None, None]  # type: ignore[assignment]
        monkeypatch.setattr(
            module.train, "segments", lambda i: SimpleNamespace(labels=np.array(held[i], np.int64))
        )
        weights = module._weights()
        assert weights is not None
        np.testing.assert_allclose(weights * 5 / weights[0], [5, 5, 25, 5, 5, 25 / 6])

    def test_large_images_are_drawn_more_often(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = data(folder, balance_area=0.5)
        areas = [100, 100, 400, 100, 100, 0]
        monkeypatch.setattr(module.train, "segments", lambda i: SimpleNamespace(areas=np.array([areas[i]])))
        weights = module._weights()
        assert weights is not None
        np.testing.assert_allclose(weights / weights[0], [1, 1, 2, 1, 1, 0.1])

    def test_without_a_key_every_image_comes_once_an_epoch(self, folder: Path) -> None:
        assert data(folder)._weights() is None

    def test_a_key_that_no_image_has_is_refused(self, folder: Path) -> None:
        with pytest.raises(DataError, match="weather"):
            data(folder, balance="weather").train_dataloader()


class TestPastedClasses:
    @pytest.fixture
    def module(self, folder: Path) -> SegmentationData:
        return data(folder)

    def test_only_segments_of_the_classes_come_from_images_that_have_them(
        self, module: SegmentationData
    ) -> None:
        tables = [module.train.segments(i) for i in range(len(module.train))]
        held = Counter(int(label) for table in tables for label in np.unique(table.labels[~table.crowd]))
        rare = min(held, key=lambda label: held[label])
        partners = Partners(module.train, module.categories, [module.categories[rare].name])
        rng = np.random.default_rng(0)
        for _ in range(20):
            sample = partners.draw(rng)
            assert set(sample.segments.labels.tolist()) == {rare}

    def test_each_class_is_drawn_equally_often(self, module: SegmentationData) -> None:
        class Two:
            def __len__(self) -> int:
                return 10

            def segments(self, index: int) -> SegmentTable:
                labels = np.array([1 if index == 0 else 0])
                return SegmentTable(np.array([1], np.int32), labels, np.zeros(1, bool), np.ones(1, np.int64))

            def __getitem__(self, index: int) -> Sample:
                ids = np.ones((2, 2), np.int32)
                return Sample(np.zeros((2, 2, 3), np.uint8), ids, self.segments(index), index, "", {})

        names = [c.name for c in module.categories[:2]]
        partners, rng = Partners(Two(), module.categories, names), np.random.default_rng(0)
        assert np.mean([partners.draw(rng).image_id == 0 for _ in range(2000)]) == pytest.approx(
            0.5, abs=0.04
        )

    def test_without_classes_any_image_is_drawn_whole(self, module: SegmentationData) -> None:
        partners, rng = Partners(module.train, module.categories, None), np.random.default_rng(0)
        drawn = [partners.draw(rng) for _ in range(40)]
        assert {sample.image_id for sample in drawn} == set(module.train.image_ids)  # type: ignore[union-attr]
        whole = {image_id: len(module.train[i].segments) for i, image_id in enumerate(module.train.image_ids)}  # type: ignore[union-attr]
        assert all(len(sample.segments) == whole[sample.image_id] for sample in drawn)

    def test_unknown_classes_and_classes_without_an_image_are_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = CopyPasteConfig(probability=1.0, classes=("discc",))
        module = data(folder, augment=AugmentConfig(copy_paste=wanted))
        with pytest.raises(ConfigError, match='no class is called "discc"'):
            module.train_dataloader()
        with pytest.raises(ConfigError, match="an empty list pastes nothing"):
            Partners(module.train, module.categories, [])
        none = SegmentTable(np.zeros(0, np.int32), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, np.int64))
        monkeypatch.setattr(module.train, "segments", lambda i: none)
        name = module.categories[0].name
        with pytest.raises(ConfigError, match=f'no training image has the class "{name}"'):
            Partners(module.train, module.categories, [name])

    def test_pasted_objects_are_in_the_batches(self, folder: Path) -> None:
        name = next(c.name for c in data(folder).categories if c.is_thing)
        paste = CopyPasteConfig(1.0, 1.0, scale=(1.0, 1.0), pasted_scale=(1.0, 1.0), classes=(name,))
        plain, pasted = (
            next(iter(data(folder, 12, augment=augment, batch_size=12).train_dataloader()))
            for augment in (AugmentConfig(), AugmentConfig(copy_paste=paste))
        )
        label = data(folder).categories.names.index(name)
        assert (pasted.labels == label).sum() > (plain.labels == label).sum()


class TestFirst:
    def test_overfit_trains_and_validates_on_the_first_training_images_unvaried(self, folder: Path) -> None:
        module = data(folder, 4, overfit=2)
        assert len(module.train) == len(module.val) == 2
        assert module.config.augment == AugmentConfig.none()
        items = list(module.val_dataloader())
        batch = next(iter(module.train_dataloader()))
        for image_id, image in zip(batch.image_ids, batch.images):
            canvas = next(i.canvas for i in items if i.sample.image_id == image_id)
            np.testing.assert_allclose(image, canvas, atol=1e-5)

    def test_validation_may_be_limited_to_the_first_images(self, folder: Path) -> None:
        module, whole = data(folder, val_images=2), data(folder)
        assert [i.sample.image_id for i in module.val_dataloader()] == [
            i.sample.image_id for i in whole.val_dataloader()
        ][:2]
        assert len(whole.val) == 3

    def test_it_is_a_sequence_of_at_most_what_there_is(self, folder: Path) -> None:
        train = data(folder).train
        first = First(train, 4)  # type: ignore[arg-type]
        assert len(first) == 4 and len(First(train, 99)) == 6  # type: ignore[arg-type]
        assert [s.image_id for s in first[1:3]] == [train[1].image_id, train[2].image_id]
        assert len(list(first)) == 4


class TestCollate:
    def test_ragged_targets_become_flat_columns_with_an_ascending_image_index(self, folder: Path) -> None:
        module = data(folder, augment=AugmentConfig.none(), targets=TargetConfig(max_segments=2))
        dataset = module.train_dataloader().dataset
        examples = [dataset[k, k] for k in range(4)]
        batch = collate(examples)
        assert (
            len(batch) == 4 and batch.images.shape == (4, 3, 32, 48) and batch.images.dtype == torch.float32
        )
        assert batch.valid.dtype == torch.bool and batch.regions.dtype == torch.int32
        counts = [len(e.targets.labels) for e in examples]
        assert batch.batch.tolist() == [i for i, n in enumerate(counts) for _ in range(n)]
        for number, one in enumerate(examples):
            rows = batch.batch == number
            np.testing.assert_array_equal(batch.boxes[rows], one.targets.boxes)
            np.testing.assert_array_equal(batch.labels[rows], one.targets.labels)
        assert int(batch.dropped) == sum(max(n - 2, 0) for n in counts) > 0
        assert batch.image_ids == tuple(e.image_id for e in examples)

    def test_a_batch_moves_as_a_whole(self, folder: Path) -> None:
        batch = next(iter(data(folder).train_dataloader()))
        moved = batch.to("meta")
        assert moved.images.device.type == moved.keep.device.type == "meta"
        assert moved.image_ids == batch.image_ids


def test_validation_lists_segments_without_pixels_which_count_as_missed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "d")
    path = tmp_path / "d" / "panoptic_val.json"
    content = json.loads(path.read_text())
    rows = content["annotations"][0]["segments_info"]
    rows.append({**rows[0], "id": 999})
    path.write_text(json.dumps(content))
    item = next(iter(data(tmp_path / "d").val_dataloader()))
    assert 999 in item.sample.segments.ids and not (item.sample.ids == 999).any()
    with pytest.warns(DataWarning, match="without a pixel"):
        assert 999 not in open_dataset(tmp_path / "d", "val")[0].segments.ids


@pytest.mark.parametrize("semantic", ["off", "all"])
def test_colours_and_order_of_categories_do_not_matter(folder: Path, tmp_path: Path, semantic: str) -> None:
    shutil.copytree(folder, tmp_path / "d")
    path = tmp_path / "d" / "panoptic_val.json"
    content = json.loads(path.read_text())
    content["categories"].reverse()
    for row in content["categories"]:
        del row["color"]
    path.write_text(json.dumps(content))
    ours, theirs = data(tmp_path / "d", semantic=semantic).val, data(folder, semantic=semantic).val
    assert ours.categories == theirs.categories  # type: ignore[union-attr]
    for i in range(len(theirs)):
        mine, other = ours[i].segments, theirs[i].segments
        assert mine.labels.tolist() == other.labels.tolist() and mine.ids.tolist() == other.ids.tolist()
    content["categories"][0]["name"] = "something else"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r'category \d+ is ".*" in train and "something else" in val'):
        data(tmp_path / "d")


def test_the_diameter_is_that_of_the_training_things(folder: Path) -> None:
    own = data(folder)
    tables = [own.train.segments(i) for i in range(len(own.train))]
    rows = [row for t in tables for row in zip(t.areas, t.labels, t.crowd)]
    areas = [area for area, label, crowd in rows if own.categories.is_thing[label] and area and not crowd]
    assert own.diameter() == pytest.approx(2 * (np.median(areas) / np.pi) ** 0.5, abs=0.01)
    assert data(folder, overfit=1).diameter() != own.diameter()


def test_no_data_set_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match=r"`data\.train\.images`"):
        SegmentationData(DataConfig(), INPUT, 8)


def test_splits_of_different_categories_are_refused(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, "scenes", 1, size=(16, 16), split="train")
    write_dataset(tmp_path, "cells", 1, size=(16, 16), split="val")
    with pytest.raises(DataError, match="categories of train and val differ"):
        data(tmp_path)
