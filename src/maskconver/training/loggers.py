"""Where a run's figures go besides metrics.csv, by name."""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from ..errors import ConfigError, first_line

PROJECT = "maskconver"
NAMES = ("csv", "tensorboard", "wandb", "mlflow", "trackio")


def logger_names(names: str) -> list[str]:
    """The names in a list with commas; `csv` is always there.

    Raises:
        ConfigError: no such logger, or its package is not installed.
    """
    found = list(dict.fromkeys(["csv", *(word.strip() for word in names.split(",") if word.strip())]))
    for name in found:
        if name not in NAMES:
            raise ConfigError(f'`logger`: there is no "{name}"; there are {", ".join(NAMES)}')
        if name != "csv" and find_spec(name) is None:
            raise ConfigError(f"`logger`: {name} is not installed", fix=f"pip install {name}")
    return found


def create_loggers(names: list[str], out: Path, recipe: dict[str, Any]) -> list[Logger]:
    """The loggers of a run.

    Args:
        names: of `logger_names`.
        out: folder of the run; its name is that of the run.
        recipe: told to the trackers.
    """
    loggers: list[Logger] = []
    for kind in names:
        if kind == "csv":
            loggers.append(CSVLogger(out, name="", version=""))
        elif kind == "tensorboard":
            loggers.append(TensorBoardLogger(out, name="", version=""))
        else:
            logger = _tracker(kind, out)
            logger.log_hyperparams(recipe)
            loggers.append(logger)
    return loggers


def _tracker(kind: str, out: Path) -> Logger:
    name = out.resolve().name
    try:
        if kind == "wandb":
            return WandbLogger(project=PROJECT, name=name, save_dir=out)
        if kind == "mlflow":
            return MLFlowLogger(PROJECT, run_name=name, save_dir=str(out / "mlruns"))
        return TrackioLogger(name)
    except ModuleNotFoundError as error:  # a part that the package itself needs
        raise ConfigError(
            f"`logger`: {kind} cannot be used: {first_line(error)}", fix=f"pip install {kind}"
        ) from error


class TrackioLogger(Logger):
    """Trackio, for which Lightning has no logger of its own.

    Args:
        run: name of the run.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run
        self._recipe: dict[str, Any] = {}
        self._experiment: Any = None

    @property
    def name(self) -> str:
        """Of the project."""
        return PROJECT

    @property
    def version(self) -> str:
        """Name of the run."""
        return self.run

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run; it begins when it is first asked for."""
        if self._experiment is None:
            import trackio

            self._experiment = trackio.init(project=PROJECT, name=self.run, config=self._recipe)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._recipe = vars(params) if isinstance(params, Namespace) else dict(params)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log(metrics, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self._experiment.finish()
