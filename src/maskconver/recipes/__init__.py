"""Recipes that ship: what trains each published and shipped model."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError

FOLDER = Path(__file__).parent


def find_recipe(name: str) -> Path:
    """The YAML file of a path or of a shipped recipe's name.

    Raises:
        ConfigError: neither.
    """
    for path in (Path(name), FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
    raise ConfigError(f'no recipe "{name}": neither a file nor one of {names}')
