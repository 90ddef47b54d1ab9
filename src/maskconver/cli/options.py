"""What several commands share: options, a progress bar, and the names of settings in messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ..data.layout import DataPaths
from ..errors import one_line

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


FIELDS = {
    "score_threshold": "score_threshold",
    "overlap_threshold": "overlap_threshold",
    "min_area": "min_area",
    "hard_sigmoid": "hard_sigmoid",
    "merge": "mode",
    "non_finite": "non_finite",
    "output_side": "output_side",
}


def add_merge_options(parser: ArgumentParser) -> None:
    """Adds the options; each overrides a field of the model's `PostprocessConfig`."""
    add = parser.add_argument
    add(
        "--score-threshold",
        type=float | None,
        default=None,
        help="drop proposals, things and stuff, scored so or lower",
    )
    add("--overlap-threshold", type=float | None, default=None, help="share of its mask a segment must win")
    add("--min-area", type=float | None, default=None, help="smallest area, of the longer side squared")
    add("--hard-sigmoid", type=bool | None, default=None, help="the papers' on-device sigmoid")
    add(
        "--merge",
        type=Literal["fast", "compiled", "reference", "coarse"] | None,
        default=None,
        help="fast, compiled or reference (same answer: soon, sooner for many pictures, plain), or coarse",
    )
    add(
        "--non-finite",
        type=Literal["error", "drop"] | None,
        default=None,
        help="refuse NaN and infinite proposals, or leave them out",
    )
    add("--output-side", type=int | None, default=None, help="longer side of the answer in pixels")


def merge_settings(args: Namespace) -> dict[str, Any]:
    """The fields of `PostprocessConfig` that were given; a score threshold is one of stuff too."""
    given = {field: getattr(args, option) for option, field in FIELDS.items()}
    settings = {field: value for field, value in given.items() if value is not None}
    if "score_threshold" in settings:
        settings["stuff_threshold"] = None  # the same
    return settings


PATHS = {
    "images": "folder or .zip of the images, if it lies elsewhere",
    "panoptic_json": "the panoptic JSON, if it lies elsewhere",
    "panoptic_pngs": "folder or .zip of its PNGs, if it lies elsewhere",
    "labels": "folder or .zip of label PNGs, if it lies elsewhere",
    "classes": "the file that names their classes, if it lies elsewhere",
}


def add_data_paths(parser: ArgumentParser) -> None:
    """Adds an option for each field of `DataPaths`."""
    for name, text in PATHS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=str | None, default=None, help=text)


def data_paths(args: Namespace) -> DataPaths:
    """The paths that were given."""
    return DataPaths(**{name: getattr(args, name) for name in PATHS})


_options: set[str] = set()  # of the command that runs


def use_options(parser: ArgumentParser) -> None:
    """Sets the command whose options `shown` writes."""
    _options.clear()
    _options.update(parser._option_string_actions)


def shown(message: BaseException | str) -> str:
    """A message of the library in one line, with its settings as options of the command that runs.

    `max_pixels=200` between backticks becomes --max-pixels 200 where there is such an option, also one that
    ends so, as --model.in_channels; anything else between backticks stays as it is.
    """
    return re.sub(r"`([a-z]\w*(?:\.\w+)*)(?:=([^`]*))?`", _as_option, one_line(message))


def _as_option(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    dashed = "--" + name.replace("_", "-")
    option = next((o for o in (dashed, f"--{name}") if o in _options), None)
    if option is None:
        ending = [o for o in _options if o.endswith(f".{name}")]
        option = ending[0] if len(ending) == 1 else None
    if option is None:
        return match[0]
    option = option if "." in option else dashed
    return option if value is None else f"{option} {value}"


@contextmanager
def progress_bar(title: str, total: int, unit: str = "images") -> Iterator[Callable[[], None]]:
    """Show a bar while the block runs.

    Args:
        title: what stands before the bar; may be empty.
        total: how many steps there are.
        unit: what a step is, in the plural.

    Yields:
        A function to be called after every step.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total, rate=0.0)

        def advance() -> None:
            bar.advance(task)
            bar.update(task, rate=bar.tasks[0].speed or 0.0)

        yield advance
