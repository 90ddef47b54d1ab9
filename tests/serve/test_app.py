"""The HTTP interface: right answers, and one line with a fitting status for everything else."""

import asyncio
import base64
import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.testclient import TestClient

import maskconver as mc
from maskconver.cli.main import main
from maskconver.core.panoptic_png import read_panoptic_png
from maskconver.errors import ConfigError
from maskconver.serve.app import create_app
from maskconver.serve.session import Kept, Session
from tests.fakes import FakeRuntime, bright_image


def png(size: tuple[int, int] = (48, 64), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def predictor() -> mc.Predictor:
    return mc.Predictor(FakeRuntime(), max_pixels=100_000, score_threshold=0.0)


@pytest.fixture
def client(predictor: mc.Predictor) -> Iterator[TestClient]:
    with TestClient(create_app(predictor, max_bytes=1 << 20), base_url="http://localhost") as client:
        yield client


def test_segments_are_those_of_the_predictor(client: TestClient, predictor: mc.Predictor) -> None:
    data = png()
    answer = client.post("/v1/segment", content=data).json()
    own = predictor(Image.open(io.BytesIO(data)))
    assert (answer["height"], answer["width"]) == own.ids.shape
    assert np.array_equal(read_panoptic_png(base64.b64decode(answer["ids"])), own.ids)
    assert [s["id"] for s in answer["segments"]] == [s.id for s in own]

    form = client.post("/v1/segment?format=png", files={"file": ("a.png", data)})
    assert form.headers["content-type"] == "image/png"
    assert np.array_equal(read_panoptic_png(form.content), own.ids)
    coco = client.post("/v1/segment?format=coco", content=data).json()
    assert coco["annotations"][0]["segments_info"] == own.to_coco(0, "image.png")["segments_info"]
    overlay = client.post("/v1/segment?format=overlay", content=data)
    assert Image.open(io.BytesIO(overlay.content)).size == (64, 48)
    assert client.post("/v1/segment?format=csv", content=data).text.count("\n") == len(own) + 1
    assert len(client.post("/v1/segment?format=geojson", content=data).json()["features"]) == len(own)


def test_labelme_files_have_the_name_of_the_image(client: TestClient, predictor: mc.Predictor) -> None:
    data = png()
    found = client.post("/v1/segment?format=labelme&name=a/b%20c.png", content=data).json()
    assert found["imagePath"] == "a/b c.png" and (found["imageHeight"], found["imageWidth"]) == (48, 64)
    own = predictor(Image.open(io.BytesIO(data)))
    assert {shape["label"] for shape in found["shapes"]} == {s.category for s in own if s.area}
    assert all(shape["points"] and 0 <= shape["score"] <= 1 for shape in found["shapes"])


def test_outlines_on_the_image_are_refused_where_answers_have_another_size() -> None:
    predictor = mc.Predictor(FakeRuntime(), output_side=32)
    with TestClient(create_app(predictor), base_url="http://localhost") as client:
        answer = client.post("/v1/segment", content=png()).json()
        assert (answer["height"], answer["width"]) == (24, 32)
        formats = client.get("/v1/model").json()["formats"]
        assert formats == ["json", "coco", "png", "overlay", "csv"]
        for form in ("geojson", "labelme"):
            refused = client.post(f"/v1/segment?format={form}", content=png())
            assert refused.status_code == 400
            assert f"no format '{form}' with --output-side; there are json" in refused.json()["error"]


def test_large_images_are_segmented_in_tiles_also_with_new_thresholds() -> None:
    predictor = mc.Predictor(FakeRuntime(), tile=64, score_threshold=0.0)
    with TestClient(create_app(predictor), base_url="http://localhost") as client:
        data = png((100, 150))
        answer = client.post("/v1/segment", content=data).json()
        own = predictor(Image.open(io.BytesIO(data)))
        assert np.array_equal(read_panoptic_png(base64.b64decode(answer["ids"])), own.ids)
        again = client.post(f"/v1/segment?token={answer['token']}&score_threshold=0.85").json()
        assert {s.category for s in own} == {"cell", "ground"}
        assert {s["category"] for s in again["segments"]} == {"cell"}  # ground has 0.8
        small = client.post("/v1/segment", content=png((48, 64))).json()
        assert len(small["segments"]) == 2
        assert 'stage="tiles"' in client.get("/metrics").text


@pytest.mark.parametrize("memory", [256 << 20, 6_000])
def test_new_thresholds_of_tiles_need_no_network_where_their_proposals_are_kept(memory: int) -> None:
    runtime = FakeRuntime()
    predictor = mc.Predictor(runtime, tile=64, score_threshold=0.0)
    session = Session(predictor, memory=memory)

    async def both() -> tuple[Kept, mc.Segmentation]:
        token, _, _ = await session.segment(png((100, 150)), {})
        runtime.shapes.clear()
        found = await session.again(token, {"score_threshold": 0.85})
        assert found is not None
        return found

    kept, result = asyncio.run(both())
    session.close()
    assert kept.tiles is not None and kept.tiles.size <= memory * 3 / 4
    assert kept.tiles.whole == (memory > 1 << 20) == (not runtime.shapes)
    predictor.postprocess.score_threshold = 0.85
    assert np.array_equal(result.ids, predictor(Image.open(io.BytesIO(png((100, 150))))).ids)


def test_new_thresholds_need_no_image_and_no_network(client: TestClient) -> None:
    token = client.post("/v1/segment", content=png()).json()["token"]
    before = client.get("/metrics").text
    answer = client.post(f"/v1/segment?token={token}&score_threshold=1")
    assert answer.status_code == 200 and answer.json()["segments"] == []
    images = [line for line in before.splitlines() if line.startswith("maskconver_images_total")]
    assert images[0] in client.get("/metrics").text
    assert client.post("/v1/segment?token=gone").status_code == 410


def test_thresholds_below_those_of_the_page_find_what_the_predictor_finds() -> None:
    class Unsure(FakeRuntime):
        def __call__(self, images: np.ndarray) -> mc.Proposals:
            found = super().__call__(images)
            found.scores[:, 1] = 0.03
            return found

    buffer = io.BytesIO()
    Image.fromarray(bright_image()).save(buffer, "PNG")
    data = buffer.getvalue()
    low, usual = (mc.Predictor(Unsure(), score_threshold=value) for value in (0.01, 0.5))
    own = [s.category for s in low(Image.open(io.BytesIO(data)))]
    assert own == ["cell", "ground"]

    def names(client: TestClient, query: str = "") -> list[str]:
        answer = client.post("/v1/segment" + query, content=data).json()
        return [s["category"] for s in answer["segments"]]

    with TestClient(create_app(low), base_url="http://localhost") as client:
        assert names(client) == own
    with TestClient(create_app(usual), base_url="http://localhost") as client:
        assert names(client) == ["cell"] and names(client, "?score_threshold=0.01") == own
        token = client.post("/v1/segment", content=data).json()["token"]
        assert client.post(f"/v1/segment?token={token}&score_threshold=0.05").status_code == 200
        assert client.post(f"/v1/segment?token={token}&score_threshold=0.01").status_code == 410


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("", b"", 400),
        ("", b"no image", 422),
        ("", png()[:200], 422),
        ("", png((400, 400))[:100] + b"\0" * 50, 413),
        ("", b"x" * (1 << 20) + b"x", 413),
        ("?format=exe", png(), 400),
        ("?score_threshold=nan", png(), 400),
        ("?score_threshold=-1", png(), 400),
        ("?overlap_threshold=" + "9" * 400, png(), 400),
        ("?token=../../etc/passwd", b"", 410),
        ("?score-threshold=0.5", png(), 400),
        ("?mask_threshold=0.5", png(), 400),
        ("?score_threshold=0.9&score_threshold=0.1", png(), 400),
    ],
)
def test_bad_requests_get_one_line(client: TestClient, query: str, body: bytes, status: int) -> None:
    answer = client.post("/v1/segment" + query, content=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"] and "\n" not in answer.json()["error"]
    assert client.get("/healthz").json()["status"] == "ok"


def test_forms_without_a_file_and_broken_forms(client: TestClient) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x"}
    for content, headers in ((b"--x\r\nbroken", kind), (b"", {"content-type": "multipart/form-data"})):
        assert client.post("/v1/segment", content=content, headers=headers).status_code == 400
    assert client.post("/v1/segment", data={"a": "b"}, files={}).status_code in (400, 422)


def test_every_answer_forbids_other_sites(client: TestClient) -> None:
    for path in ("/", "/app.js", "/app.css", "/v1/model", "/nothing"):
        answer = client.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
    page = client.get("/").text
    assert "http" not in page.replace("http-equiv", "") and "<style" not in page and "onclick" not in page
    assert client.get("/../app.py").status_code == 404 and client.get("/%2e%2e/app.py").status_code == 404


def test_only_named_hosts_are_served(predictor: mc.Predictor) -> None:
    with TestClient(create_app(predictor, hosts=["localhost"]), base_url="http://evil.example") as client:
        assert client.get("/v1/model").status_code == 400


def test_a_full_queue_and_a_slow_network_are_told() -> None:
    predictor = mc.Predictor(FakeRuntime())
    run = predictor.runtime

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(run, name)

        def __call__(self, images: Any) -> Any:
            time.sleep(0.3)
            return run(images)

    predictor.runtime = Slow()  # type: ignore[assignment]
    with TestClient(create_app(predictor, seconds=0.05)) as client:
        late = client.post("/v1/segment", content=png())
        assert late.status_code == 504

    async def crowd() -> list[str]:
        session = Session(predictor, queue=2)
        asked = [session.segment(png(seed=i), {}) for i in range(4)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        session.close()
        return [type(a).__name__ for a in answers]

    assert sorted(asyncio.run(crowd())) == ["Busy", "Busy", "tuple", "tuple"]


def test_tiles_stop_when_nobody_waits_any_more() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FakeRuntime):
        def __call__(self, images: Any) -> Any:
            begun.set()
            assert go_on.wait(20)
            return super().__call__(images)

    runtime = Slow()
    session = Session(mc.Predictor(runtime, tile=64, batch_size=1, score_threshold=0.0))
    data = png((100, 150))

    async def gives_up() -> int:
        asked = asyncio.create_task(session.segment(data, {}))
        assert await asyncio.to_thread(begun.wait, 20)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        go_on.set()
        _, _, found = await session.segment(png((48, 64)), {})  # the network is free again
        assert len(found) == 2 and session.waiting == 0
        return len(runtime.shapes)

    assert asyncio.run(gives_up()) == 2  # one of six tiles, and the second image
    session.close()


def test_waiting_images_of_one_size_run_together() -> None:
    predictor = mc.Predictor(FakeRuntime(), batch_size=4)
    run, sizes = predictor.runtime, []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(run, name)

        def __call__(self, images: Any) -> Any:
            sizes.append(len(images))
            time.sleep(0.1)
            return run(images)

    alone = [predictor(Image.open(io.BytesIO(png(seed=i)))) for i in range(6)]
    predictor.runtime = Counting()  # type: ignore[assignment]

    async def crowd() -> list[Any]:
        session = Session(predictor)
        answers = await asyncio.gather(*(session.segment(png(seed=i), {}) for i in range(6)))
        session.close()
        return [result for _, _, result in answers]

    for one, other in zip(asyncio.run(crowd()), alone):
        assert np.array_equal(one.ids, other.ids)
    assert sum(sizes) == 6 and max(sizes) > 1


def test_memory_for_kept_images_is_bounded(predictor: mc.Predictor) -> None:
    async def many() -> tuple[int, int]:
        session = Session(predictor, memory=200_000)
        for i in range(12):
            await session.segment(png(seed=i), {})
        kept = sum(one.size for one in session._kept.values())
        session.close()
        return kept, len(session._kept)

    size, number = asyncio.run(many())
    assert size <= 200_000 and 1 <= number < 12


def test_openapi_names_every_path(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method in methods:
            answer = client.request(method, path)
            assert answer.status_code in (200, 400), path


def test_the_white_level_of_the_command_is_that_of_the_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[mc.Predictor] = []

    def stop(predictor: mc.Predictor, **_: Any) -> None:
        given.append(predictor)
        raise ConfigError("enough")

    monkeypatch.setattr("maskconver.serve.app.create_app", stop)
    assert main(["serve", "nuclei", "--white-level=4095"]) == 2
    assert given[0].reading["white_level"] == 4095
