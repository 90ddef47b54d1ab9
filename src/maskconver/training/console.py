"""What a training says while it runs: lines for log files, and a warning before it diverges."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch

WINDOW = 5  # steps whose mean loss is compared
GROWTH = 1.5  # times the loss of the first steps


class LogLines(pl.Callback):
    """One line every few steps and one a validation, where no progress bar can be shown.

    Args:
        every: steps between lines.
        steps: of the whole run.
        images: a step.
        say: takes the lines.
    """

    def __init__(self, every: int, steps: int, images: int, say: Callable[[str], None]) -> None:
        self.every, self.steps, self.images, self.say = every, steps, images, say
        self._last = (0, 0.0)  # step and time of the last line

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = trainer.global_step, time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step, (before, since) = trainer.global_step, self._last
        if step == before or step % self.every:
            return
        now = time.perf_counter()
        rate = (step - before) / max(now - since, 1e-9)
        self._last = step, now
        losses = _figures(trainer.callback_metrics, "train/", ("total", "dropped"))
        total = trainer.callback_metrics.get("train/total", torch.tensor(float("nan")))
        current = trainer.optimizers[0].param_groups[0]["lr"]
        self.say(
            f"step {step}/{self.steps}: loss {float(total):.4g} ({losses}), learning rate {current:.3g}, "
            f"{rate * self.images:.3g} images/s, {_duration((self.steps - step) / rate)} left"
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.say(f"step {trainer.global_step}: validation {_figures(trainer.callback_metrics, 'val/')}")
        self._last = trainer.global_step, time.perf_counter()


class DivergenceWatch(pl.Callback):
    """Says once that the loss has grown well above where it began, while it is still finite.

    Args:
        say: takes the line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.begin: list[float] = []
        self.warned = False
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.seen(trainer.global_step, float(outputs["loss"]) * trainer.accumulate_grad_batches)

    def seen(self, step: int, loss: float) -> None:
        """Takes the loss of a step."""
        if len(self.begin) < WINDOW:
            self.begin.append(loss)
            return
        self._recent.append(loss)
        first, now = sum(self.begin) / WINDOW, sum(self._recent) / len(self._recent)
        if not self.warned and len(self._recent) == WINDOW and now > GROWTH * first:
            self.warned = True
            self.say(
                f"warning: step {step}: the loss has grown from {first:.3g} to {now:.3g}, so this training "
                "may diverge. A longer warm-up (schedule.warmup), clipped gradients (optim.clip_norm 1) or a "
                "lower learning rate (optim.lr) help"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"begin": self.begin, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.begin, self.warned = list(state_dict["begin"]), bool(state_dict["warned"])


def _figures(metrics: Mapping[str, Any], prefix: str, but: tuple[str, ...] = ()) -> str:
    names = [n for n in metrics if n.startswith(prefix) and n.removeprefix(prefix) not in but]
    return ", ".join(f"{name.removeprefix(prefix)} {float(metrics[name]):.4g}" for name in names)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
