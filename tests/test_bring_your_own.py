"""From the export of a tool to a trained model with the three commands of the page, for common tools."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from maskconver.cli.main import main

ROOT = Path(__file__).parents[1]


def exported(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        words = ["data", "export", "generated", "--to", kind, "--out", str(folder), "--things-only"]
        assert main(words) in (0, 1)

    return make


def roboflow(folder: Path) -> None:
    """COCO instances with Roboflow's folders, file names and its category 0."""
    exported("coco-instances")(folder)
    (name,) = folder.rglob("*instances*.json")
    content = json.loads(name.read_text())
    for row in content["categories"]:
        row["supercategory"] = "cells"
    content["categories"].insert(0, {"id": 0, "name": "cells", "supercategory": "none"})
    name.unlink()
    (folder / "train").mkdir(exist_ok=True)
    for row in content["images"]:
        (image,) = folder.rglob(Path(row["file_name"]).name)
        image.rename(folder / "train" / image.name)
        row["file_name"] = image.name
    (folder / "train" / "_annotations.coco.json").write_text(json.dumps(content))


def masks(folder: Path) -> None:
    """Images beside PNGs with a number for each object."""
    exported("masks")(folder)
    shutil.rmtree(folder / "labels")
    (folder / "classes.json").unlink()
    (folder / "instances").rename(folder / "masks")


# How an export is made, and what its conversion needs to be told.
EXPORTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "roboflow": (roboflow, ""),
    "yolo": (exported("yolo-seg"), ""),
    "labelme": (exported("labelme"), ""),
    "cvat": (exported("cvat"), ""),
    "masks": (masks, "--from instance-masks --things nucleus"),
    "coco": (exported("coco-instances"), ""),
}


def commands() -> list[list[str]]:
    """The first block of the page."""
    text = (ROOT / "docs/tasks/annotations.md").read_text(encoding="utf-8")
    return [shlex.split(line)[1:] for line in text.partition("```bash\n")[2].partition("```")[0].splitlines()]


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    words = "data synth generated --style cells --count 10 --size 64 64"
    assert main(words.split()) == 0
    return tmp_path


@pytest.mark.parametrize("tool", EXPORTS)
def test_an_export_becomes_a_sound_data_set(
    tool: str, generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, options = EXPORTS[tool]
    make(generated / "my_export")
    convert, check, _ = commands()
    assert main([*convert, *options.split()]) == 0, capsys.readouterr()
    assert main(check) == 0, capsys.readouterr().out
    report = json.loads((generated / "my_data" / "conversion.json").read_text())
    assert report["splits"] == {"train": 8, "val": 2}
    assert {(c["name"], c["isthing"]) for c in report["classes"]} == {("nucleus", 1), ("background", 0)}
    truth = json.loads((generated / "generated" / "panoptic_train.json").read_text())
    objects = sum(s["category_id"] == 1 for a in truth["annotations"] for s in a["segments_info"])
    assert report["classes"][0]["segments"] == objects


@pytest.mark.slow
@pytest.mark.parametrize("tool", EXPORTS)
def test_three_commands_lead_to_a_trained_model(
    tool: str, generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec("torch") is None:
        pytest.skip("needs torch")
    make, options = EXPORTS[tool]
    make(generated / "my_export")
    convert, check, train = commands()
    small = "--steps 12 --val_every 12 --data.batch_size 2 --data.workers 0 --model.proposals 20"
    small += " --model.input.size [64,64] --schedule.warmup 4"
    assert main([*convert, *options.split()]) == 0
    assert main(check) == 0
    assert main([*train, *small.split()]) == 0, capsys.readouterr()
    assert (generated / "runs" / "mine" / "best.safetensors").is_file()
    image = next((generated / "my_data" / "images" / "val").iterdir())
    assert main(["predict", "runs/mine", str(image), "--out", "results"]) == 0
