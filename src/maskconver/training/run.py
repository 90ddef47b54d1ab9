"""Puts a recipe to work: data, model, trainer, and what is said about them."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from ..errors import ConfigError, first_line
from ..io.lock import hold
from ..models.backbones.weights import load_backbone
from ..models.base import SegmentationModel
from ..models.checkpoint import init_from
from ..models.registry import build_model
from .callbacks import EMA, Checkpoints, DivergenceWatch, LogLines, ModelFiles, Throughput
from .config import TrainConfig, recipe_yaml
from .drawing import FirstBatches, Predictions, RunPage
from .loader import SegmentationData
from .loggers import create_loggers, logger_names
from .memory import fitting_batch_size
from .optim import highest_rate, scaled_lr
from .resume import checkpoint_of, go_on, remove_run, require_no_run
from .task import SegmentationTask

PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def train(config: TrainConfig, recipe: str = "", say: Callable[[str], None] = print) -> dict[str, float]:
    """Runs a recipe to its end and returns the last validation's figures.

    Args:
        config: the recipe. `config.out` gets `recipe.yaml`, `last.ckpt`, `last.safetensors`,
            `best.safetensors`, `curve.jsonl`, `metrics.csv`, `report.html`, TensorBoard events and `images/`.
        recipe: the resolved recipe as YAML, kept beside the run and inside its model files.
        say: takes lines for the console; of several processes only the first speaks and returns figures.

    Raises:
        DataError, ConfigError, CheckpointError, NonFiniteLoss: see there.
        KeyboardInterrupt: after a Ctrl-C, when the checkpoint is saved. A SIGTERM ends the process then.
        OSError: `config.out` cannot be written.
    """
    out = Path(config.out)
    _require_device(config)
    logger_names(config.logger)
    if not _is_first(config):  # a further process of the same run
        return _train(config, recipe, _silent, first=False, alive=lambda: None)
    require_no_run(config, out)
    before, existed = torch.are_deterministic_algorithms_enabled(), out.exists()
    try:
        with hold(out / ".train.lock", f"the run in {out}") as lock:
            return _train(config, recipe, say, first=True, alive=lock.beat)
    finally:
        torch.use_deterministic_algorithms(before)
        if not existed:
            with suppress(OSError):
                out.rmdir()  # empty: the run was refused before it began


def _train(
    config: TrainConfig, recipe: str, say: Callable[[str], None], *, first: bool, alive: Callable[[], None]
) -> dict[str, float]:
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.data.batch_size == "auto":
        config = _with_batch_size(config, out, say)
        recipe = recipe and recipe_yaml(config)
    pl.seed_everything(config.seed, verbose=False)
    data, model = _data_and_model(config, say)
    _require_shared_memory(config)
    checkpoint = checkpoint_of(config, out)
    began = set() if checkpoint else _start(model, config, say)
    _say_rate(config, say)
    task = SegmentationTask(model, config)
    if not checkpoint:
        task.keep_still(_still(model, config, began))
        _say_random(task, began, say)
    if task.still:
        say(f"{len(task.still)} batch norms keep their initial statistics (`batch_norm`)")
    if checkpoint:
        go_on(checkpoint, task, data, first=first)
        say(f"resuming from {task.last_checkpoint}")
    if first and config.overwrite:
        remove_run(out)
    if first:
        (out / "recipe.yaml").write_text(recipe, encoding="utf-8")  # not over a run's that is not resumed
    checkpoints, files = Checkpoints(out, config.checkpoint_every, alive), ModelFiles(out, recipe)
    trainer = _trainer(config, [*_watchers(config, files, say), checkpoints])
    with warnings.catch_warnings():
        for text in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=f".*{text}.*")
        try:
            trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        except RuntimeError as error:
            if config.deterministic and "deterministic" in str(error):
                raise ConfigError(f"`deterministic`: {first_line(error)}; leave it out") from error
            raise
        if not checkpoints.stopped and files.validated != trainer.global_step:
            trainer.validate(task, data, verbose=False)  # the last steps came after the last interval
    if checkpoints.stopped:
        say(f"stopped at step {trainer.global_step}; continue with `resume=auto`")
        signal.raise_signal(checkpoints.stopped)  # again, for the handlers of whoever started the run
        raise KeyboardInterrupt  # shells have background jobs ignore Ctrl-C, and then nothing came of it
    return {k: float(v) for k, v in trainer.callback_metrics.items()} if trainer.is_global_zero else {}


def _say_rate(config: TrainConfig, say: Callable[[str], None]) -> None:
    """Says the learning rate, and whether the run is too short to reach it."""
    peak = scaled_lr(config.optim, config.step_images)
    say(
        f"learning rate {peak:.3g} ({config.optim.lr:.3g} × {config.optim.lr_scaling} of "
        f"{config.step_images}/{config.optim.base_batch} images a step)"
    )
    highest = highest_rate(config.steps, peak, config.schedule)
    if highest < peak / 2:
        say(
            f"warning: the warm-up takes {config.schedule.warmup} steps and the whole run {config.steps}, so "
            f"the learning rate never rises above {highest:.3g}; shorten `schedule.warmup` or raise `steps`"
        )


def _data_and_model(
    config: TrainConfig, say: Callable[[str], None]
) -> tuple[SegmentationData, SegmentationModel]:
    """The data of a run and its network with random weights; the network's input may follow the data."""
    network = config.model.config
    data = SegmentationData(
        config.data,
        network.input,
        config.steps * config.step_images,
        seed=config.seed,
        overfit=config.overfit,
    )
    if network.input.mode == "native" and network.input.diameter is None:
        network.input = replace(network.input, diameter=data.diameter())
    model = build_model(
        network, len(data.categories), data.categories, name=config.model.name, training=config.training
    )
    say(f"data: {len(data.train)} training and {len(data.val)} validation images, {data.categories!r}")
    _say_limits(config, data, model, say)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return data, model


