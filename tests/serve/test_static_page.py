"""The page without a server of its own, in a real browser: files from a plain static host."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maskconver as mc
from maskconver.core.files import WEIGHTS
from maskconver.core.panoptic_png import read_panoptic_png
from maskconver.data.synth.write import write_dataset
from maskconver.serve.site import RUNTIME, RUNTIME_FILES, write_site
from tests.pages import told

NUCLEI = WEIGHTS / "nuclei.onnx"
NO_RUNTIME = not all((RUNTIME / name).is_file() for name in RUNTIME_FILES)
pytestmark = [
    pytest.mark.web,
    pytest.mark.skipif(NO_RUNTIME, reason="onnxruntime-web is not here: `make web` fetches it"),
]
# WebAssembly sums in another order than the CPU: scores differ by 1e-6, and a pixel on an edge may change.
MOST_OTHER_PIXELS = 2e-4


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def host(folder: Path) -> ThreadingHTTPServer:
    """What `python -m http.server` runs: no special headers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    size = write_site(NUCLEI, folder, name="nuclei")
    assert size < 12e6
    return folder


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Any]:
    server = host(site)
    address = f"http://127.0.0.1:{server.server_port}/"
    context = browser.new_context(viewport={"width": 1200, "height": 800}, permissions=["camera"])
    page = context.new_page()
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    context.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    told(page, "WASM")
    page.server = server
    yield page
    server.shutdown()
    server.server_close()
    assert errors == []
    assert asked and all(url.startswith((address, "blob:", "data:")) for url in asked), (
        "another host was asked"
    )
    context.close()


def images(data: Path) -> list[Path]:
    return sorted((data / "images").rglob("*.png"))


def ids_of(page: Any, folder: Path) -> Any:
    with page.expect_download() as download:
        page.click("button[data-format=png]")
    download.value.save_as(folder / "ids.png")
    return read_panoptic_png(folder / "ids.png")


def test_an_image_is_segmented_as_in_python(page: Any, data: Path, tmp_path: Path) -> None:
    assert page.evaluate("crossOriginIsolated"), "the service worker did not add the headers"
    path = images(data)[0]
    page.set_input_files("#files", str(path))
    told(page, "segments,")
    own = mc.Predictor(NUCLEI)(path)
    assert page.text_content("#count") == f"{len(own)} segments"
    assert (ids_of(page, tmp_path) != own.ids).mean() <= MOST_OTHER_PIXELS

    files = {}
    for form in ("overlay", "coco", "csv", "geojson"):
        with page.expect_download() as download:
            page.click(f"button[data-format={form}]")
        assert download.value.suggested_filename.startswith(path.stem)
        files[form] = tmp_path / form
        download.value.save_as(files[form])
    coco = json.loads(files["coco"].read_text())
    found = coco["annotations"][0]["segments_info"]
    np.testing.assert_allclose([row["score"] for row in found], [s.score for s in own], atol=1e-4)
    with files["csv"].open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [int(row["area"]) for row in rows] == [row["area"] for row in found]
    assert len(json.loads(files["geojson"].read_text())["features"]) == len(own)
    from PIL import Image

    assert Image.open(files["overlay"]).size == (200, 160)


def test_thresholds_change_the_result(page: Any, data: Path) -> None:
    path = images(data)[1]
    page.set_input_files("#files", str(path))
    told(page, "segments,")
    page.locator("#score_threshold").fill("0.8")
    from playwright.sync_api import expect

    fewer = len(mc.Predictor(NUCLEI, score_threshold=0.8)(path))
    expect(page.locator("#count")).to_have_text(f"{fewer} segments")


def test_a_large_image_is_segmented_in_tiles_as_in_python(page: Any, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", style="cells", count=1, size=(200, 500))
    path = images(tmp_path / "data")[0]
    own = mc.Predictor(NUCLEI)(path)
    page.evaluate(  # what is told on the way is gone too soon for a look every second
        """() => {
            const status = document.querySelector("#status");
            window.said = [];
            new MutationObserver(() => window.said.push(status.textContent)).observe(
                status, { childList: true, characterData: true, subtree: true });
        }"""
    )
    page.set_input_files("#files", str(path))
    told(page, "segments,")
    assert any("of 2 tiles…" in text for text in page.evaluate("window.said"))
    assert page.text_content("#count") == f"{len(own)} segments"
    assert (ids_of(page, tmp_path) != own.ids).mean() <= MOST_OTHER_PIXELS


def test_it_works_offline_after_the_first_visit(page: Any, data: Path) -> None:
    page.server.shutdown()
    page.server.server_close()
    page.reload()
    told(page, "WASM")
    page.set_input_files("#files", str(images(data)[0]))
    told(page, "segments,")


def test_a_broken_image_is_told_and_the_page_goes_on(page: Any, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    page.set_input_files("#files", str(broken))
    told(page, "broken.png: not an image that this browser can read")
    assert page.get_attribute("#status", "class") == "error"
    page.set_input_files("#files", str(images(data)[0]))
    told(page, "segments,")


def test_the_camera_is_segmented_live(page: Any) -> None:
    page.click("#camera")
    page.click("#live")
    told(page, "frames/s")
    page.click("#live")


@pytest.mark.parametrize("missing", ["model.onnx", "ort.wasm.wasm.gz"])
def test_a_missing_file_is_told_in_one_line(browser: Any, site: Path, tmp_path: Path, missing: str) -> None:
    for path in site.iterdir():
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    server = host(tmp_path)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    told(page, f"{missing} is missing on this server (404); export the site again")
    page.close()
    server.shutdown()
    server.server_close()
