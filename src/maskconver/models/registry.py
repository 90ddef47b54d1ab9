"""One registry, one way to make a model: a registered name is a function that returns a config."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

import msgspec

from ..core.categories import Categories
from ..errors import ConfigError
from .base import Family, SegmentationModel

ConfigFunction = Callable[[], Any]
F = TypeVar("F", bound=ConfigFunction)
T = TypeVar("T")
_FAMILIES: dict[str, Family] = {}
_MODELS: dict[str, _Registered] = {}


class _Registered(NamedTuple):
    """What `register_model` was given."""

    config: ConfigFunction
    published: str
    ours: str
    loss: Callable[[], Any] | None
    training: Callable[[], Any] | None


def register_family(family: Family) -> Family:
    """Makes a family known: its models can be registered, made, saved and loaded from then on.

    Raises:
        ConfigError: one of its kinds belongs to another family already.
    """
    for kind, (_, network) in family.kinds.items():
        others = [f.name for f in _FAMILIES.values() if kind in f.kinds and f.name != family.name]
        if others:
            raise ConfigError(f'the kind of model "{kind}" is of the family {others[0]}; choose another name')
        network.family = family
    _FAMILIES[family.name] = family
    return family


def families() -> tuple[Family, ...]:
    """All registered families."""
    return tuple(_FAMILIES.values())


def family_of(config: Any) -> Family:
    """The family of a model's config.

    Raises:
        ConfigError: a config of no registered family.
    """
    return _kind(config)[0]


def kind_of(config: Any) -> str:
    """The name that model files have for a config's kind of model.

    Raises:
        ConfigError: a config of no registered family.
    """
    return _kind(config)[1]


def _kind(config: Any) -> tuple[Family, str]:
    for family in _FAMILIES.values():
        for kind, (config_type, _) in family.kinds.items():
            if type(config) is config_type:
                return family, kind
    raise ConfigError(f"{type(config).__name__} is the config of no registered family of models")


def family_of_kind(kind: str) -> Family:
    """The family of a kind of model, by the name it has in model files.

    Raises:
        ConfigError: no registered family has such models.
    """
    for family in _FAMILIES.values():
        if kind in family.kinds:
            return family
    known = ", ".join(kind for family in _FAMILIES.values() for kind in family.kinds)
    raise ConfigError(f'no kind of model "{kind}"; there are {known}')


def register_model(
    published: str = "",
    ours: str = "",
    *,
    loss: Callable[[], Any] | None = None,
    training: Callable[[], Any] | None = None,
) -> Callable[[F], F]:
    """Registers a function without arguments that returns a model's config, under the function's name.

    Args:
        published: the figure in the literature, e.g. `COCO PQ 29.7`.
        ours: what this package's own training reached, with the data; docs/results.md says how.
        loss: a function without arguments that returns the loss config it is trained with; its family's
            defaults where None.
        training: a function without arguments that returns the network's training-only options, a dataclass
            that the network takes as `training`; None if there are none.
    """

    def register(function: F) -> F:
        _MODELS[function.__name__] = _Registered(function, published, ours, loss, training)
        return function

    return register


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted.

    Example:
        >>> import maskconver as mc
        >>> mc.list_models("remax_?")
        ['remax_b', 'remax_m', 'remax_s', 'remax_t']
    """
    return sorted(name for name in _MODELS if fnmatch(name, pattern))


def build_model(
    config: Any,
    num_classes: int,
    categories: Categories | None = None,
    *,
    name: str = "",
    training: Any = None,
) -> SegmentationModel:
    """The network of a config, with random weights.

    Args:
        config: the architecture.
        num_classes: things and stuff together.
        categories: the label set, where there is one.
        name: a registered name, kept in model files.
        training: options that only training uses, see `model_training`; without them there is no stochastic
            depth.

    Raises:
        ConfigError: no classes, or a config that no network can have.
    """
    family, kind = _kind(config)
    more = {} if training is None else {"training": training}
    return family.kinds[kind][1](config, num_classes, categories, name=name, **more)


def model_config(name: str) -> Any:
    """A fresh config of a registered model.

    Raises:
        ConfigError: no such name; the nearest ones are named.
    """
    return _registered(name).config()


def _registered(name: str) -> _Registered:
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(list_models())}"
        raise ConfigError(f'no model "{name}"{hint}')
    return _MODELS[name]


def model_loss(name: str) -> Any:
    """A fresh config of the losses that a registered model is trained with.

    Raises:
        ConfigError: no such name.
    """
    own = _registered(name)
    return (own.loss or family_of(own.config()).loss)()


def model_training(name: str) -> Any:
    """A fresh config of the training-only options of a registered model's network; None if there are none.

    Raises:
        ConfigError: no such name.
    """
    own = _registered(name)
    return own.training() if own.training else None


def model_description(name: str) -> tuple[str, str, str]:
    """The first line of a registered model's docstring, its published figure and ours ("" for none).

    Raises:
        ConfigError: no such name.
    """
    own = _registered(name)
    return (own.config.__doc__ or "").strip().split("\n")[0], own.published, own.ours


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
        elif isinstance(value, dict) and (nested := _nested(config, first)):
            value = override(nested(), value)
        elif isinstance(current, tuple) and isinstance(value, list):
            value = tuple(value)
        changes[first] = value
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _nested(config: Any, name: str) -> type[Any] | None:
    """The dataclass that an optional field may hold."""
    kinds = get_args(get_type_hints(type(config))[name])
    return next((k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)), None)


def changed(config: T, values: dict[str, Any]) -> T:
    """`override`, with a look at whether every field can have its value.

    A config with a method `following` gets what follows from the change: it is called with the old config.

    Raises:
        ConfigError: a field that does not exist, or a value that it cannot have.
    """
    new = override(config, values)
    try:
        new = msgspec.convert(msgspec.to_builtins(new), type(config))
        follow: Callable[[T], T] | None = getattr(new, "following", None)
        return follow(config) if follow else new
    except msgspec.ValidationError as error:
        raise ConfigError(f"{type(config).__name__}: {str(error).replace('$.', '')}") from error


def create_model(
    name: str,
    *,
    categories: Categories | None = None,
    num_classes: int | None = None,
    training: dict[str, Any] | None = None,
    **overrides: Any,
) -> SegmentationModel:
    """A model with random weights by its registered name.

    Example:
        >>> import maskconver as mc
        >>> mc.create_model("maskconver_mobile_256", num_classes=3, proposals=20).config.proposals
        20

    Args:
        name: one of `list_models()`.
        categories: the label set; COCO's 133 where neither this nor `num_classes` is given.
        num_classes: number of classes where there are no categories.
        training: options that only training uses, where they differ from the registered values, e.g.
            `{"drop_path": 0}`.
        **overrides: any field of the model's config, e.g. `proposals=20`, `postprocess={"min_area": 0}`.

    Raises:
        ConfigError: an unknown name or field, a value that the field cannot have, or categories and
            num_classes that disagree.
    """
    config, options = model_config(name), model_training(name)
    today = family_of(config).upgrade({"model": overrides, "training": training or {}})
    if "loss" in today:
        raise ConfigError(
            f"{', '.join(overrides.keys() - today['model'])} belongs to the loss, not the model"
        )
    config = changed(config, today["model"])
    if today["training"]:
        if options is None:
            raise ConfigError(f"{name} has no training options, so no {', '.join(today['training'])}")
        options = changed(options, today["training"])
    if categories is None and num_classes is None:
        categories = Categories.coco()
    return build_model(config, num_classes or len(categories or ()), categories, name=name, training=options)