def _say_limits(
    config: TrainConfig, data: SegmentationData, model: SegmentationModel, say: Callable[[str], None]
) -> None:
    """Says where the data has more than the recipe lets the model give."""
    most = int(data.train.segment_counts.max())
    if most > model.config.proposals:
        say(
            f"note: an image has {most} segments, but the model makes {model.config.proposals} proposals "
            "(`model.proposals`)"
        )
    if most > (learned := config.data.targets.max_segments):
        say(
            f"note: an image has {most} segments, but at most {learned} masks are learned per image "
            "(`data.targets.max_segments`)"
        )
    semantic = getattr(model.config, "stuff", None) == "semantic" and not data.categories.is_thing.any()
    if semantic and model.config.postprocess.score_threshold > 0:
        say(
            "note: no class is a thing, and with `model.postprocess.score_threshold` above 0, pixels of "
            "uncertain classes get none; the recipe `auto` gives every pixel its most probable class"
        )


def _watchers(config: TrainConfig, files: ModelFiles, say: Callable[[str], None]) -> list[pl.Callback]:
    """The callbacks of a run, but for its checkpoints."""
    out = Path(config.out)
    callbacks: list[pl.Callback] = [Throughput(config.data.images)]
    if config.log_images:
        callbacks.append(FirstBatches(out))
    callbacks += [Predictions(out, config.log_images), files, RunPage(out)]
    if config.ema:
        callbacks.append(EMA(config.ema))
    callbacks.append(DivergenceWatch(say))
    if not sys.stdout.isatty():
        callbacks.append(LogLines(config.log_every, config.steps, config.step_images, say))
    return callbacks


# What Lightning warns about although it is meant that way.
_KNOWN_WARNINGS = (
    "resuming from a checkpoint that ended before",
    "overridden `transfer_batch_to_device`",
    "LeafSpec",
    "does not have many workers",
    "Experiment logs directory",
    "infer the indices fetched",
)


def _trainer(config: TrainConfig, callbacks: list[pl.Callback]) -> pl.Trainer:
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # hardware lists and advertising
    out = Path(config.out)
    return pl.Trainer(
        accelerator=config.device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
        precision=PRECISION[config.precision],
        max_steps=config.steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optim.clip_norm,
        val_check_interval=min(config.val_every, config.steps) * config.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log_every,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        logger=create_loggers(logger_names(config.logger), out, dataclasses.asdict(config)),
        callbacks=callbacks,
        default_root_dir=out,
        deterministic=True if config.deterministic else None,
        sync_batchnorm=config.processes > 1 and config.device != "cpu" and torch.cuda.is_available(),
    )


