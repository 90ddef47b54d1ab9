"""Model files: weights, config and categories in one safetensors file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..core.categories import Categories
from ..core.config import renamed
from ..core.files import WEIGHTS, atomic_path, require_content
from ..errors import CheckpointError, ConfigError, MaskconverError, first_line
from . import hub
from .base import SegmentationModel
from .optimize import InferenceModel
from .registry import build_model, family_of_kind, kind_of

FORMAT = 1  # raised when files of an older package can no longer be read as they are
FIRST_KIND = "maskconver"  # of files, the bundled nuclei among them, that do not name theirs
_CONTAINERS = ("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema")
COUNTER = "num_batches_tracked"  # of batch norms; nothing uses it and no file has it


def save(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes weights, config and categories to one safetensors file, completely or not at all.

    Example:
        >>> import maskconver as mc
        >>> mc.save(mc.load("nuclei"), "copy.safetensors")
        >>> mc.load("copy.safetensors").categories[0].name
        'nucleus'

    Args:
        model: what to save.
        path: ends in `.safetensors`.
        dtype: floating-point weights are stored as this (`torch.float16` halves the file).
        extra: anything JSON can hold, kept beside the config (recipe, metrics).

    Raises:
        ConfigError: a copy for inference (`optimized()`), whose weights no model takes.
        OSError: the file cannot be written; an older one stays as it was.
    """
    if isinstance(model, InferenceModel):
        raise ConfigError("this is a copy for inference (optimized()); save the model it was made from")
    tensors = {
        k: (v.detach().to(dtype) if dtype and v.is_floating_point() else v.detach()).cpu().contiguous()
        for k, v in weights_of(model).items()
    }
    meta = {
        "format": FORMAT,
        "kind": kind_of(model.config),
        "model": model.name,
        "num_classes": model.num_classes,
        "config": dataclasses.asdict(model.config),
        "categories": model.categories.to_json() if model.categories else None,
        "extra": dict(extra or {}),
    }
    try:
        with atomic_path(path, sync=True) as temporary:
            save_file(tensors, temporary, metadata={"maskconver": json.dumps(meta)})
    except SafetensorError as error:  # safetensors wraps the operating system's error
        raise OSError(f"cannot write {path}: {error}") from error


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file behind a path, a bundled name or a repository of the Hugging Face Hub.

    Raises:
        CheckpointError: none of them.
    """
    path = Path(name_or_path)
    if path.is_file():
        require_content(path)
        return path
    for name in ("best.safetensors", hub.FILE, "last.safetensors"):
        if (path / name).is_file():
            return path / name
    if (path / "last.ckpt").is_file():
        raise CheckpointError(
            f"{path} is a run that was stopped before its first validation, so it has no model yet; "
            "continue it with `maskconver train … --resume auto`"
        )
    bundled = WEIGHTS / f"{name_or_path}.safetensors"
    if bundled.is_file():
        return bundled
    if hub.is_repository(name_or_path):
        return hub.download(os.fspath(name_or_path))
    names = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))) or "none"
    raise CheckpointError(
        f'no model file "{name_or_path}", and no bundled model of that name (bundled: {names})'
    )


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON a model file carries: format, model, num_classes, config, categories, extra.

    Raises:
        CheckpointError: not a model file of this package, damaged, or of another version.
    """
    require_content(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("maskconver")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); save the model again"
        ) from error
    if text is None:
        raise CheckpointError(
            f"{path} holds weights but no maskconver config; it was not saved by maskconver.save"
        )
    try:
        meta: dict[str, Any] = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged config ({error})") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a model file of format {meta.get('format')}, this version reads format {FORMAT}; "
            "use the maskconver version that wrote it, or train again with `init_from`"
        )
    return meta


