"""Panoptic data read as semantic segmentation."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from maskconver.core.categories import Categories
from maskconver.data import open_dataset
from maskconver.data.semantic import SemanticView, as_model_sees
from maskconver.errors import DataError

from .conftest import Spoil, base_ids


def second_car(content: dict) -> None:
    """The person (id 5) becomes a crowd of cars."""
    content["annotations"][0]["segments_info"][1].update(category_id=1, iscrowd=1)


def test_a_class_is_one_stuff_segment_whatever_its_instances(spoiled: Spoil) -> None:
    data = open_dataset(spoiled(second_car))
    view = SemanticView(data)
    assert len(view) == 1 and view.categories.ids.tolist() == [1, 7, 40]
    assert not view.categories.is_thing.any()
    sample, ids = view[0], base_ids()
    expected = np.select([ids == 300, ids == 5, ids == 70000], [3, 1, 2], 0)
    np.testing.assert_array_equal(sample.ids, expected)
    np.testing.assert_array_equal(view.ids(0), expected)
    assert sample.segments.labels.tolist() == view.segments(0).labels.tolist() == [0, 1, 2]
    assert sample.segments.ids.tolist() == [1, 2, 3] and not sample.segments.crowd.any()
    assert sample.info["weather"] == "rain" and view.segment_counts.tolist() == [3]


def test_of_things_alone_stuff_is_background_and_void_stays_void(spoiled: Spoil) -> None:
    view = SemanticView(open_dataset(spoiled()), "things")
    assert view.categories.names == ("background", "car", "person")
    ids = base_ids()
    expected = np.select([ids == 300, ids == 5, ids == 70000], [1, 2, 3], 0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(view)).ids(0), expected)


def test_data_without_things_have_no_things_to_segment(spoiled: Spoil) -> None:
    view = SemanticView(open_dataset(spoiled()))
    with pytest.raises(DataError, match="no things"):
        SemanticView(view, "things")


def test_a_semantic_model_sees_panoptic_data_as_it_was_trained(spoiled: Spoil) -> None:
    data = open_dataset(spoiled())
    for classes in ("all", "things"):
        model = SemanticView(data, classes).categories  # type: ignore[arg-type]
        assert as_model_sees(data, model).categories == model
        turned = Categories([*reversed([*model])])  # the model was trained on data with another order
        view = as_model_sees(data, turned)
        before = [view.categories[label].id for label in view.segments(0).labels]
        view.use_categories(turned)
        assert {view.categories[label].id for label in view.segments(0).labels} == {*before}
    assert as_model_sees(data, data.categories) is data
    assert as_model_sees(data, Categories.coco()) is data


def test_training_and_evaluation_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from maskconver.cli.main import main
    from maskconver.data.synth.write import write_dataset

    for split in ("train", "val"):
        write_dataset(tmp_path / "d", "scenes", 2, size=(64, 64), split=split)
    run = [
        "train", f"--data={tmp_path / 'd'}", f"--out={tmp_path / 'r'}", "--data.semantic=things",
        "--model.name=maskconver_mobile_dense_512", "--model.input.size=[64,64]", "--model.filters=16",
        "--model.embedding_dim=16", "--data.batch_size=1", "--data.workers=0", "--steps=1", "--val_every=1",
        "--schedule.warmup=0", "--threads=1", "--device=cpu", "--log_images=0",
    ]  # fmt: skip
    assert main(run) == 0
    assert "0 things" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "r"), f"--data={tmp_path / 'd'}", "--split=val"]) == 0
    assert "mIoU" in capsys.readouterr().out.splitlines()[0]
