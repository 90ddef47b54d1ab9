"""Faults that came to light once and may come back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver.cli.main import main
from maskconver.core.config import InputConfig
from maskconver.data import open_dataset
from maskconver.data.conversion.run import convert
from maskconver.data.synth.write import write_dataset
from tests.data.conversion import tool_exports


def test_a_second_model_reads_a_data_set_with_its_own_white_level(tmp_path: Path) -> None:
    write_dataset(tmp_path, "cells", 1, size=(16, 16))
    dataset = open_dataset(tmp_path, "train")
    for level in (4095.0, None, 1023.0):
        dataset.read_for(InputConfig(white_level=level))
        assert dataset.white_level == level
    dataset.read_for(InputConfig(white_level=1023.0), 255.0)
    assert dataset.white_level == 255.0


def test_a_folder_called_old_beside_the_output_is_left_alone(tmp_path: Path) -> None:
    source = tmp_path / "labelme"
    source.mkdir()
    tool_exports.labelme(source)
    out, old = tmp_path / "set", tmp_path / "set.old"
    old.mkdir()
    (old / "mine.txt").write_text("keep")
    convert(source, out)
    convert(source, out, overwrite=True)
    assert (old / "mine.txt").read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labelme", "set", "set.old"]


def test_ids_of_images_that_are_text_get_numbers_that_are_free(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, "cells", 3, size=(24, 24))
    path = data / "panoptic_train.json"
    content = json.loads(path.read_text())
    for k, new in enumerate(("first", 1, "third")):
        content["images"][k]["id"] = content["annotations"][k]["image_id"] = new
    path.write_text(json.dumps(content))
    assert main(["data", "export", str(data), "--to=coco-instances", f"--out={tmp_path / 'out'}"]) == 0
    written = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    numbers = [row["id"] for row in written["images"]]
    assert len(set(numbers)) == 3 and all(isinstance(n, int) for n in numbers)
    named = {row["image_id"] for row in written["annotations"]}
    assert named == set(numbers)


def test_an_interrupted_replacement_of_a_split_is_not_taken_for_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, "cells", 2, size=(16, 16))
    from maskconver.data.synth import write

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_panoptic_png", fail)
    with pytest.raises(OSError, match="space"):
        write_dataset(tmp_path, "cells", 2, size=(16, 16), seed=1, overwrite=True)
    assert not (tmp_path / "panoptic_train.json").exists()


def test_an_earlier_json_of_predictions_goes_when_its_pngs_are_replaced(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    argv = ["predict", "nuclei", str(tmp_path / "a.png"), f"--out={tmp_path / 'out'}"]
    assert main(argv) == 0
    from maskconver.io import results

    seen = []
    real = results.write_panoptic_png

    def write(path: Path, ids: np.ndarray) -> None:
        seen.append((tmp_path / "out" / "panoptic.json").exists())
        real(path, ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "write_panoptic_png", write)
        assert main(argv) == 0
    assert seen == [False]
    assert (tmp_path / "out" / "panoptic.json").exists()
    assert not list((tmp_path / "out").glob(".*"))