def load(name_or_path: str | os.PathLike[str], device: torch.device | str = "cpu") -> SegmentationModel:
    """A model from its file, in evaluation mode and float32. Never executes code from the file.

    Example:
        >>> import maskconver as mc
        >>> mc.load("nuclei").num_classes
        2

    Args:
        name_or_path: a `.safetensors` file, a run's folder (its best model), a bundled name, or a repository
            of the Hugging Face Hub, `user/name`.
        device: where to put it.

    Raises:
        CheckpointError: no such file, not a model of this package, or weights that do not fit its config.
    """
    path = find(name_or_path)
    meta = read_metadata(path)
    try:
        kind = meta.get("kind", FIRST_KIND)
        family = family_of_kind(kind)
        values = family.upgrade({"model": renamed(meta["config"])})["model"]
        config = msgspec.convert(values, family.kinds[kind][0])
        categories = Categories.from_json(meta["categories"]) if meta["categories"] else None
        with torch.device("meta"):  # no time for random weights that are replaced at once
            model = build_model(config, meta["num_classes"], categories, name=meta["model"])
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError, MaskconverError) as error:
        raise CheckpointError(f"{path} has a config this version does not understand: {error}") from error
    state, own = read_state(path), weights_of(model)
    counters = {k: torch.zeros((), dtype=torch.long) for k in model.state_dict() if k not in own}
    missing = len(own.keys() - state.keys())
    unexpected = len(state.keys() - own.keys())
    mismatched = sum(k in own and own[k].shape != v.shape for k, v in state.items())
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"{path} does not fit its config: {missing} tensors missing, {unexpected} unexpected, "
            f"{mismatched} of another shape"
        )
    # The file may be replaced while the model lives: the weights must not be views of it.
    model.load_state_dict({**counters, **{k: v.clone() for k, v in state.items()}}, assign=True)
    return model.to(device).eval()


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module without the counters of batch norms, which nothing uses."""
    return {k: v for k, v in module.state_dict().items() if not k.endswith(COUNTER)}


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, floating point as float32, without batch norms' counters.

    Args:
        path: a safetensors file, or a pickle of tensors as torch.save writes it, also under `state_dict`,
            `model` or the like. No code of a pickle is executed.

    Raises:
        CheckpointError: no such file, not readable, or without tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'no file "{path}" of weights')
    require_content(path)
    try:
        with path.open("rb") as file:
            safe = file.read(9)[8:] == b"{"  # the JSON of a safetensors file comes after its length
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path} cannot be read as weights ({first_line(error)}); "
            "save the state_dict alone, best as safetensors"
        ) from error
    for container in _CONTAINERS:
        if isinstance(state, Mapping) and isinstance(state.get(container), Mapping):
            state = state[container]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name; save the state_dict alone")
    return {
        k: v.float() if v.is_floating_point() else v for k, v in tensors.items() if not k.endswith(COUNTER)
    }


@dataclass
class LoadReport:
    """What became of tensors that were loaded, by name.

    Attributes:
        loaded: taken as they are.
        adapted: taken in part, and how: first convolutions of other image channels, or rows of classes.
        missing: of the model, not in the weights, or not among the modules that were asked for; they keep
            their random start.
        mismatched: of another shape; they keep their random start.
        unexpected: in the weights, not in the model (a classifier, for instance).
    """

    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def taken(self) -> set[str]:
        """The tensors that have a value from the weights, in whole or in part."""
        return {*self.loaded, *self.adapted}

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.adapted:
            how = ", ".join(f"{name} ({text})" for name, text in list(self.adapted.items())[:3])
            parts.append(f"{len(self.adapted)} adapted: {how}{', …' * (len(self.adapted) > 3)}")
        for keys, what in (
            (self.missing, "begin at random"),
            (self.unexpected, "unexpected"),
            (self.mismatched, "mismatched"),
        ):
            if keys:
                parts.append(f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' * (len(keys) > 3)})")
        return "; ".join(parts)


def init_from(
    model: SegmentationModel, name_or_path: str | os.PathLike[str], modules: tuple[str, ...] | None = None
) -> LoadReport:
    """Starts a model from another's weights; class-shaped tensors are matched by category name.

    Args:
        model: changed in place.
        name_or_path: as in `load`.
        modules: only these modules (`backbone`, `decoder`, `decoder.unet`, …); None for all.

    Raises:
        CheckpointError: no such file, or nothing in it fits.
    """
    path = find(name_or_path)
    source, own = read_state(path), weights_of(model)
    names = [row["name"] for row in read_metadata(path)["categories"] or []]
    target_names = list(model.categories.names) if model.categories else []
    pairs = [(i, names.index(n)) for i, n in enumerate(target_names) if n in names]
    report = LoadReport(unexpected=sorted(source.keys() - own.keys()))
    if modules:
        known = {name for name, _ in model.named_modules()}
        if wrong := set(modules) - known:
            children = ", ".join(sorted(name for name, _ in model.named_children()))
            raise CheckpointError(
                f"no module {', '.join(sorted(wrong))} to initialise; there are {children} and their parts"
            )
    for key, value in own.items():
        theirs = source.get(key)
        if theirs is None or (modules and not key.startswith(tuple(f"{m}." for m in modules))):
            report.missing.append(key)
        elif (
            model.family.is_class_shaped(key)
            and names
            and target_names
            and value.shape[1:] == theirs.shape[1:]
        ):
            for mine, other in pairs:
                value[mine] = theirs[other].to(value)
            no_object = len(value) > len(target_names) and len(theirs) > len(names)  # the last row of both
            if no_object:
                value[-1] = theirs[-1].to(value)
            if pairs or no_object:
                report.adapted[key] = f"{len(pairs)} classes by name"
            else:
                report.missing.append(key)
        elif value.shape == theirs.shape:
            value.copy_(theirs)
            report.loaded.append(key)
        elif key.startswith("backbone.") and (adapted := other_channels(theirs, value)) is not None:
            value.copy_(adapted)
            report.adapted[key] = f"of {value.shape[1]} image channels"
        else:
            report.mismatched.append(key)
    if not modules and not report.loaded:
        raise CheckpointError(f"nothing in {path} fits this model; is it of the same family and size?")
    for module in modules or ():
        if not any(key.startswith(f"{module}.") for key in report.taken):
            raise CheckpointError(
                f"nothing in {path} fits the module {module} of this model; leave it out of `init_modules`, "
                "or start from random weights: `init_from=none`"
            )
    return report


def other_channels(theirs: Tensor, own: Tensor) -> Tensor | None:
    """A first convolution of colour images for those of `own`: summed for one channel, repeated for more.

    Args:
        theirs: N×3×k×k.
        own: N×C×k×k, for its shape.

    Returns:
        N×C×k×k, with the sum over the channels kept; None where `theirs` has another shape.
    """
    if own.dim() != 4 or theirs.dim() != 4 or theirs.shape[1] != 3:
        return None
    n, channels = own.shape[:2]
    if (n, *own.shape[2:]) != (theirs.shape[0], *theirs.shape[2:]):
        return None
    if channels == 1:
        return theirs.sum(1, keepdim=True)
    return theirs.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
