"""Model files: weights, config and categories in one safetensors file; and importers of published weights."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .categories import Categories
from .errors import CheckpointError, MaskconverError
from .files import atomic_path
from .models.maskconver import MaskConver, MaskConverConfig

FORMAT = 1  # raised when files of an older package can no longer be read as they are
WEIGHTS = Path(__file__).parent / "weights"


def save(
    model: MaskConver,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes weights, config and categories to one safetensors file, whole or not at all.

    Args:
        model: what to save.
        path: ends in `.safetensors`.
        dtype: floating-point weights are stored as this (`torch.float16` halves the file).
        extra: anything JSON can hold, kept beside the config (recipe, metrics).

    Raises:
        OSError: the file cannot be written; an older one stays as it was.
    """
    tensors = {
        k: (v.detach().to(dtype) if dtype and v.is_floating_point() else v.detach()).cpu().contiguous()
        for k, v in model.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    meta = {
        "format": FORMAT,
        "model": model.name,
        "num_classes": model.num_classes,
        "config": dataclasses.asdict(model.config),
        "categories": model.categories.to_json() if model.categories else None,
        "extra": dict(extra or {}),
    }
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"maskconver": json.dumps(meta)})
    except SafetensorError as error:  # safetensors wraps the operating system's error
        raise OSError(f"cannot write {path}: {error}") from error


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file behind a bundled name or a path.

    Raises:
        CheckpointError: neither a file nor a bundled model.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir() and (path / "best.safetensors").is_file():
        return path / "best.safetensors"
    bundled = WEIGHTS / f"{name_or_path}.safetensors"
    if bundled.is_file():
        return bundled
    names = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))) or "none"
    raise CheckpointError(
        f'no model file "{name_or_path}", and no bundled model of that name (bundled: {names})'
    )


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON a model file carries: format, model, num_classes, config, categories, extra.

    Raises:
        CheckpointError: not a model file of this package, damaged, or of another version.
    """
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
        meta: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged config ({error})") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a model file of format {meta.get('format')}, this version reads format {FORMAT}; "
            "use the maskconver version that wrote it, or train again with --init-from"
        )
    return meta


def load(name_or_path: str | os.PathLike[str], device: torch.device | str = "cpu") -> MaskConver:
    """A model from its file, in evaluation mode and float32. Never executes code from the file.

    Args:
        name_or_path: a `.safetensors` file, a run's folder (its best model) or a bundled name.
        device: where to put it.

    Raises:
        CheckpointError: no such file, not a model of this package, or weights that do not fit its config.
    """
    path = find(name_or_path)
    meta = read_metadata(path)
    try:
        config = msgspec.convert(meta["config"], MaskConverConfig)
        categories = Categories.from_json(meta["categories"]) if meta["categories"] else None
        model = MaskConver(config, meta["num_classes"], categories, meta["model"])
    except (KeyError, TypeError, msgspec.ValidationError, MaskconverError) as error:
        raise CheckpointError(f"{path} has a config this version does not understand: {error}") from error
    state = read_tensors(path)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit its config: {len(missing)} tensors missing, {len(unexpected)} unexpected"
        )
    return model.to(device).eval()


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a safetensors file, floating point as float32."""
    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


@dataclass
class InitReport:
    """What `init_from` did, tensor names in the model's own naming.

    Attributes:
        taken: tensors copied whole.
        by_category: class-shaped tensors of which rows were copied by category name, and how many rows.
        fresh: tensors left at their random start (not in the file, another shape, or not among the modules).
    """

    taken: list[str]
    by_category: dict[str, int]
    fresh: list[str]

    def __str__(self) -> str:
        rows = "".join(f"; {n} of the classes in {k}" for k, n in self.by_category.items())
        return f"{len(self.taken)} tensors taken, {len(self.fresh)} new{rows}"