def _with_batch_size(config: TrainConfig, out: Path, say: Callable[[str], None]) -> TrainConfig:
    """The recipe with a number for the batch size `auto`: that of the run that goes on, or what fits."""
    import yaml

    size, why = None, "what fits in memory"
    if checkpoint := checkpoint_of(config, out):
        with suppress(OSError, yaml.YAMLError, LookupError, TypeError):
            recipe = yaml.safe_load(Path(checkpoint).with_name("recipe.yaml").read_text(encoding="utf-8"))
            size, why = int(recipe["data"]["batch_size"]), "as the run had it"
    size = size or fitting_batch_size(config)
    say(f"batch size {size}: {why}")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=size))


def _is_first(config: TrainConfig) -> bool:
    """Whether this is the process of the run that speaks and writes; started by torchrun, Slurm or Lightning.

    Raises:
        ConfigError: another number of processes was started than the recipe has.
    """
    started = int(os.environ.get("WORLD_SIZE", 0)) if "TORCHELASTIC_RUN_ID" in os.environ else 0
    if started and started != config.processes:
        raise ConfigError(
            f"torchrun has started {started} processes, but the run has {config.processes}: "
            f"`devices={config.devices}` on each of `nodes={config.nodes}`"
        )
    ranks = "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"
    return config.processes == 1 or not any(int(os.environ.get(name) or 0) for name in ranks)


def _require_device(config: TrainConfig) -> None:
    there = {"auto": True, "cpu": True}
    there |= {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if config.strategy == "fsdp" and not (there["cuda"] and config.device in ("auto", "cuda")):
        raise ConfigError("`strategy=fsdp` needs CUDA devices; use `strategy=ddp`")
    if not there[config.device]:
        names = ", ".join(name for name, found in there.items() if found and name != "auto")
        raise ConfigError(f'`device`: "{config.device}" cannot be used here; there is {names}')


def _require_shared_memory(config: TrainConfig) -> None:
    """Refuses worker processes where their batches do not fit in /dev/shm: they would hang without a word."""
    shared = Path("/dev/shm")
    if not config.data.workers or not shared.is_dir():
        return
    height, width = config.data.augment.crop or config.model.config.input.size
    batch = config.data.images * height * width * 3 * 4  # float32, the largest part of a batch
    need, free = 2 * config.data.workers * batch, shutil.disk_usage(shared).free
    if free < need:
        raise ConfigError(
            f"/dev/shm has {free >> 20} MB left, {config.data.workers} workers need about {need >> 20} MB: "
            "set `data.workers=0`, or give a container more (docker run --shm-size 2g)"
        )


def _start(model: SegmentationModel, config: TrainConfig, say: Callable[[str], None]) -> set[str]:
    """Gives a model its initial weights and tells which it took."""
    began = set()
    if source := config.model.backbone_weights:
        report = load_backbone(model.backbone, config.model.config.backbone, source)
        began |= {f"backbone.{name}" for name in report.taken}
        say(f"backbone from {source}: {report}")
    if config.init_from and config.init_from != "none":
        names = (config.init_modules or "").split(",")
        modules = tuple(name.strip() for name in names) if config.init_modules else None
        report = init_from(model, config.init_from, modules)
        report.missing = [name for name in report.missing if name not in began]
        began |= report.taken
        say(f"init from {config.init_from}: {report}")
    return began


def _say_random(task: SegmentationTask, began: set[str], say: Callable[[str], None]) -> None:
    """Warns where weights are frozen that nothing has given a value: they stay random."""
    frozen = {id(p) for module in task.frozen for p in module.parameters()}
    random = [name for name, p in task.model.named_parameters() if id(p) in frozen and name not in began]
    if random:
        say(
            f"warning: {len(random)} frozen weights are random ({', '.join(random[:3])}"
            f"{', …' * (len(random) > 3)}), as `freeze` names modules that neither `init_from` nor "
            "`backbone_weights` gave weights to"
        )


def _still(model: SegmentationModel, config: TrainConfig, began: set[str]) -> list[str]:
    """The batch norms that keep their statistics: those that came with weights, see `batch_norm`."""
    if config.batch_norm == "train" or (config.batch_norm == "auto" and config.data.images >= 4):
        return []
    if config.batch_norm == "frozen" and not began:
        raise ConfigError(
            "`batch_norm=frozen` needs statistics to keep: give `init_from` or `backbone_weights`"
        )
    return [name for name, _ in model.named_modules() if f"{name}.running_mean" in began]


def _silent(line: str) -> None:
    """Says nothing."""
