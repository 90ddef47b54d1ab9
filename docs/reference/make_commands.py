"""Writes the page "Command line" from the help of every command, as `maskconver COMMAND --help` prints it.

Run: python docs/reference/make_commands.py docs/reference/commands.md  (needs the extra train)
"""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

from maskconver.cli.main import COMMANDS, main

HEAD = """# Command line

The help of every command, as `maskconver COMMAND --help` prints it. This page is generated with the site.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | done, but some inputs failed or defects were found |
| 2 | refused: nothing was started, or nothing was kept |

Every command also takes `--debug`, which shows the whole traceback of an error.
"""


def help_of(command: str) -> str:
    """What `maskconver COMMAND --help` prints, 100 columns wide and without a terminal's colours."""
    os.environ["COLUMNS"] = "100"
    with redirect_stdout(io.StringIO()) as text:
        main([*command.split(), "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()).strip()


def page() -> str:
    """The whole page in Markdown."""
    sections = [f"## {name}\n\n```text\n{help_of(name)}\n```\n" for name in COMMANDS]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
