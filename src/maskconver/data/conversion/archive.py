"""A .zip of annotations, unpacked so that nothing is written outside the folder it goes to."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

from ...errors import DataError, one_line
from ...io.sources import name_fault, zip_name
from .annotation import Faults


def unpack(archive: Path, folder: Path, faults: Faults) -> Path:
    """Unpack a zip; entries that lead out of the folder, and links, are given to `faults` and left out.

    Returns:
        The folder that everything lies in: `folder`, or the only one below it.

    Raises:
        DataError: it is no zip, or cannot be unpacked.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            need = sum(entry.file_size for entry in file.infolist())  # no entry gives more than it states
            if need > (free := shutil.disk_usage(folder.parent).free):
                what = f"needs {need / 1e9:.1f} GB unpacked, {free / 1e9:.1f} GB are free"
                raise DataError(what, where=str(archive), fix="write to a disk with more room")
            for entry in file.infolist():
                name = zip_name(entry)
                if entry.is_dir() or name.endswith("/"):
                    continue
                if stat.S_ISLNK(entry.external_attr >> 16):
                    faults.add("unsafe-entry", f"{archive}:{entry.filename}", "is a link; it is left out")
                elif fault := name_fault(name):
                    faults.add(
                        "unsafe-entry", f"{archive}:{entry.filename}", f"the name {fault}; it is left out"
                    )
                else:
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(entry) as source, target.open("wb") as out:
                        shutil.copyfileobj(source, out)
    except DataError:
        raise
    except Exception as error:  # what is damaged in a zip can raise almost anything
        raise DataError(f"cannot be unpacked ({one_line(error)})", where=str(archive)) from None
    folder.mkdir(exist_ok=True)
    inside = [p for p in folder.iterdir() if p.name != "__MACOSX" and not p.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
