"""`maskconver figure`: what is drawn is what was trained on, logged or learned; bad input is one line."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from maskconver.cli.figure import classes, fpfn
from maskconver.cli.main import main
from maskconver.data.synth.write import synth_categories, write_dataset
from maskconver.models import create_model
from maskconver.models.checkpoint import save
from maskconver.training.config import ModelChoice, TrainConfig
from maskconver.training.examples import STUFF, THING, draw_examples
from maskconver.training.loader import DataConfig

SIZE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training images of 64 px, and no other split."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, style="scenes", count=2, size=(SIZE, SIZE), seed=0, split="train")
    return folder


def refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


class TestTargets:
    def recipe(self, data: Path, model: str = "maskconver_mobile_dense_512") -> TrainConfig:
        choice = ModelChoice(model)
        choice.config.input.size = (SIZE, SIZE)
        return TrainConfig(choice, DataConfig(str(data)), overfit=2)

    def test_shows_image_masks_and_heatmaps_of_each_example(self, data: Path) -> None:
        config = self.recipe(data)
        sheet = np.asarray(draw_examples(config, 2))
        assert sheet.shape[1] > 3 * 420 and sheet.shape[0] > 2 * 420
        left, right = sheet[:, :430].astype(int), sheet[:, 2 * 430 :].astype(int)
        for color in (THING, STUFF):  # the peaks of both kinds, on the right alone
            assert (np.abs(right - color).sum(2) < 12).any()
            assert (np.abs(right - color).sum(2) < 12).sum() > (np.abs(left - color).sum(2) < 12).sum()
        assert config.data.batch_size == 8 and config.data.val_split == "val"  # nothing is changed

    def test_of_networks_without_centres_has_no_heatmaps(self, data: Path) -> None:
        sheet = draw_examples(self.recipe(data, "remax_t"), 1)
        assert 2 * 420 < sheet.width < 3 * 420

    def test_is_written_by_the_command(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        png = tmp_path / "new" / "t.png"
        words = ["figure", "targets", "--config", "start", "--data", str(data), "--png", str(png)]
        assert main([*words, "--count", "1", "--data.targets.stuff", "global"]) == 0
        assert str(png) in capsys.readouterr().out and Image.open(png).width > 3 * 420
        refused([*words, "--count", "0"], "--count 0", capsys)
        refused([*words[:-1], "t.jpg"], "must end in .png", capsys)
        refused(["figure", "targets", "--data", "nowhere"], "nowhere", capsys)


class TestFpFn:
    def log(self, folder: Path, values: list[float], before: list[float] | None = None) -> str:
        folder.mkdir(exist_ok=True)
        rows = ["step,train/fp_fn,train/fp_fn_unrelaxed,val/pq", "0,,,0.5"]
        rows += [f"{i},{v},{before[i] if before else ''}," for i, v in enumerate(values)]
        (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
        return str(folder)

    def test_draws_every_run_and_says_its_median(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("matplotlib")
        runs = [self.log(tmp_path / "a", [300, 100, 200]), self.log(tmp_path / "b", [1, 2, 3], [50, 60, 70])]
        assert main(["figure", "fpfn", *runs, "--png", str(tmp_path / "f.png")]) == 0
        out = capsys.readouterr().out
        assert f"{runs[0]}: median 200" in out and f"{runs[1]}, before relaxing: median 60" in out
        assert Image.open(tmp_path / "f.png").width > 600

    def test_a_resumed_run_counts_with_its_earlier_steps(self, tmp_path: Path) -> None:
        self.log(tmp_path, [5, 6, 7])
        (tmp_path / "metrics.csv").rename(tmp_path / "metrics_before_2.csv")
        self.log(tmp_path, [9])
        assert fpfn.ratios(tmp_path, fpfn.SEEN) == [(0, 9), (1, 6), (2, 7)]

    def test_what_is_no_run_of_the_family_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refused(["figure", "fpfn", str(tmp_path)], "it has no metrics.csv", capsys)
        refused(["figure", "fpfn", self.log(tmp_path, [])], "no values of train/fp_fn", capsys)
        (tmp_path / "metrics.csv").write_text("step,train/fp_fn\n1,words\n")
        refused(["figure", "fpfn", str(tmp_path)], "not a table of metrics", capsys)
        refused(["figure", "fpfn", str(tmp_path), "--skip", "1"], "--skip 1", capsys)

    def test_without_matplotlib_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        refused(["figure", "fpfn", self.log(tmp_path, [2.0])], "maskconver[figures]", capsys)


class TestClasses:
    def test_like_rows_lie_close(self) -> None:
        rows = np.float32([[1, 0, 0], [2, 0.01, 0], [0, 1, 0], [0, 0, 3]])  # of any length
        places, shares = classes.project(rows)
        near, far = (math.dist(places[0], places[i]) for i in (1, 2))
        assert near < 0.02 and far > 1 and 0 < shares[1] <= shares[0] <= 1

    def test_is_drawn_of_a_model_with_class_embeddings(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("matplotlib")
        small = {"filters": 16, "low_level_filters": 16, "embedding_dim": 8}
        for name, kind in (("m", "multiply"), ("n", "none")):
            model = create_model(
                "maskconver_mobile_256", categories=synth_categories("scenes"), class_embedding=kind, **small
            )
            save(model, tmp_path / f"{name}.safetensors")
        png = str(tmp_path / "c.png")
        assert main(["figure", "classes", str(tmp_path / "m.safetensors"), "--png", png]) == 0
        assert Image.open(png).width > 600
        refused(["figure", "classes", str(tmp_path / "n.safetensors")], "has no class embeddings", capsys)
        refused(["figure", "classes", "x.onnx"], "the model it was exported from", capsys)
