"""The commands that draw a figure: `maskconver figure …`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import atomic_path
from ...errors import MissingExtraError
from ..options import require_ending

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

COLORS = {"thing": "#c8442e", "stuff": "#2f6f9f"}


def add_png(parser: ArgumentParser, name: str) -> None:
    """Adds --png, the file that is written."""
    parser.add_argument("--png", type=str, default=name, help="the PNG file to write")


def require_png(path: str) -> Path:
    """The file to write, before anything is computed.

    Raises:
        ConfigError: another kind of file.
    """
    require_ending("png", path, ".png")
    return Path(path)


def plot(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of matplotlib, size in inches, and its axes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("drawing this figure", "figures") from error
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def write(figure: Any, path: Path) -> None:
    """Saves a figure, whole or not at all, and says where it is.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    print(f"figure: {path}")
