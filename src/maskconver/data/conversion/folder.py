"""The folder of a conversion: it appears when everything is done, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ...errors import ConfigError, DataError

REPORT = "conversion.json"


def require_free(source: Path, out: Path, overwrite: bool) -> None:
    """Refuses to write where something else is.

    Args:
        source: of the conversion.
        out: the folder to write.
        overwrite: an earlier conversion may be replaced.

    Raises:
        ConfigError: `out` holds the source.
        DataError: there is no source, or `out` holds files that are not to be replaced.
    """
    if not source.exists():
        raise DataError("no such file or folder", where=str(source))
    real, target = Path(os.path.realpath(source)), Path(os.path.realpath(out))
    if real.is_relative_to(target):
        raise ConfigError(f"{out} holds the source", fix="choose another folder to write to")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        fix = "choose another folder, or replace it with `overwrite`"
        raise DataError("is there already", where=str(out), fix=fix)
    if not (out / REPORT).is_file():
        what = f"holds no {REPORT}, so it is not replaced"
        raise DataError(what, where=str(out), fix="choose another folder")


def begin_folder(partial: Path) -> None:
    """Makes the working folder; one that an interrupted conversion left is replaced.

    Raises:
        DataError: something else is there.
    """
    if partial.exists():
        if not (partial / "unfinished").is_file():
            raise DataError(
                "is in the way", where=str(partial), fix="move it, or choose another folder to write to"
            )
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    (partial / "unfinished").touch()


def replace_folder(new: Path, out: Path) -> None:
    """Puts the finished folder in the place of an earlier one, which comes back if that fails.

    Raises:
        OSError: the folder cannot be renamed.
    """
    if not out.exists() or not any(out.iterdir()):
        out.rmdir() if out.exists() else None
        new.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.old.", dir=out.parent))
    try:
        out.rename(aside / "set")
        new.rename(out)
    except OSError:
        if (aside / "set").exists() and not out.exists():
            (aside / "set").rename(out)
        raise
    finally:
        if out.exists():
            shutil.rmtree(aside, ignore_errors=True)
