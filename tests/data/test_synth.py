"""Generated data sets are sound, seeded and of any size."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from maskconver.cli.main import main
from maskconver.data import check_dataset, open_dataset, synthesize
from maskconver.data.synth.write import STYLES, synth_categories, write_dataset
from maskconver.errors import ConfigError, DataError


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("style", STYLES)
def test_table_and_map_agree(style) -> None:
    for seed in range(4):
        sample = synthesize(style, (96, 130), seed)
        assert sample.image.shape == (96, 130, 3) and sample.image.dtype == np.uint8
        assert sample.ids.shape == (96, 130) and sample.ids.dtype == np.int32
        table = sample.segments
        numbers, areas = np.unique(sample.ids[sample.ids > 0], return_counts=True)
        order = np.argsort(table.ids)
        np.testing.assert_array_equal(table.ids[order], numbers)
        np.testing.assert_array_equal(table.areas[order], areas)
        categories = synth_categories(style)
        is_thing = categories.is_thing[table.labels]
        assert not table.crowd[~is_thing].any()
        stuff = table.labels[~is_thing]
        assert len(set(stuff.tolist())) == len(stuff)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5), (17, 200)])
def test_any_size_is_possible(style, size) -> None:
    sample = synthesize(style, size, 3)
    assert sample.image.shape == (*size, 3) and sample.ids.shape == size


@pytest.mark.parametrize("style", STYLES)
def test_seed_decides_everything(style) -> None:
    first, again, other = (synthesize(style, (64, 64), seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert (first.image != other.image).any()


def test_cells_are_grey_touch_and_differ_in_size() -> None:
    areas, touching = [], 0
    for seed in range(8):
        sample = synthesize("cells", (256, 256), seed)
        assert (sample.image == sample.image[..., :1]).all()
        assert (sample.ids > 0).all()
        nuclei = sample.ids * (sample.ids > 1)
        pairs = (nuclei[:, 1:] > 0) & (nuclei[:, :-1] > 0) & (nuclei[:, 1:] != nuclei[:, :-1])
        touching += int(pairs.any())
        areas += sample.segments.areas[1:].tolist()
        inside = sample.image[nuclei > 0].mean()
        assert inside > sample.image[nuclei == 0].mean() + 10
    assert touching >= 4
    assert min(areas) < 60 and max(areas) > 900


def test_houses_have_windows_in_walls_and_the_classes_of_the_bundled_model() -> None:
    pytest.importorskip("torch")
    from maskconver import load

    categories = synth_categories("houses")
    assert [(c.id, c.name, c.is_thing) for c in categories] == [
        (c.id, c.name, c.is_thing) for c in load("facade").categories
    ]
    for seed in range(4):
        sample = synthesize("houses", (96, 128), seed)
        names = [categories[label].name for label in sample.segments.labels]
        assert names.count("window") >= 6 and {"facade", "street", "vegetation", "other"} <= set(names)
        assert (sample.ids > 0).all()


def test_scenes_have_void_crowd_occlusion_and_stuff_in_islands() -> None:
    categories = synth_categories("scenes")
    void = crowd = 0
    labels: set[int] = set()
    for seed in range(20):
        sample = synthesize("scenes", (96, 128), seed)
        void += int((sample.ids == 0).any())
        crowd += int(sample.segments.crowd.any())
        labels |= set(sample.segments.labels.tolist())
    assert void >= 5 and crowd >= 3
    assert labels == set(range(len(categories)))


@pytest.mark.parametrize("style", STYLES)
def test_written_set_has_no_defect_and_reads_back(tmp_path: Path, style) -> None:
    write_dataset(tmp_path, style, 3, size=(40, 56), seed=2)
    write_dataset(tmp_path, style, 2, size=(40, 56), seed=2, split="val")
    assert not check_dataset(tmp_path).defects
    data = open_dataset(tmp_path, "train")
    assert len(data) == 3 and data.categories == synth_categories(style)
    assert data[0].info["image_type"] == style
    assert (data[0].image != open_dataset(tmp_path, "val")[0].image).any()


@pytest.mark.parametrize("style", STYLES)
def test_same_seed_writes_the_same_bytes_whatever_count_and_workers(tmp_path: Path, style) -> None:
    for name, count, workers in (("a", 3, 1), ("b", 3, 2), ("c", 2, 1)):
        write_dataset(tmp_path / name, style, count, size=(32, 48), seed=7, workers=workers)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    fewer, more = digest(tmp_path / "c"), digest(tmp_path / "a")
    assert all(more[name] == value for name, value in fewer.items() if name.endswith(".png"))


def test_split_that_is_there_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    write_dataset(tmp_path, "cells", 1, size=(16, 16), seed=1)
    before = digest(tmp_path)
    with pytest.raises(DataError, match="`overwrite`"):
        write_dataset(tmp_path, "cells", 1, size=(16, 16), seed=2)
    assert digest(tmp_path) == before
    write_dataset(tmp_path, "cells", 1, size=(16, 16), seed=2, overwrite=True)
    assert digest(tmp_path) != before


def test_impossible_wishes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scenes, cells, houses"):
        synthesize("dogs", (8, 8))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0×8"):
        synthesize("cells", (0, 8))
    with pytest.raises(ConfigError, match="1 or more"):
        write_dataset(tmp_path, "cells", 0, size=(8, 8))
    with pytest.raises(ConfigError, match="name of a split"):
        write_dataset(tmp_path, "cells", 1, size=(8, 8), split="../up")


def test_command_writes_and_says_where(tmp_path: Path, capsys) -> None:
    arguments = [
        "data",
        "synth",
        str(tmp_path / "x"),
        "--style",
        "cells",
        "--count",
        "2",
        "--size",
        "24",
        "30",
    ]
    assert main([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 2 and Path(figures["panoptic_json"]).is_file()
    assert open_dataset(tmp_path / "x", "train")[0].image.shape == (24, 30, 3)
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
