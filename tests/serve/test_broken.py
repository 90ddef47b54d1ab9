"""Uploads that are damaged, and clients that are slow, silent, too many or wrong: the server goes on."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

import httpx
from starlette.testclient import TestClient

import maskconver as mc
from maskconver.cli.main import main
from maskconver.serve import server as serving
from maskconver.serve.app import create_app
from tests.fakes import FakeRuntime

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
UPLOADS = 500


def files() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    found = []
    for name in FORMATS:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, name)
        found.append(buffer.getvalue())
    return found


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, with other bytes, with a part twice, without a part, or noise behind a right beginning."""
    kind, at = int(rng.integers(5)), int(rng.integers(1, len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        changed = bytearray(data)
        for place in rng.integers(0, min(len(data), 200), 1 + at % 20).tolist():
            changed[place] = int(rng.integers(256))
        return bytes(changed)
    if kind == 2:
        return data[:at] + data[at // 2 :]
    if kind == 3:
        return data[: at // 2] + data[at:]
    return data[: min(at, 40)] + rng.bytes(int(rng.integers(1, 400)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_uploads_get_one_line_and_the_server_goes_on() -> None:
    rng, originals = np.random.default_rng(1), files()
    predictor = mc.Predictor(FakeRuntime(), max_pixels=100_000, score_threshold=0.0)
    app = create_app(predictor, max_bytes=1 << 20)
    statuses: Counter[int] = Counter()
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        for number in range(UPLOADS):
            body = damaged(originals[number % len(originals)], rng)
            answer = client.post("/v1/segment?format=coco", content=body)
            statuses[answer.status_code] += 1
            if answer.status_code != 200:  # a damage that a decoder bears is none
                assert list(answer.json()) == ["error"] and "\n" not in answer.json()["error"], body[:40]
        assert client.post("/v1/segment", content=originals[0]).status_code == 200
    assert set(statuses) <= {200, 413, 422}, statuses
    assert statuses[422] > UPLOADS / 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_bad_image_of_the_shared_collection_gets_one_line(shared: Path) -> None:
    folder = shared / "golden" / "bad_inputs" / "images"
    predictor = mc.Predictor(FakeRuntime(), max_pixels=10_000_000)
    with TestClient(create_app(predictor), raise_server_exceptions=False) as client:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            answer = client.post("/v1/segment?format=coco", content=path.read_bytes())
            assert answer.status_code in (200, 400, 413, 422), path.name
            assert answer.status_code == 200 or "\n" not in answer.json()["error"]


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A real server on a free port of this machine, in a thread."""
    app = create_app(mc.Predictor(FakeRuntime(), score_threshold=0.0), max_bytes=1 << 20, seconds=2)
    before, serving.HEADERS_WITHIN = serving.HEADERS_WITHIN, 0.5
    server = serving.create_server(app)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()
    server.should_exit = True
    thread.join(20)
    serving.HEADERS_WITHIN = before
    assert not thread.is_alive()


def raw(address: tuple[str, int], sent: bytes, *, seconds: float = 10) -> bytes:
    """What the server answers to some bytes, until it closes the connection."""
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(sent)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


def healthy(address: tuple[str, int]) -> bool:
    return httpx.get(f"http://{address[0]}:{address[1]}/healthz", timeout=10).json()["status"] == "ok"


def test_answers_are_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[socket.socket] = []
    server = SimpleNamespace(run=lambda sockets: found.extend(sockets))
    own = mc.Predictor(FakeRuntime())
    monkeypatch.setattr("maskconver.inference.predictor.Predictor", lambda *_, **__: own)
    monkeypatch.setattr(serving, "create_server", lambda app: server)
    monkeypatch.setattr(serving, "use_one_heap", lambda: None)
    assert main(["serve", "nuclei", "--port", "0"]) == 0
    with found[0]:
        assert found[0].proto == socket.IPPROTO_TCP  # of others asyncio leaves TCP_NODELAY off


def test_headers_that_are_huge_or_no_http_are_refused(address: tuple[str, int]) -> None:
    start = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\n"
    assert raw(address, start + b"X: " + b"y" * 100_000).startswith(b"HTTP/1.1 400")
    many = b"".join(b"X-%d: y\r\n" % n for n in range(5000))
    assert raw(address, start + many).startswith(b"HTTP/1.1 400")
    assert raw(address, b"\x16\x03\x01 no http at all\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert healthy(address)


def test_clients_that_say_nothing_or_half_a_header_are_hung_up_on(address: tuple[str, int]) -> None:
    start = time.monotonic()
    assert raw(address, b"") == b"" == raw(address, b"POST /v1/segment HTT")
    assert time.monotonic() - start < 8
    assert healthy(address)


def test_a_body_that_never_ends_is_given_up(address: tuple[str, int]) -> None:
    head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    assert raw(address, head + b"half").startswith(b"HTTP/1.1 504")
    with socket.create_connection(address) as connection:  # and one that hangs up
        connection.sendall(head + b"half")
    chunked = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    assert b" 400" in raw(address, chunked)[:20]
    assert healthy(address)


@pytest.mark.parametrize(
    ("kind", "status"),
    [("application/json", 200), ("text/html; charset=wrong", 200), ("", 200), ("multipart/form-data", 400)],
)
def test_the_bytes_say_what_an_upload_is_not_its_content_type(
    address: tuple[str, int], kind: str, status: int
) -> None:
    url = f"http://{address[0]}:{address[1]}/v1/segment?format=coco"
    answer = httpx.post(url, content=files()[0], headers={"content-type": kind}, timeout=10)
    assert answer.status_code == status


@pytest.mark.slow
def test_two_hundred_connections_at_once_are_answered_or_told_to_wait(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "HEADERS_WITHIN", 60)  # this client is slow itself
    url, body = f"http://{address[0]}:{address[1]}/v1/segment?format=coco", files()[0]

    async def crowd() -> Counter[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            answers = await asyncio.gather(*(client.post(url, content=body) for _ in range(200)))
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code in (429, 503))
        return Counter(a.status_code for a in answers)

    statuses = asyncio.run(crowd())
    assert set(statuses) <= {200, 429, 503, 504} and statuses[200] >= 1, statuses
    assert healthy(address)


@pytest.mark.slow
def test_memory_stays_the_same_over_two_thousand_requests(address: tuple[str, int]) -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc to read the memory from")
    url, bodies, pages = f"http://{address[0]}:{address[1]}/v1/segment", files(), []
    with httpx.Client(timeout=60) as client:
        for number in range(2000):
            if number % 250 == 0:
                pages.append(int(statm.read_text().split()[1]))
            client.post(url, content=bodies[number % len(bodies)])
    grown = (max(pages[2:]) - pages[1]) * 4096  # the first requests fill what is kept
    assert grown < 16 << 20, pages
