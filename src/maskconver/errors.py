"""Errors that a user can fix: what happened, to which file or value, and what to do, in one line.

A message names settings as Python does, between backticks: `max_pixels=200`. The command line shows those
that are options of the command as such: --max-pixels 200.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches


class Message(Exception):
    """One line, and the parts it is made of.

    Args:
        what: what happened; the whole message where the other parts are left out.
        where: the file, or the place in it.
        fix: what to do about it.
        kind: a short name for programs that treat kinds differently, e.g. `unknown-label`.
    """

    def __init__(self, what: str = "", *, where: str = "", fix: str = "", kind: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.fix, self.kind = what, where, fix, kind

    @property
    def text(self) -> str:
        """The message without the place."""
        return f"{self.what}; {self.fix}" if self.fix else self.what

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class MaskconverError(Message):
    """Base of all errors this package raises on purpose."""


class DataError(MaskconverError):
    """An annotation or data set that cannot be used as it is."""


class ImageError(MaskconverError):
    """An image that cannot be read."""


class ConfigError(MaskconverError):
    """A configuration value, name or combination that is not possible."""


class CheckpointError(MaskconverError):
    """A model file that cannot be loaded or saved."""


class ExportError(MaskconverError):
    """A model that cannot be exported, or an exported file that differs from its model."""


class MissingExtraError(MaskconverError):
    """A command needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs the extra "{extra}": pip install "maskconver[{extra}]"')

    def __reduce__(self) -> tuple[object, ...]:
        return Exception.__new__, (type(self), *self.args), self.__dict__


def nearest(name: str, known: Collection[str]) -> str:
    """What to do about a class that there is not: the nearest name, or the first twenty there are."""
    if near := get_close_matches(name, known, 1):
        return f'did you mean "{near[0]}"?'
    return f"there are {', '.join([*known][:20])}"


def one_line(error: BaseException | str) -> str:
    """Any exception, or a text, in one line; the name of its class where it says nothing.

    Of more than 2000 characters, which a value of a damaged file may have, the middle is left out.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = str(error)
    if "Original Traceback" in text:  # raised in a loader's worker: the last line is what was said there
        text = text.strip().splitlines()[-1].partition(": ")[2]
    text = re.sub(r" <_io\.\w+ object at 0x\w+>", "", text)  # Pillow's name of what is no file
    line = " ".join(text.split()) or type(error).__name__
    return line if len(line) <= 2000 else f"{line[:1200]} … {line[-700:]}"


def first_line(error: BaseException) -> str:
    """The first line of a library's exception, if the rest is more than a user needs."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
