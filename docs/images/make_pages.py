"""Images of the pages that `analyze` and `report` write, on generated cells. Needs Chromium and playwright.

Run: .venv/bin/python docs/images/make_pages.py analysis.html runs/ten/report.html

The pages are those of docs/notebooks/ten-images.md.
"""

import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = {"width": 1000, "height": 900}


def main() -> None:
    """Writes `analyze.png` and `report.png` beside this file."""
    folder = Path(__file__).parent
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, source in zip(("analyze", "report"), sys.argv[1:]):
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(Path(source).resolve().as_uri())
            path = folder / f"{name}.png"
            page.screenshot(path=path)
            Image.open(path).convert("RGB").save(path, optimize=True)
            print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
