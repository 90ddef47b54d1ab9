"""Entry point: finds the command, imports only that one, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 done but some inputs failed (or defects were found), 2 refused, 130 and 143 stopped by
Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from argparse import ArgumentError
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from ..errors import ConfigError, MaskconverError, first_line, one_line
from .options import help_formatter, shown, use_options

# command: (module here, one line for --help). A module has `configure(parser)`, `run(args) -> int` and, where
# it takes short forms, `prepare(parser, argv) -> argv`; its docstring is the description.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train", "train or fine-tune a model on your own images"),
    "evaluate": ("evaluate", "PQ, mIoU and AP of a model on a data set"),
    "analyze": ("analyze", "where a model loses panoptic quality, as a page to look at"),
    "report": ("report", "a training run as a page: curves and images"),
    "predict": ("predict.command", "segment images, folders or globs"),
    "serve": ("serve", "a page and an HTTP interface for a model"),
    "export": ("export", "write a model as a file for another runtime"),
    "pq": ("pq", "panoptic quality of one COCO panoptic file against another"),
    "import-weights": ("import_weights", "turn published weights into a model file"),
    "models": ("models", "list the models with size, cost and published figures"),
    "data convert": ("data.convert", "convert annotations of other tools to a panoptic data set"),
    "data synth": ("data.synth", "write a generated panoptic data set"),
    "data check": ("data.check", "list every defect of a data set"),
    "data export": ("data.export", "write a data set in the format of another tool"),
    "data stats": ("data.stats", "show what a data set looks like, and suggest a recipe"),
    "figure targets": ("figure.targets", "draw what a recipe trains on: images, masks, heatmaps"),
    "figure fpfn": ("figure.fpfn", "draw the mask losses of false positives and negatives of runs"),
    "figure classes": ("figure.classes", "draw the class embeddings of a model as a map"),
}


def _usage(group: str = "") -> str:
    """The help of all commands, or of those of one group (`data`)."""
    command = f"{group} COMMAND".strip()
    chosen = {name: text for name, (_, text) in COMMANDS.items() if name.startswith(f"{group} ".lstrip())}
    lines = [f"usage: maskconver {command} [--help] …", ""]
    if not group:
        lines += ["Efficient panoptic and semantic segmentation.", ""]
    lines += ["commands:", *(f"  {name:<14} {text}" for name, text in chosen.items()), ""]
    if not group:
        lines.append("example: maskconver predict nuclei cells.png --overlay")
    return "\n".join([*lines, f"`maskconver {command} --help` explains each."])


def _find(argv: list[str]) -> tuple[str, list[str]] | None:
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return name, argv[words:]
    return None


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # text that the encoding of a terminal or file cannot show
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from .. import __version__

        print(f"maskconver {__version__}")
        return 0
    in_group = any(name.startswith(f"{argv[0]} ") for name in COMMANDS)
    if in_group and argv[1:2] and argv[1] in ("-h", "--help", "help"):
        print(_usage(argv[0]))
        return 0
    found = _find(argv)
    if found is None:
        print(f'maskconver: error: no command "{" ".join(argv[:2])}"; see maskconver --help', file=sys.stderr)
        return 2
    name, rest = found
    module_name, text = COMMANDS[name]
    # PyTorch then asks Linux for huge pages for large arrays, whose first touch is a tenth of a CPU's time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    terminated, forget = _on_sigterm()
    try:
        from jsonargparse import ArgumentParser

        module = import_module(f".{module_name}", __package__)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        parser = ArgumentParser(
            prog=f"maskconver {name}",
            description=module.__doc__ or text,
            formatter_class=help_formatter(),
            exit_on_error=False,
            allow_abbrev=False,
        )
        module.configure(parser)
        rest = module.prepare(parser, rest) if hasattr(module, "prepare") else rest
        use_options(parser)
        parsed = parser.parse_args(rest)
        _require_groups(parser, parsed)
        _require_counts(parsed)
        _require_names(parsed)
        return int(module.run(parser.instantiate(parsed)))
    except SystemExit as stop:  # after --help
        return int(stop.code or 0) if not isinstance(stop.code, str) else 2
    except ArgumentError as error:
        if debug:
            raise
        hint = f"{_near_options(str(error), parser)}see maskconver {name} --help"
        print(f"maskconver: error: {_plain(error)}; {hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nmaskconver: stopped", file=sys.stderr)
        return 143 if terminated else 130
    except (MaskconverError, OSError) as error:
        if debug:
            raise
        print(f"maskconver: error: {shown(error)}", file=sys.stderr)
        return 2
    except RecursionError:  # of JSON or YAML; nothing of ours goes deep
        if debug:
            raise
        print("maskconver: error: an input is nested too deeply; is it damaged?", file=sys.stderr)
        return 2
    except UnicodeEncodeError as error:  # of a file's name: text for people is never strict
        if debug or "surrogates" not in error.reason:
            raise
        name = ascii(str(error.object)[max(0, error.start - 40) : error.end + 10])
        print(f"maskconver: error: a file name is not UTF-8 (in {name}); rename the file", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:  # PyTorch's own are the latter
        lacking = isinstance(error, MemoryError) or re.search(r"allocate memory|out of memory", str(error))
        if debug or not lacking:
            raise
        print(f"maskconver: error: not enough memory ({first_line(error)})", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package not in _EXTRA_OF:
            raise
        extra = _EXTRA_OF[package]
        print(
            f'maskconver: error: "{name}" needs {package}: pip install "maskconver[{extra}]"', file=sys.stderr
        )
        return 2
    finally:
        forget()


def _on_sigterm() -> tuple[list[int], Callable[[], Any]]:
    """Has SIGTERM end a command as Ctrl-C does: temporary files go, what is done stays.

    Returns:
        A list that gets the signal's number when it comes, and what takes the handler away again.
    """
    came: list[int] = []

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        came.append(number)
        raise KeyboardInterrupt

    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return came, lambda: None
    signal.signal(signal.SIGTERM, stop)
    return came, lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)


_EXTRA_OF = dict.fromkeys(("torch", "torchvision", "timm", "lightning", "scipy", "tensorboard"), "train") | {
    "uvicorn": "serve",
    "starlette": "serve",
    "hotcoco": "ap",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "onnx",
    "litert_torch": "export",
    "ai_edge_quantizer": "export",
    "ai_edge_litert": "litert",
}


def _require_groups(parser: Any, parsed: Any) -> None:
    """Refuses a lone value, of a recipe or an option, in the place of a group of options."""
    for name, group in parser.groups.items():
        value = parsed.get(name) if getattr(group, "group_class", None) else None
        if value is not None and not hasattr(value, "as_dict"):
            raise ConfigError(f"`{name}` is a group of options (`{name}.…`), not a value like {value!r}")


def _require_counts(parsed: Any) -> None:
    """Refuses numbers below 1 where all commands count."""
    for name in ("workers", "max_pixels"):
        value = parsed.get(name)
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"`{name}` must be at least 1, got {value}")


def _require_names(parsed: Any) -> None:
    """Refuses empty names of files and folders: they would stand for the current folder."""
    for name, value in vars(parsed).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise ConfigError(f"`{name}` is empty; is a variable of the shell not set?")


_NO_TYPE = re.compile(r"[Kk]ey \"([\w.]+)\"(?: element \d+)?: .*Expected .*(?:Given|Got) value: (.*)")
_EXPECTED = re.compile(r"Expected (?:an? )?(?:<class '(\w+)'>|typing\.Literal\[(.*?)\]|(.))")
_KINDS = {
    "float": "a finite number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "tuple": "a list such as [1, 2]",
    "list": "a list",
}


def _plain(error: ArgumentError) -> str:
    """What the parser says, without the types of Python: everything that is allowed, but for no value."""
    said = " ".join(str(error).split())
    found = _NO_TYPE.search(said)
    allowed: list[str | None] = []
    for kind, words, _ in _EXPECTED.findall(said) if found else ():
        if kind != "NoneType":
            allowed += [*(word.strip("'") for word in filter(None, words.split(", ")))] or [_KINDS.get(kind)]
    if not found or not allowed or None in allowed:
        return shown(error)
    option = found[1] if "." in found[1] else found[1].replace("_", "-")
    words = [*dict.fromkeys(filter(None, allowed))]
    said = " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return one_line(f"--{option} must be {said}, got {found[2]}")


def _near_options(message: str, parser: Any) -> str:
    """The options nearest to the first one of the message that there is not."""
    field = re.search(r"Option '([\w.]+)' is not accepted", message)  # of a recipe
    unknown = [f"--{field[1]}"] if field else message.partition("nrecognized arguments: ")[2].split()
    if not unknown or not unknown[0].startswith("--"):
        return ""
    if not (name := unknown[0].partition("=")[0].lstrip("-")):
        return ""
    options = {option.lstrip("-"): option for option in parser._option_string_actions}
    parts = [o for o in options if o.startswith(name) or o.endswith(f".{name}") or name.startswith(f"{o}-")]
    near = [options[o] for o in parts[:3] or get_close_matches(name, options, n=3, cutoff=0.7)]
    return f"did you mean {' or '.join(near)}? " if near else ""


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Our own warnings in one line on stderr; those of libraries only with `-W` or --debug."""
    if category.__module__.startswith("maskconver"):
        print(f"maskconver: warning: {shown(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
