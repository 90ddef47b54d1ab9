"""What a training shows: its page, the first batches, figures in trackers, a batch size that fits."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("torch")

from maskconver.analysis.training import read_metrics, thinned, write_run_report
from maskconver.cli.main import main
from maskconver.errors import ConfigError, DataError
from maskconver.models import model_config
from maskconver.training import memory
from maskconver.training.config import ModelChoice, TrainConfig
from maskconver.training.loader import DataConfig
from maskconver.training.loggers import TrackioLogger, create_loggers, logger_names
from maskconver.training.run import _with_batch_size

from .conftest import tiny


@pytest.fixture(scope="module")
def run(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("looks")
    assert main(tiny(cells, out, "--val_every=3", "--logger=csv")) == 0
    return out


def test_each_validation_writes_a_page_that_needs_nothing_else(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    for title in ("Loss", "Loss terms", "Quality", "Learning rate", "What the network saw first"):
        assert f">{title}<" in page, title
    assert page.count("data:image/jpeg;base64,") == 3  # two first batches, one sheet of predictions
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert "maskconver_mobile_dense_512" in page  # the recipe
    assert not list(run.glob("events.out.tfevents*"))  # only metrics.csv was asked for


def test_the_page_has_what_was_logged(run: Path) -> None:
    metrics = read_metrics(run)
    assert [step for step, _ in metrics["learning rate"]] == list(range(6))
    assert len(metrics["train/total"]) == 6
    page = write_run_report(run, run / "again.html").read_text(encoding="utf-8")
    assert "6 steps so far" in page
    assert re.search(r"Best PQ: [\d.]+ at step [36]\.", page)


def test_a_first_batch_shows_a_row_for_each_image(run: Path) -> None:
    paths = sorted((run / "images").glob("batch_*.jpg"))
    assert [path.name for path in paths] == ["batch_0000000.jpg", "batch_0000001.jpg"]
    width, height = Image.open(paths[0]).size
    assert width > 3 * 420 and height > 2 * 420  # three panels; two images of the batch


def test_report_of_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "is not the folder of a training run" in capsys.readouterr().err
    (tmp_path / "metrics.csv").write_text("step,train/total\nx,1\n")
    with pytest.raises(DataError, match="not a table of metrics"):
        write_run_report(tmp_path)


def test_a_damaged_curve_leaves_the_rest_of_the_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text((run / "metrics.csv").read_text())
    (tmp_path / "curve.jsonl").write_text(
        '{"step": 3, "val/pq": 0.5, "val/pq_things": 0.5}\n{"step": 6, "val'
    )
    page = write_run_report(tmp_path).read_text(encoding="utf-8")
    assert "Best PQ: 50.0 at step 3." in page


def test_a_long_line_is_thinned_to_means() -> None:
    line = [(step, float(step % 2)) for step in range(1000)]
    short = thinned(line, 100)
    assert len(short) == 100 and {value for _, value in short} == {0.5} and short[-1][0] == 999
    assert thinned([(1, float("nan")), (2, 3.0)]) == [(2, 3.0)]


def test_loggers_are_chosen_by_name_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logger_names("tensorboard, csv") == ["csv", "tensorboard"]
    assert logger_names("csv") == logger_names("") == ["csv"]
    with pytest.raises(ConfigError, match='there is no "clearml"; there are csv'):
        logger_names("clearml")
    monkeypatch.setattr("maskconver.training.loggers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed; pip install wandb"):
        logger_names("wandb")


def test_figures_go_to_trackio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Any] = []
    started = SimpleNamespace(
        log=lambda metrics, step: told.append((step, metrics)), finish=lambda: told.append("end")
    )
    fake = SimpleNamespace(init=lambda **given: told.append(given) or started)
    monkeypatch.setitem(sys.modules, "trackio", fake)  # type: ignore[arg-type]
    (_, logger) = create_loggers(["csv", "trackio"], tmp_path / "mine", {"steps": 3})
    assert isinstance(logger, TrackioLogger) and logger.version == "mine" and told == []
    logger.log_metrics({"train/total": 2.0}, step=1)
    logger.finalize("success")
    assert told == [
        {"project": "maskconver", "name": "mine", "config": {"steps": 3}},
        (1, {"train/total": 2.0}),
        "end",
    ]


@pytest.mark.parametrize(("free", "size"), [(1e12, 4), (1e3, 2)])
def test_the_batch_size_auto_is_what_fits(
    cells: Path, monkeypatch: pytest.MonkeyPatch, free: float, size: int
) -> None:
    """Of six images, four are the largest power of two; two are the least."""
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    network = model_config("maskconver_mobile_dense_512")
    network = replace(network, filters=16, embedding_dim=16, input=replace(network.input, size=(64, 64)))
    data = DataConfig(data=str(cells), batch_size="auto")
    choice = ModelChoice("maskconver_mobile_dense_512", config=network)
    assert memory.fitting_batch_size(TrainConfig(choice, data, device="cpu")) == size


def test_a_run_that_goes_on_keeps_the_batch_size_it_had(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    (tmp_path / "recipe.yaml").write_text("data: {batch_size: 3}")
    config = TrainConfig(data=DataConfig(data=str(cells), batch_size="auto"), resume="auto")
    said: list[str] = []
    assert _with_batch_size(config, tmp_path, said.append).data.images == 3
    assert said == ["batch size 3: as the run had it"]


def test_free_memory_is_known_here() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("no /proc/meminfo")
    assert 0 < memory.free_memory() < 1e14
