"""What several commands share: options, a progress bar, and the names of settings in messages."""

from __future__ import annotations

import os
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ..data.layout import DataPaths
from ..errors import ConfigError, one_line

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from rich.console import Console
    from rich.table import Table


SETTINGS = (
    "score_threshold",
    "overlap_threshold",
    "min_area",
    "hard_sigmoid",
    "mask_activation",
    "algorithm",
    "non_finite",
    "output_side",
)


_VALUE = re.compile(r" \((required)?(?:, )?(?:type: .*?)?(?:, )?(?:default: (.*))?\)$", re.DOTALL)


def help_formatter() -> type[Any]:
    """A formatter of --help that says choices and defaults, not the types of Python."""
    from jsonargparse import DefaultHelpFormatter

    class Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
        def _expand_help(self, action: Any) -> str:
            text = super()._expand_help(action)
            if not (found := _VALUE.search(text)):
                return text
            required, default = found.groups("")
            said = ["required"] if required and action.option_strings else []
            if default not in ("", "null") and action.nargs != 0:
                said.append(f"default: {default}")
            return text[: found.start()] + (f" ({'; '.join(said)})" if said else "")

        def _get_default_metavar_for_optional(self, action: Any) -> str:
            kind = self._get_type_str(action) or ""
            if kind.startswith("Optional[Literal["):
                return "{" + ",".join(re.findall("'([^']+)'", kind)) + "}"
            return super()._get_default_metavar_for_optional(action)

    return Help


def optional(parser: ArgumentParser, name: str, kind: type, text: str, **more: Any) -> None:
    """Adds an option that is None unless it is given."""
    parser.add_argument(name, type=kind | None, default=None, help=text, **more)


# Options that several commands have, with the text of their help; all are None unless they are given.
COMMON: dict[str, tuple[type, str]] = {
    "data": (str, "folder of the data set"),
    "split": (str, "train, val, …; required if the data set has several"),
    "by": (str, "also print figures for each value of this key of images[] in the JSON file"),
    "device": (str, "cpu, cuda or mps; the fastest available by default"),
    "proposals": (int, "number of masks the network proposes per image; the model's own number by default"),
    "white_level": (
        float,
        "pixel value shown as white in images of more than 8 bits, e.g. 4095; by default the model's",
    ),
}


def add_common(parser: ArgumentParser, *names: str) -> None:
    """Adds some of the options in `COMMON`."""
    for name in names:
        optional(parser, "--" + name.replace("_", "-"), *COMMON[name])


def add_model(parser: ArgumentParser) -> None:
    """Adds the model that a command runs."""
    text = "bundled model name, folder of a training run, or .safetensors, .onnx, .tflite or .pt2 file"
    parser.add_argument("model", type=str, help=text)


def add_postprocess_options(parser: ArgumentParser) -> None:
    """Adds the options of post-processing; each is an argument of `Predictor` of the same name."""
    add = parser.add_argument
    optional(
        parser,
        "--score-threshold",
        float,
        "discard proposals with a score at or below this value, 0 to 1; it applies to things and to "
        "stuff, also where the model has a threshold of its own for stuff",
    )
    optional(
        parser,
        "--overlap-threshold",
        float,
        "discard a segment that wins no more than this share of its own mask, 0 to 1",
    )
    optional(parser, "--min-area", float, "minimum segment area, as a fraction of (longer image side)²")
    optional(
        parser,
        "--hard-sigmoid",
        bool,
        "use the faster on-device form of the sigmoid for masks (MaskConver models only)",
    )
    add(
        "--mask-activation",
        type=Literal["softmax", "sigmoid"] | None,
        default=None,
        help="read masks as a softmax over all of them or as a sigmoid of each, whatever they were trained "
        "as (kMaX-DeepLab and ReMaX only)",
    )
    add(
        "--algorithm",
        type=Literal["fast", "reference"],
        default="fast",
        help="fast, or reference: slower, same result",
    )
    add(
        "--non-finite",
        type=Literal["error", "drop"],
        default="error",
        help="if the network returns NaN or infinite values: stop with an error, or drop those proposals",
    )
    optional(
        parser, "--output-side", int, "longer side of the result in pixels; the size of the image by default"
    )


def add_tta(parser: ArgumentParser) -> None:
    """Adds the option of test-time flips."""
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time flips: average over each image and its mirror image; takes 2 to 3 times as long "
        "(MaskConver models in PyTorch only)",
    )


def add_semantic_from(parser: ArgumentParser, what: str) -> None:
    """Adds --semantic-from, for what is made of it."""
    parser.add_argument(
        "--semantic-from",
        type=Literal["panoptic", "scores"] | None,
        default=None,
        help=f"{what} from the panoptic result, or from the class and mask scores of all proposals, which "
        "give every pixel a class; by default scores for kMaX-DeepLab and ReMaX, panoptic for MaskConver",
    )


def postprocess_settings(args: Namespace) -> dict[str, Any]:
    """The arguments of `Predictor` that were given; a score threshold is also that of stuff."""
    given = {name: getattr(args, name) for name in SETTINGS}
    settings = {name: value for name, value in given.items() if value is not None}
    if "score_threshold" in settings:
        settings["stuff_threshold"] = None  # the same
    return settings


