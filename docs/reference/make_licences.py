"""Writes the table of licences of everything that an extra installs, from the metadata of this environment.

python docs/reference/make_licences.py docs/reference/licences.md
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

GROUPS = {"core": "", "train": "train", "onnx": "onnx", "litert": "litert", "ap": "ap", "scale": "scale",
          "tiff": "tiff", "serve": "serve", "figures": "figures", "export": "export"}  # fmt: skip
COPYLEFT = re.compile(r"\b[AL]?GPL|EUPL|CC.BY.SA|SSPL", re.IGNORECASE)
# Licences that a package's metadata does not state, as read in its own licence file.
READ = {"torchao": "BSD-3-Clause"}


def licence(found: Distribution) -> str:
    """Of a package, in a few words; "" where its metadata states none."""
    meta = found.metadata
    stated = meta.get("License-Expression") or ""
    classifiers = [
        c.split(" :: ")[-1] for c in meta.get_all("Classifier") or [] if c.startswith("License ::")
    ]
    classifiers = [c for c in classifiers if c != "OSI Approved"]
    text = (meta.get("License") or "").strip().splitlines()
    if not stated and classifiers:
        stated = ", ".join(classifiers)
    if not stated and text and len(text[0]) < 80:
        stated = text[0]
    return stated or READ.get(canonicalize_name(found.name), "")


def needed(extra: str) -> dict[str, Distribution]:
    """All packages that the package with an extra brings into this environment, by name."""
    found: dict[str, Distribution] = {}
    waiting = [("maskconver", extra)]
    seen = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        if name != "maskconver":
            found[name] = package
        for text in package.requires or []:
            requirement = Requirement(text)
            environments = [{"extra": wanted}, {"extra": ""}]
            if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
                own = canonicalize_name(requirement.name)
                waiting += [(own, ""), *((own, more) for more in requirement.extras)]
    return found


def table() -> list[tuple[str, str, str, str]]:
    """Group, package, version and licence; each package in the first group that needs it."""
    rows, seen = [], set()
    for group, extra in GROUPS.items():
        for name, package in sorted(needed(extra).items()):
            if name not in seen:
                seen.add(name)
                rows.append((group, package.name, package.version, licence(package) or "not stated"))
    return rows


def main() -> None:
    lines = [
        "# Licences of dependencies",
        "",
        "What each install brings with it, and under which licence, as the packages themselves state it.",
        "A package stands under the first install that needs it. No package of the core or of the extra",
        "`train` is under the GPL, LGPL or AGPL. Two are partly under the MPL, which covers changes to their",
        "own files: tqdm and certifi. NVIDIA's libraries, which come with PyTorch on Linux, are proprietary.",
        "",
        "| install | package | version | licence |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in table()),
    ]
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
