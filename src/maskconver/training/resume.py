"""What the folder of a run already holds: it is refused, removed, or gone on from."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ..core.files import require_content
from ..errors import CheckpointError, ConfigError, first_line
from ..models.checkpoint import read_metadata
from .config import TrainConfig
from .loader import SegmentationData
from .task import SegmentationTask


def require_no_run(config: TrainConfig, out: Path) -> None:
    """Refuses to write over another run.

    Raises:
        ConfigError: `out` holds a run that is neither continued nor replaced, or both were asked for.
    """
    own = config.resume == "auto" or (config.resume and Path(config.resume).resolve().parent == out.resolve())
    if own and config.overwrite:
        raise ConfigError(
            f"`resume={config.resume}` continues a run and `overwrite` starts it again; give only one of them"
        )
    if own or config.overwrite:
        return
    if any((out / name).exists() for name in ("last.ckpt", "best.safetensors", "last.safetensors")):
        raise ConfigError(
            f"{out} already holds a run; continue it with `resume=auto`, choose another `out`, "
            "or replace it with `overwrite=true`"
        )


def remove_run(out: Path) -> None:
    """Removes what a run wrote, so that its best model and its curve are not taken for the new one's."""
    names = "last.ckpt", "last.safetensors", "best.safetensors", "curve.jsonl", "report.html"
    patterns = "metrics_before_*.csv", "images/step_*.jpg", "images/batch_*.jpg", "events.out.tfevents.*"
    for pattern in (*names, *patterns):
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)


def checkpoint_of(config: TrainConfig, out: Path) -> str | None:
    """The checkpoint from which a run goes on; None for a new run.

    Raises:
        ConfigError: `resume` names a file that does not exist.
    """
    if config.resume == "auto":
        path = out / "last.ckpt"
        return str(path) if path.is_file() else None
    if config.resume and not Path(config.resume).is_file():
        raise ConfigError(f'`resume={config.resume}`: no such checkpoint; "auto" takes {out / "last.ckpt"}')
    return config.resume


def go_on(checkpoint: str, task: SegmentationTask, data: SegmentationData, *, first: bool) -> None:
    """Has task and data go on where a checkpoint of the run was written.

    Args:
        checkpoint: a `last.ckpt`.
        task: gets the step and the number of images that were seen.
        data: goes on after these images.
        first: whether this process writes the figures; it keeps those until here under another name.

    Raises:
        CheckpointError: the file is damaged, or is of another recipe or other categories.
        ConfigError: the run has done all its steps.
    """
    config = task.config
    step, seen = _check_resumable(checkpoint, task, data.categories.to_json(), config)
    data.go_on(seen, (config.steps - step) * config.step_images)
    task.began = step, seen
    task.last_checkpoint = f"{checkpoint} (step {step})"
    figures = Path(config.out) / "metrics.csv"
    if first and figures.exists():  # Lightning's logger deletes it
        figures.replace(figures.with_name(f"metrics_before_{step}.csv"))


def _check_resumable(
    checkpoint: str, task: SegmentationTask, categories: list[dict[str, Any]], config: TrainConfig
) -> tuple[int, int]:
    """The step of a checkpoint that this run can go on from, and how many images were seen until then."""
    require_content(checkpoint)
    try:
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        step, theirs = int(state["global_step"]), {k: v.shape for k, v in state["state_dict"].items()}
    except (
        RuntimeError,
        OSError,
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(
            f"{checkpoint} is damaged or not a checkpoint of a run ({first_line(error)}); "
            "start from a model file instead: `init_from`"
        ) from error
    if _meaning(state.get("categories")) != _meaning(categories):
        raise CheckpointError(
            f"{checkpoint} was trained on other categories than {config.data.data} has; "
            "start a new run from its model instead: `init_from=RUN` `out=NEW_RUN`"
        )
    own = {k: v.shape for k, v in task.state_dict().items()}
    other = [k for k in own | theirs if own.get(k) != theirs.get(k)]
    if other:
        raise CheckpointError(
            f"{checkpoint} was trained with other options than this run's: {len(other)} weights are only in "
            f"one or of another shape ({', '.join(other[:3])}); resume with those in its recipe.yaml, or "
            "start a new run from its model: `init_from=RUN` `out=NEW_RUN`"
        )
    still = bool(state.get("still"))
    if (config.batch_norm == "train" and still) or (config.batch_norm == "frozen" and not still):
        raise CheckpointError(
            f"{checkpoint} was trained with {'some' if still else 'no'} batch norms kept still, not as "
            f"`batch_norm={config.batch_norm}`; resume with the one in its recipe.yaml, or start a new run "
            "from its model: `init_from=RUN` `out=NEW_RUN`"
        )
    restored = state["optimizer_states"][0]["param_groups"]
    if [_shape(group) for group in task.optimizer(1.0).param_groups] != [_shape(group) for group in restored]:
        raise CheckpointError(
            f"{checkpoint} was trained with another optimizer, other groups of parameters or other weights "
            "frozen (`optim.name`, `optim.backbone_lr`, `optim.decay`, `freeze`, `freeze_steps`); resume "
            "with those in its recipe.yaml, or start a new run from its model: `init_from=RUN` `out=NEW_RUN`"
        )
    # A run that was broken off in its last validation has done all steps, but has still to write its model.
    if step > config.steps or (step == config.steps and _written(Path(checkpoint).parent) == step):
        raise ConfigError(
            f"{checkpoint} has already done all {config.steps} steps; raise `steps` to continue"
        )
    return step, int(state.get("seen", step * config.step_images))


def _written(run: Path) -> int | None:
    """The step of the model that a run wrote last."""
    try:
        return int(read_metadata(run / "last.safetensors")["extra"]["step"])
    except (CheckpointError, OSError, LookupError, TypeError, ValueError):
        return None


def _shape(group: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Of a group of parameters how many it has, and the names of its options."""
    return len(group["params"]), tuple(sorted(group.keys() - {"params", "initial_lr"}))


def _meaning(categories: Any) -> list[tuple[Any, ...]]:
    """Ids, names and kinds in label order: colours do not matter."""
    return [(c["id"], c["name"], c["isthing"]) for c in categories or ()]
