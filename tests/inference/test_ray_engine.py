"""`predict --engine ray`: every image has one row, whatever happens to the processes."""

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskconver import Predictor
from maskconver.cli.main import main
from maskconver.core.files import WEIGHTS
from maskconver.core.panoptic_png import read_panoptic_png
from maskconver.errors import ConfigError, ImageError, MaskconverError
from maskconver.inference import ray_engine
from maskconver.inference.ray_engine import (
    Plan,
    columns,
    filesystem,
    find_images,
    require_answer,
    segment_on_ray,
    unpack,
)
from tests.fakes import FakeRuntime, bright_image


class Mortal(FakeRuntime):
    """Ends its process at images of some heights: the first time (a file is made), or always."""

    def __init__(self, folder: Path, once: int = 0, always: int = 0) -> None:
        super().__init__("native")
        self.folder, self.once, self.always = folder, once, always

    def __call__(self, images: np.ndarray):
        flag, height = self.folder / "died", images.shape[2]
        if height == self.once and not flag.exists():
            flag.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if height == self.always:
            os.kill(os.getpid(), signal.SIGKILL)
        with (self.folder / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.02)
        return super().__call__(images)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """41 images, two of them of heights of their own, and a file that is none."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for k in range(41):
        height = {17: 128, 30: 96}.get(k, 64)
        path = tmp_path / "in" / ("sub" if k % 2 else ".") / f"{k:02}.png"
        Image.fromarray(bright_image(height, 96)).save(path)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    return tmp_path


def rows(out: Path) -> list[dict]:
    """All rows, as any reader of Parquet sees them."""
    pads = pytest.importorskip("pyarrow.dataset")
    return pads.dataset(out, format="parquet").to_table().to_pylist()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """The cluster that the engine starts, once for all tests."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        with ray_engine._cluster(ray_engine.import_ray(), Plan(actors=2, cpus=0.5)):
            assert ray.is_initialized()
            yield
    assert not ray.is_initialized()


@pytest.mark.slow
def test_nothing_is_lost_or_twice_when_an_actor_is_killed(folder: Path, cluster: None) -> None:
    images, _ = find_images([str(folder / "in")])
    seen: list[int] = []
    outcome = segment_on_ray(
        images, Mortal(folder, once=128), folder / "out", plan=Plan(actors=2, cpus=0.5), on_images=seen.append
    )
    assert (folder / "died").exists() and len(set((folder / "pids").read_text().split())) > 1
    assert outcome.images == 41 and [Path(path).name for path, _ in outcome.failed] == ["bad.png"]
    found = rows(folder / "out")
    assert sorted(row["path"] for row in found) == [path for path, _ in images] and sum(seen) == 42
    (bad,) = [row for row in found if row["error"]]
    assert bad["file_name"] == "bad.png" and "not an image" in bad["error"] and bad["panoptic_png"] is None
    row = next(row for row in found if row["file_name"] == "sub/17.png")
    expected = Predictor(FakeRuntime("native"))(folder / "in" / "sub" / "17.png")
    assert {k: row[k] for k in columns(expected)} == columns(expected)
    np.testing.assert_array_equal(read_panoptic_png(row["panoptic_png"]), expected.ids)

    # What is done is not done again; what failed is.
    (folder / "pids").unlink()
    Image.fromarray(bright_image(64, 96)).save(folder / "in" / "bad.png")
    (folder / "out" / "_part-x.parquet.12345678").write_bytes(b"of a process that was killed")
    again = segment_on_ray(images, Mortal(folder), folder / "out", plan=Plan(actors=1), resume=True)
    assert (again.images, again.before, again.failed) == (1, 41, [])
    found = rows(folder / "out")
    assert sorted(row["path"] for row in found) == [path for path, _ in images]
    assert not [row for row in found if row["error"]]


@pytest.mark.slow
def test_an_image_that_ends_its_process_each_time_fails_alone(folder: Path, cluster: None) -> None:
    images, _ = find_images([str(folder / "in")])
    outcome = segment_on_ray(images, Mortal(folder, always=96), folder / "out", plan=Plan(actors=2, cpus=0.5))
    assert sorted(Path(path).name for path, _ in outcome.failed) == ["30.png", "bad.png"]
    assert outcome.images == 40 and len(rows(folder / "out")) == 42
    with pytest.raises(MaskconverError, match="cannot begin: no model file"):
        segment_on_ray(images, "/no/such/model.onnx", folder / "other", plan=Plan(actors=1))


