"""Train or fine-tune a model.

Example: maskconver train --config start --data my_data --out runs/mine --resume auto

--config takes a YAML recipe or the name of a shipped one; every field of it can be overridden on the command
line, and --print_config shows the result. `--data DIR` is short for `--data.data DIR`. A run stops cleanly on
Ctrl-C and goes on with --resume auto.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def configure(parser: Any) -> None:
    """The fields of the recipe, each an option."""
    from ..training.config import TrainConfig

    parser.usage = (
        "maskconver train --config RECIPE --data DIR [--out DIR] [--resume auto] [any field of the recipe]"
    )
    parser.add_argument("--config", action="config", help="YAML recipe, or the name of a shipped one")
    parser.add_argument(
        "--resolve", action="store_true", help="same as --print_config: print the resolved recipe and stop"
    )
    parser.add_class_arguments(TrainConfig, nested_key=None)


def prepare(argv: list[str]) -> list[str]:
    """Short forms: `--data DIR`, and a shipped recipe by name."""
    from ..recipes import find_recipe

    argv = [_option(word) for word in argv]
    argv = ["--resolve" if word == "--print_config" else word for word in argv]
    for i, word in enumerate(argv):
        if word == "--config" and i + 1 < len(argv):
            argv[i + 1] = str(find_recipe(argv[i + 1]))
        elif word.startswith("--config="):
            argv[i] = f"--config={find_recipe(word[9:])}"
    return argv


def _option(word: str) -> str:
    """`--init-from` is `--init_from`, `--data` is `--data.data`; values stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = "--" + name[2:].replace("-", "_")
    return ("--data.data" if name == "--data" else name) + equals + value


def run(args: Any) -> int:
    """Trains, prints the last figures."""
    from ..training.config import TrainConfig, recipe_yaml

    fields = {f.name for f in dataclasses.fields(TrainConfig)}
    config = TrainConfig(**{k: v for k, v in vars(args).items() if k in fields})
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
    return 0
