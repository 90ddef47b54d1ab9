"""What is true of files in general: limits, endings, where the bundled ones lie, and writing one whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, MaskconverError

MAX_PIXELS = 179_000_000
"""Images and PNGs with more are refused: twice the size at which Pillow warns, where it refuses."""
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
)
EXPORTED_SUFFIXES = (".onnx", ".tflite", ".pt2")
"""Of model files for other runtimes."""
WEIGHTS = Path(__file__).parents[1] / "weights"
"""The folder of the bundled model files."""
LFS_POINTER = b"version https://git-lfs"
"""How a file begins that was cloned without Git LFS: three lines of text in place of the content."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""How text in UTF-16 begins."""
LFS_FIX = "it is a Git LFS pointer, not the file itself; run: git lfs pull"


def require_content(
    path: str | os.PathLike[str], kind: str = "a model", error: type[MaskconverError] = CheckpointError
) -> None:
    """Refuses a file that is a pointer of Git LFS, as an error of this class; `kind` is what it should be.

    Raises:
        MaskconverError: it is one; files that cannot be read pass, whoever opens them says why.
    """
    with suppress(OSError), Path(path).open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise error(f"not {kind}", where=os.fspath(path), fix=LFS_FIX)


def decoded(data: bytes, *, loose: bool = False) -> str:
    """Text in UTF-8 or UTF-16, or else Windows-1252; `loose` for a text that may be cut off in a letter."""
    if data.startswith(UTF_16):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig", errors="ignore" if loose else "strict")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def load_yaml(text: str, *, most: int = 100_000) -> Any:
    """The content of a YAML text; tags that make objects are refused.

    Args:
        text: of the file.
        most: values that it may hold. A short text can stand for billions, by names for parts of itself.

    Raises:
        ValueError: it holds more, itself, or what cannot be built.
        yaml.YAMLError: not YAML.
    """
    import yaml

    content = yaml.safe_load(text)
    waiting, seen = [content], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > most:
            raise ValueError(f"it stands for more than {most} values")
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return content


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, sync: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and vanishes when it does not.

    Args:
        path: the file; its folder is made.
        sync: wait until the content is on the disk, so that it survives a power cut.

    Raises:
        OSError: the folder cannot be written or the disk is full; `path` is then as it was before.
    """
    import tempfile

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # not the temporary one
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        make_readable(temporary, 0o666)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def make_readable(path: Path, mode: int) -> None:
    """Gives a temporary file or folder, which is private, the rights that any other has here.

    Args:
        path: of `mkstemp` or `mkdtemp`.
        mode: the rights without the process's umask: 0o666 for files, 0o777 for folders.
    """
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)


def linked(source: Path, target: Path) -> bool:
    """Makes a hard link to a file, or a symbolic one from another disk; false where neither is possible."""
    for make in (target.hardlink_to, target.symlink_to):
        with suppress(OSError):
            make(source.resolve())
            return True
    return False


def bundled_onnx(name: str | os.PathLike[str]) -> Path | None:
    """The ONNX file of a bundled model, for where there is no PyTorch; None if `name` is a path or none."""
    file = WEIGHTS / f"{os.fspath(name)}.onnx"
    return file if file.is_file() and not Path(name).exists() else None
