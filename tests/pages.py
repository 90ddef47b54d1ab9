"""A real browser for the tests of pages."""

from __future__ import annotations

import os
import shutil
from typing import Any

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update"
CAMERA = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"


def told(page: Any, text: str, seconds: float = 60) -> None:
    """Waits until the page's status says so."""
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_contain_text(text, timeout=1000 * seconds)