@pytest.mark.slow
def test_the_command_writes_the_files_of_a_run_on_one_machine(
    folder: Path, cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(folder)
    shutil.copy(WEIGHTS / "nuclei.onnx", "model.onnx")
    command = ["predict", "model.onnx", "in/sub", "--tile", "none"]
    assert main([*command, "--out", "plain"]) == 0
    more = ["--engine", "ray", "--actors", "2", "--actor-cpus", "0.5", "--format", "files", "--json"]
    capsys.readouterr()
    assert main([*command, "--out", "rays", *more]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["images"] == 20 and said.err == ""
    for name in ("panoptic.json", *(f"panoptic/{k:02}.png" for k in range(1, 41, 2))):
        assert (folder / "rays" / name).read_bytes() == (folder / "plain" / name).read_bytes(), name
    assert main([*command, "--out", "rays", *more]) == 2
    assert "continue with --resume" in capsys.readouterr().err
    assert main([*command, "--out", "rays", *more, "--resume", "--score-threshold", "0.4"]) == 2
    assert "other settings (score_threshold)" in capsys.readouterr().err


def test_images_are_found_in_folders_globs_lists_and_stores(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "sub/c.tif", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"")
    base = f"{tmp_path}/in"
    every = [(f"{base}/a.jpg", "a.jpg"), (f"{base}/b.png", "b.png"), (f"{base}/sub/c.tif", "sub/c.tif")]
    assert find_images([base]) == (every, [])
    assert find_images([f"{base}/*.png"]) == (every[1:2], [])
    stored = [(f"file://{path}", name) for path, name in every]
    assert find_images([f"file://{base}"]) == (stored, [])
    assert find_images([f"file://{base}/*.png"]) == (stored[1:2], [])
    assert find_images([f"file://{base}/b.png"]) == (stored[1:2], [])
    pq.write_table(
        pa.table({"path": ["b.png", f"{base}/a.jpg", None, "s3://x/y.png"]}), f"{base}/list.parquet"
    )
    listed = [(f"{base}/a.jpg", "a.jpg"), (f"{base}/b.png", "b.png"), ("s3://x/y.png", "y.png")]
    assert find_images([f"{base}/list.parquet"]) == (listed, [])
    found, wrong = find_images([base, f"file://{tmp_path}/nothing", f"{tmp_path}/no.parquet"])
    assert found == every and [text.count("no such file") for text in wrong] == [1, 1]
    for given, message in (
        (f"file://{base}/*.bmp", "no image there"),
        (f"{base}/notes.parquet", "no such file"),
    ):
        with pytest.raises(ImageError, match=message):
            find_images([given])
    pq.write_table(pa.table({"file": ["b.png"]}), f"{base}/other.parquet")
    with pytest.raises(ImageError, match=r"other\.parquet.*path"):
        find_images([f"{base}/other.parquet"])
    with pytest.raises(ConfigError, match="nowhere://x cannot be used"):
        filesystem("nowhere://x")


def test_results_of_two_folders_with_the_same_names_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    found, _ = find_images([str(tmp_path / "one"), str(tmp_path / "two")])
    assert [name for _, name in found] == ["one/a.png", "two/a.png"]


def test_an_address_nobody_answers_is_refused_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as silent, socket.socket() as other:
        for server in (silent, other):
            server.bind(("127.0.0.1", 0))
            server.listen()
        begun = time.monotonic()
        with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127.*no answer"):
            require_answer(f"127.0.0.1:{silent.getsockname()[1]}", 0.3)
        assert time.monotonic() - begun < 3

        def web() -> None:
            client, _ = other.accept()
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=web, daemon=True).start()
        with pytest.raises(ConfigError, match="another program"):
            require_answer(f"127.0.0.1:{other.getsockname()[1]}", 5)
        free = other.getsockname()[1]
    words = ["predict", "nuclei", str(tmp_path), "--engine", "ray", "--address", f"127.0.0.1:{free}"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"no Ray cluster answers at 127.0.0.1:{free}" in said and said.count("\n") == 1
    assert "--address" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "ray", "--overlay"], "leave out --overlay"),
        (["--engine", "ray", "--shard", "1/2"], "leave out --shard"),
        (["--engine", "ray", "--actors", "0"], "--actors 0"),
        (["--engine", "ray", "--address", "here"], "not HOST:PORT"),
        (["--engine", "ray", "--format", "files", "--out", "s3://x/y"], "a folder of this machine"),
        (["--actors", "2"], "--actors is for --engine ray"),
        (["--batch-size", "0"], "--batch-size 0"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "nuclei", str(tmp_path), *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_an_address_of_an_object_store_is_no_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "nuclei", "s3://x/y", "--engine", "ray", "--overlay"]) == 2
    assert "leave out --overlay" in capsys.readouterr().err


def test_unpacked_names_do_not_collide(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from maskconver.inference.ray_engine import DONE, FAILED, _write

    result = Predictor(FakeRuntime())(bright_image())
    given = [{"path": f"/{n}", "file_name": n} | columns(result) for n in ("b/A.png", "a.jpg", "a.png")]
    files, place = filesystem(tmp_path / "parquet")
    files.create_dir(place)
    _write(files, f"{place}/{DONE}1.parquet", given[:2], meta={"categories": result.categories.to_json()})
    _write(files, f"{place}/{DONE}2.parquet", given[2:], meta={})
    bad = {"path": "/x", "file_name": "x.png", "error": "no image"}
    _write(files, f"{place}/{FAILED}2.parquet", [bad], meta={})
    assert unpack(tmp_path / "parquet", tmp_path, result.categories) == 3
    written = json.loads((tmp_path / "panoptic.json").read_text())
    pairs = [(i["file_name"], a["file_name"]) for i, a in zip(written["images"], written["annotations"])]
    assert pairs == [("a.jpg", "a.png"), ("a.png", "a_2.png"), ("b/A.png", "A_3.png")]
    about = json.loads(pq.read_schema(tmp_path / "parquet" / f"{DONE}1.parquet").metadata[b"maskconver"])
    assert about["categories"][0]["name"] == "cell"
