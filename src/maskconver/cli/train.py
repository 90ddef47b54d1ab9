"""Train or fine-tune a model.

Example: maskconver train --config start --data my_data --out runs/mine --resume auto

--config takes a YAML recipe, the name of one that comes with the package, or `auto`: then the recipe is made
from the figures of your data, as `maskconver data stats` shows them. You can override every field on the
command line; --print_config shows the result. The options --model, --loss and --training are those of the
model that the recipe or --model.name names. `--data DIR` is short for `--data.data DIR`. Ctrl-C stops a run
cleanly; --resume auto continues it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, one_line

if TYPE_CHECKING:
    from ..training.config import TrainConfig

# Options of earlier versions, and short forms.
_RENAMED = {
    "--kmax_loss.": "--loss.",
    "--pictures": "--log_images",
    "--batch_size": "--data.batch_size",
    "--model.remax.": "--loss.remax.",
    "--model.drop_path": "--training.drop_path",
    "--model.backbone_drop_path": "--training.backbone_drop_path",
    "--model.mask_start": "--training.mask_start",
}
_GONE = {"--loss.centers": "--loss.embedding_at: center (once truth), surest (once predicted) or random"}


def configure(parser: Any) -> None:
    """The fields of the recipe that every model has, each an option."""
    from ..training.config import TrainConfig

    parser.usage = (
        "maskconver train --config RECIPE --data DIR [--out DIR] [--resume auto] [any field of the recipe]"
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML recipe, the name of one that comes with the package, or auto: made from your data",
    )
    parser.add_argument(
        "--resolve", action="store_true", help="same as --print_config: print the resolved recipe and stop"
    )
    parser.add_class_arguments(TrainConfig, nested_key=None, skip={"model", "loss", "training"})


def prepare(parser: Any, argv: list[str]) -> list[str]:
    """Adds the options of the chosen model, and spells short forms out: `--data DIR`, a recipe's name.

    Raises:
        ConfigError: no such recipe or model.
    """
    from ..models.registry import model_config, model_loss, model_training
    from ..training.config import ModelChoice

    argv = ["--resolve" if word == "--print_config" else word for word in map(_option, argv)]
    name = ModelChoice.name
    for i, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option not in ("--config", "--model.name") or not (equals or i + 1 < len(argv)):
            continue
        place, value, before = (i, value, f"{option}=") if equals else (i + 1, argv[i + 1], "")
        if option == "--config":
            value, named = _auto(argv) if value == "auto" else _recipe(value)
            argv[place] = before + value
            name = named or name
        else:
            name = value
    network = model_config(name)
    parser.add_argument("--model.name", type=str, default=name, help=_help(ModelChoice, "name"))
    parser.add_argument(
        "--model.backbone_weights", type=str | None, default=None, help=_help(ModelChoice, "backbone_weights")
    )
    parser.add_class_arguments(type(network), "model", instantiate=False)
    parser.set_defaults(_flat("model", dataclasses.asdict(network)))
    for key, options in (("loss", model_loss(name)), ("training", model_training(name))):
        if options is not None:
            parser.add_class_arguments(type(options), key)
            parser.set_defaults(_flat(key, dataclasses.asdict(options)))
    return argv


def _recipe(name: str) -> tuple[str, str]:
    """A recipe as the parser takes it, a file or its content, and the model it names ("" for none)."""
    import yaml

    from ..core.files import load_yaml, require_content
    from ..recipes import find_recipe
    from ..training.config import upgraded

    path = find_recipe(name)
    require_content(path, "a recipe", ConfigError)
    try:
        recipe = load_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # text that is not UTF-8, too
        raise ConfigError(f"{path} is not a recipe ({one_line(error)})") from None
    except (OSError, RecursionError, yaml.YAMLError):  # the parser says what is wrong with it
        return str(path), ""
    if not isinstance(recipe, dict):
        return str(path), ""
    today = upgraded(recipe)
    model = today.get("model")
    named = str(model.get("name") or "") if isinstance(model, dict) else ""
    return str(path) if today == recipe else json.dumps(today), named


def _auto(argv: list[str]) -> tuple[str, str]:
    """The recipe that `data stats` suggests for the training data of a command line, and its model."""
    from ..data.layout import DataPaths
    from ..data.stats import dataset_stats
    from ..data.suggest import suggest_recipe
    from ..errors import ConfigError

    given: dict[str, str] = {}
    for word, following in zip(argv, [*argv[1:], ""]):
        option, equals, value = word.partition("=")
        given[option] = value if equals else following
    files = {f.name: given.get(f"--data.train.{f.name}") for f in dataclasses.fields(DataPaths)}
    paths = DataPaths(**files)
    data = given.get("--data.data")
    if data is None and paths == DataPaths():
        raise ConfigError("the recipe auto is made from your data: name its folder with --data DIR")
    stats = dataset_stats(data, given.get("--data.train_split"), paths)
    recipe, reasons = suggest_recipe(stats)
    print("\n".join(f"auto: {reason}" for reason in reasons), file=sys.stderr)
    return json.dumps(recipe), recipe["model"]["name"]


def _help(config: Any, name: str) -> str:
    """What the docstring of a dataclass says about a field."""
    from docstring_parser import parse

    found = {p.arg_name: p.description or "" for p in parse(config.__doc__).params}
    return " ".join(found[name].split())


def _flat(key: str, values: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts as one, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(f"{key}.{name}", value) if isinstance(value, dict) else {f"{key}.{name}": value}
    return found


def _option(word: str) -> str:
    """`--init-from` is `--init_from`, `--data` is `--data.data`; values stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = "--" + name[2:].replace("-", "_")
    if name in _GONE:
        raise ConfigError(f"{name} is now called {_GONE[name]}")
    for old, today in _RENAMED.items():
        if name.startswith(old):
            name = today + name.removeprefix(old)
    return ("--data.data" if name == "--data" else name) + equals + value


def config_of(args: Any) -> TrainConfig:
    """The recipe that parsed options make."""
    from ..models.registry import changed, model_config
    from ..training.config import ModelChoice, TrainConfig

    values: dict[str, Any] = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(TrainConfig)}
    network = values["model"].as_dict()
    name, weights = network.pop("name", None), network.pop("backbone_weights", None)
    if not name:  # the recipe has something else in the place of the options of `model`
        raise ConfigError("the recipe names no model; give one with `model.name`")
    values["model"] = ModelChoice(name, weights, changed(model_config(name), network))
    return TrainConfig(**values)


def run(args: Any) -> int:
    """Trains, prints the last figures."""
    from ..training.config import recipe_yaml

    config = config_of(args)
    recipe = recipe_yaml(config)
    if args.resolve:
        print(recipe, end="")
        return 0
    from ..training.run import train
    from .options import shown

    figures = train(config, recipe, lambda text: print(shown(text)))
    for name, value in sorted(figures.items()):
        if name.startswith("val/"):
            print(f"{name[4:]:<12} {100 * value:6.2f}")
    for what, name in (("model", "best.safetensors"), ("report", "report.html")):
        if figures and (path := Path(config.out, name)).is_file():
            print(f"{what}: {path}")
    return 0
