"""Images and a browser, for the tests of both pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskconver.data.synth.write import write_dataset
from tests.pages import CAMERA, CHROMIUM, QUIET


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    write_dataset(folder, style="cells", count=2, size=(160, 200))
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (set CHROMIUM to its path)")
    with sync.sync_playwright() as playwright:
        words = f"{QUIET} {CAMERA}".split()
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=words)
