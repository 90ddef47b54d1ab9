"""What a run draws for people to look at: the first batches, predictions, and the page of its curves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from ..analysis.training import write_run_report
from ..core.drawing import side_by_side
from ..core.segmentation import Segmentation
from ..errors import MaskconverError, one_line
from ..models.batch import Batch
from .examples import draw_batch

PREVIEW_WIDTH = 1600  # pixels, of a drawn pair at most
FIRST = 2  # batches that are drawn
ROWS = 4  # images of a batch that are drawn


class DrawingWarning(UserWarning):
    """Something could not be drawn; the training goes on."""


def _tried(what: str, draw: Callable[[], object]) -> None:
    """Draws; a drawing never ends a training."""
    try:
        draw()
    except (OSError, ValueError, MemoryError, MaskconverError) as error:
        warnings.warn(f"{what}: {one_line(error)}", DrawingWarning, stacklevel=3)


class FirstBatches(pl.Callback):
    """Draws the first batches of a run as the network sees them, with what is to be learned.

    To `images/batch_STEP.jpg`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.drawn = folder / "images", 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any
    ) -> None:
        if self.drawn >= FIRST or not trainer.is_global_zero or not isinstance(batch, Batch):
            return
        self.drawn += 1
        number = (
            trainer.global_step + self.drawn - 1
            if trainer.accumulate_grad_batches > 1
            else trainer.global_step
        )

        def draw() -> None:
            module: Any = pl_module
            sheet = draw_batch(module.criterion, module.model, batch.to("cpu"), rows=ROWS)
            self.folder.mkdir(parents=True, exist_ok=True)
            sheet.save(self.folder / f"batch_{number:07d}.jpg", quality=88)

        _tried("the first batches were not drawn", draw)


class RunPage(pl.Callback):
    """Writes `report.html` after each validation: curves, first batches, last predictions.

    It comes after the callbacks that write what it shows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            for logger in trainer.loggers:
                logger.save()  # what is logged lies in metrics.csv only every 100 steps
            _tried("report.html was not written", lambda: write_run_report(self.folder))


class Predictions(pl.Callback):
    """Draws the first predictions of each validation beside their ground truth.

    To `images/` and TensorBoard.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder / "images", count
        self._rows: list[np.ndarray] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *_: Any,
    ) -> None:
        if batch_idx >= self.count or trainer.sanity_checking or not isinstance(outputs, Segmentation):
            return
        truth = batch.sample.segmentation(outputs.categories)
        height = min(320, max(1, PREVIEW_WIDTH * truth.ids.shape[0] // (2 * truth.ids.shape[1])))
        self._rows.append(np.asarray(side_by_side(outputs.draw(truth.image), truth.draw(), height=height)))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._rows or not trainer.is_global_zero:
            return
        _tried("predictions were not drawn", lambda: self._write(trainer))
        self._rows = []

    def _write(self, trainer: pl.Trainer) -> None:
        width = max(r.shape[1] for r in self._rows)
        sheet = np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in self._rows])
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(self.folder / f"step_{trainer.global_step:07d}.jpg", quality=88)
        loggers: list[Any] = trainer.loggers
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "prediction | truth", sheet, trainer.global_step, dataformats="HWC"
                )