def add_tile_options(parser: ArgumentParser) -> None:
    """Adds the options of large images; each is an argument of `Predictor` of the same name."""
    add = parser.add_argument
    add(
        "--tile",
        type=int | Literal["auto", "none"],
        default="auto",
        help="segment larger images in overlapping tiles of this side in pixels; auto does so for models "
        "that keep the size of images",
    )
    add(
        "--overlap",
        type=int | None,
        default=None,
        help="number of pixels that tiles share; objects smaller than this are never cut; a quarter of the "
        "tile by default",
    )
    add("--skip-empty", action="store_true", help="skip tiles of a single colour")
    add(
        "--scale",
        type=float | None,
        default=None,
        help="resize images by this factor first (models that keep the size of images): the size of objects "
        "in training divided by their size in your images",
    )
    optional(
        parser,
        "--diameter",
        float,
        "diameter of typical objects in your images in pixels; sets --scale for models that know the size of "
        "their training objects, such as nuclei",
    )


def tile_settings(args: Namespace) -> dict[str, Any]:
    """The arguments of `Predictor` for large images."""
    own = {name: getattr(args, name) for name in ("overlap", "skip_empty", "scale", "diameter")}
    return own | {"tile": None if args.tile == "none" else args.tile}


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
        optional(parser, "--" + name.replace("_", "-"), str, text)


def data_paths(args: Namespace) -> DataPaths:
    """The paths that were given."""
    return DataPaths(**{name: getattr(args, name) for name in PATHS})


def require_ending(option: str, path: str | None, *endings: str) -> None:
    """Refuses to write into a file of another kind, before anything is computed: it may be an input.

    Raises:
        ConfigError: names the option and what it writes.
    """
    if path and not path.lower().endswith(endings):
        raise ConfigError(f"`{option}={path}` must end in {' or '.join(endings)}")


_options: dict[str, Any] = {}  # of the command that runs, by name


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
    own = (action.option_strings for action in _options.values() if action.dest == name)
    option = next((o for names in own for o in names if o.startswith("--")), None)
    if option is None:
        ending = [o for o in _options if o.endswith(f".{name}")]
        option = ending[0] if len(ending) == 1 else None
    if option is None:
        return match[0]
    option = option if "." in option else option.replace("_", "-")
    option = "--data" if option == "--data.data" else option  # its short form
    return option if value is None else f"{option} {value}"


def refuse_old_options(_: ArgumentParser, argv: list[str]) -> list[str]:
    """The words of a command line as they are.

    Raises:
        ConfigError: an option that has another name now.
    """
    if any(word.partition("=")[0] == "--merge" for word in argv):
        raise ConfigError("--merge is now called --algorithm; it takes fast or reference")
    return argv


@contextmanager
def progress_bar(title: str, total: int | None, unit: str = "images") -> Iterator[Callable[..., None]]:
    """Show a bar with rate and time left while the block runs, where the error stream is a terminal.

    Args:
        title: what stands before the bar; may be empty.
        total: how many steps there are; None if nobody knows.
        unit: what a step is, in the plural.

    Yields:
        A function to be called after every step; or within one, with a text that is then shown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:  # rich 13 prints an empty line even where a bar is disabled
        yield lambda text="": None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, rate=0.0)

        def advance(text: str = "") -> None:
            if not text:
                bar.advance(task)
            bar.update(task, rate=bar.tasks[0].speed or 0.0, description=text or title)

        yield advance


@contextmanager
def bar_when_counted(
    title: str = "images", unit: str = "images"
) -> Iterator[Callable[[int], Callable[..., None]]]:
    """For a function of the library that counts its steps itself.

    Yields:
        A function that is called with the number of steps, shows a bar until the block ends, and gives what
        is to be called after every step.
    """
    with ExitStack() as stack:
        yield lambda total: stack.enter_context(progress_bar(title, total, unit))


def plain_console() -> Console:
    """What prints tables and lines as they are: names may hold brackets and colons, which rich reads."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def table(*columns: str, left: int = 1) -> Table:
    """A table without lines whose columns are to the right but for the first so many.

    Long names go on in the next line, as two may differ only at their ends.
    """
    from rich.table import Table

    made = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for column in made.columns[:left]:
        column.overflow = "fold"
    for column in made.columns[left:]:
        column.justify = "right"
    return made


def print_list(title: str, rows: list[str], most: int = 20) -> None:
    """Prints the first of some rows below a title to standard error; nothing where there are none."""
    if rows:
        more = [f"… and {len(rows) - most} more"] if len(rows) > most else []
        print("\n  ".join([title, *rows[:most], *more]), file=sys.stderr)


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Show what a long command is doing, and for how long, while the block runs.

    Yields:
        A function to be called with a few words before every stage.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    if not Console(stderr=True).is_terminal:
        yield lambda text: None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    own: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False, "transient": True}
    with (  # a stream of its own, as stages may silence standard error
        os.fdopen(os.dup(2), "w", encoding="utf-8") as terminal,
        Progress(*columns, console=Console(file=terminal), **own) as bar,
    ):
        task = bar.add_task("", total=None)

        def report(text: str) -> None:
            bar.reset(task, description=text)

        yield report
