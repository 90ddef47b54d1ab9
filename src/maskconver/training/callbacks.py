"""What happens around the steps: averaged weights, files, log lines, a clean stop."""

from __future__ import annotations

import json
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from ..core.files import atomic_path
from ..models.checkpoint import save
from .memory import used_memory

WINDOW = 5  # steps whose mean loss is compared
NO_LOSSES = ("total", "dropped", "fp_fn", "fp_fn_unrelaxed")
GROWTH = 1.5  # times the loss of the first steps


class EMA(pl.Callback):
    """Exponential moving average of all weights and batch-norm statistics; validation runs on the averages.

    decay(t) = min(decay, (1+t)/(10+t)) at optimiser step t, as in TensorFlow.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.updates = 0
        self._own: dict[str, Tensor] | None = None

    @staticmethod
    def _state(module: pl.LightningModule) -> dict[str, Tensor]:
        model: nn.Module = module.model  # type: ignore[assignment]
        return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = self._state(pl_module)
        self.average = {k: self.average.get(k, v).detach().clone().to(v.device) for k, v in state.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.updates:  # in the middle of an accumulated step
            return
        self.updates = trainer.global_step
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        state = self._state(pl_module)
        torch._foreach_lerp_([self.average[k] for k in state], list(state.values()), 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._own = {k: v.clone() for k, v in self._state(pl_module).items()}
        self._load(pl_module, self.average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._own is not None
        self._load(pl_module, self._own)
        self._own = None

    @classmethod
    @torch.no_grad()
    def _load(cls, module: pl.LightningModule, values: dict[str, Tensor]) -> None:
        for k, v in cls._state(module).items():
            v.copy_(values[k])

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.updates = state_dict["average"], state_dict["updates"]


class ModelFiles(pl.Callback):
    """Writes model files after each validation.

    `last.safetensors`, and `best.safetensors` when PQ (of semantic models mIoU) rises.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        self.folder, self.recipe, self.best, self.validated = folder, recipe, -math.inf, -1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Before EMA.on_validation_end (callback order), so that the averaged weights are the ones written.
        self.validated = trainer.global_step
        with _whole_weights(trainer):
            if trainer.is_global_zero and not trainer.sanity_checking:
                self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        extra = {"recipe": self.recipe, "step": trainer.global_step, "metrics": _json_safe(metrics)}
        save(pl_module.model, self.folder / "last.safetensors", extra=extra)  # type: ignore[arg-type]
        value = metrics.get(f"val/{getattr(pl_module, 'headline', 'pq')}", math.nan)
        # Without anything to score, the first is the best there is; so it is in a folder of its own of a run
        # that goes on from another's checkpoint.
        if value > self.best or not (self.folder / "best.safetensors").exists():
            self.best = self.best if math.isnan(value) else value
            save(pl_module.model, self.folder / "best.safetensors", extra=extra)  # type: ignore[arg-type]
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps({"step": trainer.global_step, **_json_safe(metrics)}) + "\n")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def _whole_weights(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """All weights in every process while the block runs, where FSDP has shared them out."""
    if not isinstance(trainer.strategy, FSDPStrategy):
        return nullcontext()
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = trainer.strategy.model
    assert model is not None
    whole: AbstractContextManager[None] = FullyShardedDataParallel.summon_full_params(model, writeback=False)
    return whole


def _json_safe(metrics: dict[str, float]) -> dict[str, float | None]:
    return {k: None if math.isnan(v) else round(v, 6) for k, v in metrics.items()}


class Checkpoints(pl.Callback):
    """Writes `last.ckpt`, from which a run goes on exactly, every `every` steps and at the end.

    A Ctrl-C or SIGTERM lets the step end, then saves and stops; a second one stops at once.

    Args:
        folder: of the run.
        every: steps between them.
        alive: called after each step.

    Attributes:
        stopped: the signal that came, or 0.
    """

    def __init__(self, folder: Path, every: int, alive: Callable[[], None]) -> None:
        self.folder, self.every, self.saved, self.stopped = folder, every, -1, 0
        self.alive = alive
        self._before: dict[int, Any] = {}

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step != self.saved:
            path = self.folder / "last.ckpt"
            if trainer.is_global_zero:
                with atomic_path(path, sync=True) as temporary:
                    trainer.save_checkpoint(temporary, weights_only=False)
            else:
                trainer.save_checkpoint(path, weights_only=False)  # takes part, and writes nothing
            self.saved = trainer.global_step
            module.last_checkpoint = f"{path} (step {trainer.global_step})"  # type: ignore[assignment]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *given: Any) -> None:
        self.alive()
        _, _, batch_index = given
        whole = (batch_index + 1) % trainer.accumulate_grad_batches == 0
        if whole and trainer.global_step % self.every == 0:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, pl_module)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # By now Lightning has put a handler of its own in front, which ends a run at SIGTERM without saving.
        self._listen(trainer)

    def _listen(self, trainer: pl.Trainer) -> None:
        def stop(number: int, frame: Any) -> None:
            self.stopped, trainer.should_stop = number, True
            trainer.limit_val_batches = 0  # Lightning would validate once more before it stops
            for n, handler in self._before.items():
                signal.signal(n, handler)
            print("\nstopping after this step, saving last.ckpt …", flush=True)

        try:
            for n in (signal.SIGINT, signal.SIGTERM):
                self._before.setdefault(n, signal.signal(n, stop))
        except ValueError:  # not the main thread: no handlers there
            pass

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for n, handler in self._before.items():
            signal.signal(n, handler)
        self._before = {}


class Throughput(pl.Callback):
    """Logs images per second of the step and of the loader, so that the slower is seen.

    Also the learning rate, the memory in use, and which share of the step matching takes, where the
    criterion matches.
    """

    def __init__(self, batch: int) -> None:
        self.batch, self.busy, self.waiting, self.steps = batch, 0.0, 0.0, 0
        self._end = self._start = self._matching = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._start = time.perf_counter()
        if self._end:
            self.waiting += self._start - self._end

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._end = time.perf_counter()
        self.busy += self._end - self._start
        self.steps += 1
        pl_module.log("learning rate", trainer.optimizers[0].param_groups[0]["lr"], prog_bar=True)
        if self.steps % 20 == 0:
            pl_module.log("memory GB", used_memory(pl_module.device), prog_bar=True)
            images = 20 * self.batch
            pl_module.log("images/s", images / (self.busy + self.waiting), prog_bar=True)
            pl_module.log("step images/s", images / self.busy)
            pl_module.log("wait share", self.waiting / (self.busy + self.waiting), prog_bar=True)
            matching = getattr(getattr(pl_module, "criterion", None), "matching_seconds", None)
            if matching is not None:
                pl_module.log("matching share", (matching - self._matching) / self.busy, prog_bar=True)
                self._matching = matching
            self.busy = self.waiting = 0.0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end = 0.0


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
        losses = _figures(trainer.callback_metrics, "train/", NO_LOSSES)
        total = trainer.callback_metrics.get("train/total", torch.tensor(float("nan")))
        current = trainer.optimizers[0].param_groups[0]["lr"]
        self.say(
            f"step {step}/{self.steps}: loss {float(total):.4g} ({losses}), learning rate {current:.3g}, "
            f"{rate * self.images:.3g} images/s, {used_memory(pl_module.device):.2g} GB, "
            f"{_duration((self.steps - step) / rate)} left"
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
