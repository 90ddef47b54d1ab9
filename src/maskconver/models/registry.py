"""One registry, one way to make a model: a registered name is a function that returns a config."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, TypeVar

import msgspec

from ..core.categories import Categories
from ..errors import ConfigError
from .kmax import KMaXConfig, KMaXDeepLab
from .maskconver import MaskConver, MaskConverConfig, MultiScaleConfig, MultiScaleMaskConver

Config = MaskConverConfig | MultiScaleConfig | KMaXConfig
CenterModel = MaskConver | MultiScaleMaskConver  # what finds regions as centre points
Model = CenterModel | KMaXDeepLab
ConfigFunction = Callable[[], Config]
T = TypeVar("T")
# The kinds of models by the name they have in model files: config and network.
KINDS: dict[str, tuple[Any, Any]] = {
    "maskconver": (MaskConverConfig, MaskConver),
    "maskconver_multiscale": (MultiScaleConfig, MultiScaleMaskConver),
    "kmax": (KMaXConfig, KMaXDeepLab),
}
_CLASS_SHAPED = re.compile(
    r"class_head\.(\d+\.)?out\.(weight|bias)|class_embedding\.weight"
    r"|decoder\.(layers\.\d+\.)?(predictor\.class_head|gate\.branch\.out)\.(weight|bias)"
    r"|semantic_head\.(out|2)\.(weight|bias)"
)
_REGISTRY: dict[str, ConfigFunction] = {}
_FIGURES: dict[str, tuple[str, str]] = {}  # published, ours


def register_model(published: str = "", ours: str = "") -> Callable[[ConfigFunction], ConfigFunction]:
    """Registers a function without arguments that returns a model's config, under the function's name.

    Args:
        published: the figure in the literature, e.g. `COCO PQ 29.7`.
        ours: what this package's own training reached, with the data; docs/results.md says how.
    """

    def register(function: ConfigFunction) -> ConfigFunction:
        _REGISTRY[function.__name__] = function
        _FIGURES[function.__name__] = published, ours
        return function

    return register


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted."""
    return sorted(name for name in _REGISTRY if fnmatch(name, pattern))


def kind_of(config: Config) -> str:
    """The name of a config's kind of model."""
    return next(kind for kind, (config_type, _) in KINDS.items() if type(config) is config_type)


def build_model(
    config: Config, num_classes: int, categories: Categories | None = None, name: str = ""
) -> Model:
    """The network of a config, with random weights.

    Raises:
        ConfigError: no classes, or a config that no network can have.
    """
    if num_classes < 1:
        raise ConfigError(f"a model of {num_classes} classes is not possible; give 1 or more")
    model: Model = KINDS[kind_of(config)][1](config, num_classes, categories, name)
    return model


def is_class_shaped(parameter: str) -> bool:
    """Whether the first dimension of a parameter of that name counts classes (kMaX: "no object" too)."""
    return _CLASS_SHAPED.fullmatch(parameter) is not None


def model_config(name: str) -> Config:
    """A fresh config of a registered model.

    Raises:
        ConfigError: no such name; the nearest ones are named.
    """
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(list_models())}"
        raise ConfigError(f'no model "{name}"{hint}')
    return _REGISTRY[name]()


def model_description(name: str) -> tuple[str, str, str]:
    """The first line of a registered model's docstring, its published figure and ours ("" for none).

    Raises:
        ConfigError: no such name.
    """
    model_config(name)
    return (_REGISTRY[name].__doc__ or "").strip().split("\n")[0], *_FIGURES[name]


def override(config: T, values: dict[str, Any]) -> T:
    """A copy of a dataclass with some fields replaced; nested dataclasses take a dict or dotted names.

    Raises:
        ConfigError: a field that does not exist.
    """
    names = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        first, _, rest = key.partition(".")
        if first not in names:
            near = difflib.get_close_matches(first, names, n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ConfigError(
                f'{type(config).__name__} has no field "{first}"; {hint}It has {", ".join(sorted(names))}'
            )
        current = changes.get(first, getattr(config, first))
        if rest:
            value = override(current, {rest: value})
        elif dataclasses.is_dataclass(current) and isinstance(value, dict):
            value = override(current, value)
        elif isinstance(current, tuple) and isinstance(value, list):
            value = tuple(value)
        changes[first] = value
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def create_model(
    name: str, *, categories: Categories | None = None, num_classes: int | None = None, **overrides: Any
) -> Model:
    """A model with random weights by its registered name.

    Args:
        name: one of `list_models()`.
        categories: the label set; COCO's 133 where neither this nor `num_classes` is given.
        num_classes: number of classes where there are no categories.
        **overrides: any field of the model's config, e.g. `proposals=20`, `postprocess={"min_area": 0}`.

    Raises:
        ConfigError: an unknown name or field, a value that the field cannot have, or categories and
            num_classes that disagree.
    """
    config = override(model_config(name), overrides)
    try:
        config = msgspec.convert(msgspec.to_builtins(config), type(config))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{type(config).__name__}: {str(error).replace('$.', '')}") from error
    if categories is None and num_classes is None:
        categories = Categories.coco()
    return build_model(config, num_classes or len(categories or ()), categories, name)
