"""The page in a real browser: what a person does, on real answers of the server."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

import maskconver as mc
from maskconver.core.panoptic_png import read_panoptic_png
from tests.pages import told

pytestmark = pytest.mark.web


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "maskconver.cli", "serve", "nuclei", "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert "open http://127.0.0.1" in server.stdout.readline()
    for _ in range(100):
        try:
            urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).read()
            break
        except OSError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    assert server.wait(20) is not None


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.get_by_text("nuclei", exact=True).wait_for()
    yield page
    assert errors == []
    assert all(url.startswith((address, "blob:", "data:")) for url in asked), "something from elsewhere"
    page.close()


def test_an_image_is_segmented_as_in_python(page: Any, data: Path, tmp_path: Path) -> None:
    path = sorted((data / "images").rglob("*.png"))[0]
    page.set_input_files("#files", str(path))
    told(page, "segments,")
    own = mc.Predictor("nuclei")(path)
    assert page.text_content("#count") == f"{len(own)} segments"
    with page.expect_download() as download:
        page.click("button[data-format=png]")
    download.value.save_as(tmp_path / "ids.png")
    assert np.array_equal(read_panoptic_png(tmp_path / "ids.png"), own.ids)
    for form in ("overlay", "coco", "csv", "geojson", "labelme"):
        with page.expect_download() as download:
            page.click(f"button[data-format={form}]")
        assert download.value.suggested_filename.startswith(path.stem)

    page.locator("#score_threshold").fill("0.8")
    told(page, "segments,")
    fewer = len(mc.Predictor("nuclei", score_threshold=0.8)(path))
    from playwright.sync_api import expect

    expect(page.locator("#count")).to_have_text(f"{fewer} segments")

    box = page.locator("#masks").bounding_box()
    thing = next(s for s in own if s.is_thing and s.score > 0.8)
    ys, xs = np.nonzero(own.ids == thing.id)
    middle = len(ys) // 2
    height, width = own.ids.shape
    page.mouse.move(
        box["x"] + (xs[middle] + 0.5) * box["width"] / width,
        box["y"] + (ys[middle] + 0.5) * box["height"] / height,
    )
    expect(page.locator("#tip")).to_contain_text(thing.category)


def test_several_images_keys_and_hiding_a_class(page: Any, data: Path) -> None:
    paths = sorted((data / "images").rglob("*.png"))
    page.set_input_files("#files", [str(p) for p in paths])
    told(page, "segments,")
    assert page.locator("#strip button").count() == len(paths)
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    told(page, f"{paths[1].name}: 200 × 160")
    before = page.locator("#masks").screenshot()
    for tick in page.locator(".class input").all():
        tick.uncheck()
    assert page.locator("#masks").screenshot() != before


def test_a_broken_image_is_told_and_the_page_goes_on(page: Any, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    page.set_input_files("#files", str(broken))
    told(page, "broken.png: ")
    assert page.get_attribute("#status", "class") == "error"
    page.set_input_files("#files", str(sorted((data / "images").rglob("*.png"))[0]))
    told(page, "segments,")


def test_it_fits_a_telephone(page: Any, data: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.set_input_files("#files", str(sorted((data / "images").rglob("*.png"))[0]))
    told(page, "segments,")
    assert page.locator("body").evaluate("body => body.scrollWidth <= innerWidth")


def test_a_server_that_is_gone_is_told(browser: Any, address: str, data: Path) -> None:
    page = browser.new_page()
    page.goto(address)
    page.get_by_text("nuclei", exact=True).wait_for()
    page.context.set_offline(True)
    page.set_input_files("#files", str(sorted((data / "images").rglob("*.png"))[0]))
    told(page, "the server does not answer")
    page.close()