def init_from(
    model: MaskConver, name_or_path: str | os.PathLike[str], modules: tuple[str, ...] | None = None
) -> InitReport:
    """Starts a model from another's weights; class-shaped tensors are matched by category name.

    Args:
        model: changed in place.
        name_or_path: as in `load`.
        modules: only these top-level modules (`backbone`, `decoder`, …); None for all.

    Raises:
        CheckpointError: no such file, or nothing in it fits.
    """
    path = find(name_or_path)
    source, own = read_tensors(path), model.state_dict()
    names = [row["name"] for row in read_metadata(path)["categories"] or []]
    target_names = list(model.categories.names) if model.categories else []
    pairs = [(i, names.index(n)) for i, n in enumerate(target_names) if n in names]
    report = InitReport([], {}, [])
    class_shaped = ("class_head.out.weight", "class_head.out.bias", "class_embedding.weight")
    if modules:
        known = {name for name, _ in model.named_children()}
        if wrong := set(modules) - known:
            raise CheckpointError(
                f"no module {', '.join(sorted(wrong))} to initialise; there are {', '.join(sorted(known))}"
            )
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            continue
        theirs = source.get(key)
        if theirs is None or (modules and key.split(".")[0] not in modules):
            report.fresh.append(key)
        elif key in class_shaped and names and target_names and value.shape[1:] == theirs.shape[1:]:
            for mine, other in pairs:
                value[mine] = theirs[other].to(value)
            report.by_category[key] = len(pairs)
        elif value.shape == theirs.shape:
            value.copy_(theirs)
            report.taken.append(key)
        else:
            report.fresh.append(key)
    if not report.taken:
        raise CheckpointError(f"nothing in {path} fits this model; is it of the same family and size?")
    return report


_LEAVES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "embeddings": "weight",
}
# Reference page §10: checkpoint key → canonical name, by position where the reference numbers its layers.
_CHECKPOINT_PARTS = (
    (r"^backbone/layer_with_weights-0/_conv0", "backbone.block0.conv"),
    (r"^backbone/layer_with_weights-0/_norm0", "backbone.block0.bn"),
    (r"^backbone/layer_with_weights-17/_conv0", "backbone.block17.conv"),
    (r"^backbone/layer_with_weights-17/_norm0", "backbone.block17.bn"),
    (r"^backbone/layer_with_weights-18/_conv0", "backbone.block19.conv"),
    (r"^backbone/layer_with_weights-18/_norm0", "backbone.block19.bn"),
    (r"^backbone/layer_with_weights-(\d+)/_conv0", r"backbone.block\1.expand"),
    (r"^backbone/layer_with_weights-(\d+)/_norm0", r"backbone.block\1.expand_bn"),
    (r"^backbone/layer_with_weights-(\d+)/_conv1", r"backbone.block\1.dw"),
    (r"^backbone/layer_with_weights-(\d+)/_norm1", r"backbone.block\1.dw_bn"),
    (r"^backbone/layer_with_weights-(\d+)/_conv2", r"backbone.block\1.project"),
    (r"^backbone/layer_with_weights-(\d+)/_norm2", r"backbone.block\1.project_bn"),
    (r"^decoder/aspp/aspp_layers/0/layer_with_weights-0", "decoder.branch0.conv"),
    (r"^decoder/aspp/aspp_layers/0/layer_with_weights-1", "decoder.branch0.bn"),
    (r"^decoder/aspp/aspp_layers/4/layer_with_weights-0/layer_with_weights-0", "decoder.pool.conv"),
    (r"^decoder/aspp/aspp_layers/4/layer_with_weights-0/layer_with_weights-1", "decoder.pool.bn"),
    (r"^decoder/aspp/aspp_layers/(\d)/layer_with_weights-0", r"decoder.branch\1.dw"),
    (r"^decoder/aspp/aspp_layers/(\d)/layer_with_weights-1", r"decoder.branch\1.conv"),
    (r"^decoder/aspp/aspp_layers/(\d)/layer_with_weights-2", r"decoder.branch\1.bn"),
    (r"^decoder/aspp/projection/layer_with_weights-0", "decoder.project.conv"),
    (r"^decoder/aspp/projection/layer_with_weights-1", "decoder.project.bn"),
    (r"^per_pixel_embeddings_head/", "mask_head/"),
    (r"^mlp/dense/0", "mlp.fc1"),
    (r"^mlp/norms/0", "mlp.ln"),
    (r"^mlp/dense/1", "mlp.fc2"),
    (r"^class_embeddings/", "class_embedding/"),
)
_HEAD_PARTS = (
    ("/_dlv3p_conv", ".lowlevel.conv"),
    ("/_dlv3p_norm", ".lowlevel.bn"),
    ("/_classifier", ".out"),
)


