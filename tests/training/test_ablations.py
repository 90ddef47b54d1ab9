"""Every row of docs/ablations.md resolves, and says what it claims to change."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")

from maskconver.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"
ROWS = re.findall(r"^\|.*\| `(--config [^`]+)` \|$", PAGE.read_text(encoding="utf-8"), re.M)


def test_the_page_has_rows_for_both_papers() -> None:
    assert sum("remax" in row for row in ROWS) >= 18 and sum("maskconver" in row for row in ROWS) >= 14


@pytest.mark.parametrize("row", ROWS)
def test_row_resolves_to_what_it_says(row: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(row)
    assert main(["train", *words, "--print_config"]) == 0
    recipe: Any = yaml.safe_load(capsys.readouterr().out)
    for option, value in zip(words[2::2], words[3::2]):
        found = recipe
        for name in option.removeprefix("--").split("."):
            found = found[name]
        assert found == yaml.safe_load(value), option