def canonical_name(key: str) -> str:
    """The canonical variable name (reference page §10) of a canonical name or a TensorFlow checkpoint key."""
    key = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").removeprefix("model/")
    for pattern, name in _CHECKPOINT_PARTS:
        key, count = re.subn(pattern, name, key)
        if count:
            break
    for part, name in _HEAD_PARTS:
        key = key.replace(part, name)
    for kind, short in (("_convs", ""), ("_norms", ".norm")):
        if match := re.search(rf"/{kind}/(\d+)", key):
            index = int(match[1])
            key = key.replace(match[0], f"{short}.{'pw' if index % 2 else 'dw'}.{index // 2}")
    return key.replace("/", ".")


def _own_name(canonical: str) -> str:
    """This package's parameter name of a canonical variable name."""
    stem, leaf = canonical.rsplit(".", 1)
    stem = re.sub(r"^decoder\.branch([123])\.dw$", lambda m: f"decoder.atrous.{int(m[1]) - 1}.dw", stem)
    stem = re.sub(
        r"^decoder\.branch([123])\.(conv|bn)$", lambda m: f"decoder.atrous.{int(m[1]) - 1}.pw.{m[2]}", stem
    )
    return f"{stem}.{_LEAVES.get(leaf, leaf)}"


def _own_layout(canonical: str, value: NDArray[Any]) -> NDArray[Any]:
    """TensorFlow's (kh, kw, in, out), (kh, kw, C, 1) and (in, out) as PyTorch has them."""
    if canonical.endswith(".depthwise_kernel"):
        return value.transpose(2, 3, 0, 1)
    if canonical.endswith(".kernel"):
        return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return value


def import_model_garden(model: MaskConver, variables: Mapping[str, NDArray[Any]]) -> None:
    """Loads variables of the TensorFlow reference into a single-scale MaskConver.

    The reference's channels are raw category ids with 0 for void. A model with categories takes the rows of
    its category ids; one made with `num_classes` equal to the file's takes all.

    Args:
        model: changed in place.
        variables: arrays in TensorFlow layout by canonical name or checkpoint key (reference page §10). Block
            19 of the backbone, which nothing uses, is ignored.

    Raises:
        CheckpointError: a variable is missing, unknown or of another shape; the first ones are named.
    """
    own = model.state_dict()
    loaded: dict[str, Tensor] = {}
    ids = model.categories.ids if model.categories else None
    for key, value in variables.items():
        canonical = canonical_name(key)
        if canonical.startswith("backbone.block19."):
            continue
        name = _own_name(canonical)
        if name not in own:
            raise CheckpointError(f'variable "{key}" ({name}) has no place in {model.name or "this model"}')
        array = _own_layout(canonical, np.asarray(value, np.float32))
        class_shaped = name in ("class_head.out.weight", "class_head.out.bias", "class_embedding.weight")
        if class_shaped and ids is not None and len(array) != model.num_classes:
            if ids.max() >= len(array):
                raise CheckpointError(
                    f'"{key}" has {len(array)} classes, but the categories go up to id {ids.max()}'
                )
            array = array[ids]
        if array.shape != tuple(own[name].shape):
            raise CheckpointError(f'"{key}" has shape {array.shape}, {name} needs {tuple(own[name].shape)}')
        loaded[name] = torch.from_numpy(np.ascontiguousarray(array))
    missing = [k for k in own if k not in loaded and not k.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(f"{len(missing)} variables are missing, first {', '.join(missing[:3])}")
    model.load_state_dict(loaded, strict=False)
