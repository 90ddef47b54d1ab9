"""`predict --shard` and `--resume`: nothing is done twice or lost, whenever a process dies."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import maskconver
from maskconver.cli.main import main
from maskconver.io.journal import open_journal
from tests.fakes import FakeRuntime, bright_image

COMMAND = ["predict", "model.onnx", "in", "--out", "out", "--resume"]


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """Five images in `in` and a file that cannot be read, beside which the command runs."""
    runtime = FakeRuntime()
    monkeypatch.setattr("maskconver.inference.predictor.open_runtime", lambda *_, **__: runtime)
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(b"one")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for k, name in enumerate(("a", "b", "sub/a", "sub/c", "z")):
        Image.fromarray(bright_image(40 + 4 * k, 60)).save(f"in/{name}.png")
    Path("in/bad.png").write_bytes(b"no image")
    return runtime


def files(folder="out"):
    """The content of all results."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file() and "parts" not in p.parts
    }


def unbroken():
    """The results of a run without any of the options."""
    assert main(["predict", "model.onnx", "in", "--out", "whole", "--labels"]) == 1
    return files("whole")


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2].split("|")
from contextlib import contextmanager
from pathlib import Path
from maskconver.cli.predict import results
from maskconver.io import journal
from tests.fakes import FakeRuntime
import maskconver.inference.predictor as predictor

predictor.open_runtime = lambda *_, **__: FakeRuntime()
moment, calls = sys.argv[1], 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def third(function, half=None):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == 3:
            if half:
                half(*arguments)
            die()
        return function(*arguments, **named)
    return call

if moment == "image":
    results.write_panoptic_png = third(results.write_panoptic_png)
elif moment == "png":  # its temporary file is there, but not yet the PNG
    Path.replace = third(Path.replace)
elif moment == "before line":
    journal.Journal.add = third(journal.Journal.add)
elif moment == "line":
    journal._append = third(journal._append, lambda file, row: file.write(b'{"file_name": "sub/a.p'))
else:
    journal.panoptic_json = lambda *a: die()
from maskconver.cli.main import main
main(sys.argv[3:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["image", "png", "before line", "line", "merge"])
def test_a_killed_run_goes_on_to_the_same_results(runtime, moment, capsys):
    root = f"{Path(maskconver.__file__).parents[1]}|{Path(__file__).parents[2]}"
    command = [*COMMAND, "--labels"]
    run = subprocess.run([sys.executable, "-c", KILLED, moment, root, *command], timeout=60)
    assert run.returncode == -signal.SIGKILL
    assert not Path("out/panoptic.json").exists()
    assert main([*command, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["done_before"] >= {"merge": 5, "line": 1, "png": 0}.get(moment, 1)
    assert report["done_before"] + report["images"] == 5 and report["left"] == 0
    assert files() == unbroken()


def test_what_is_done_is_skipped_and_what_has_changed_or_failed_is_not(runtime, capsys):
    assert main(COMMAND) == 1
    before = files()
    runtime.shapes.clear()
    assert main(COMMAND) == 1  # the bad file is tried again
    assert runtime.shapes == [] and files() == before
    Image.fromarray(bright_image(80, 60)).save("in/b.png")
    Image.fromarray(bright_image(60, 60)).save("in/bad.png")
    Path("out/panoptic/z.png").unlink()
    assert main(COMMAND) == 0
    assert len(runtime.shapes) == 3
    assert [i["height"] for i in json.loads(files()["panoptic.json"])["images"]] == [40, 80, 60, 48, 52, 56]


def test_new_images_that_rename_the_results_of_others_are_seen(runtime):
    Path("in/bad.png").unlink()
    (Path("in/a.png")).rename("later.png")
    assert main(COMMAND) == 0 and "panoptic/a_2.png" not in files()
    Path("later.png").rename("in/a.png")
    assert main(COMMAND) == 0
    assert main(["predict", "model.onnx", "in", "--out", "whole"]) == 0
    assert files() == files("whole")


def test_shards_are_disjoint_and_the_last_one_merges(runtime, capsys):
    done = []
    for k in (2, 3, 1):
        runtime.shapes.clear()
        main([*COMMAND[:-1], "--labels", "--shard", f"{k}/3", "--json"])
        report = json.loads(capsys.readouterr().out)
        done.append(report["images"])
        assert Path("out/panoptic.json").exists() == (k == 1) == (report["left"] == 0)
    assert done == [2, 1, 2]  # 3 of 3 has the bad file
    assert files() == unbroken()
    assert main([*COMMAND, "--labels", "--shard", "2/2"]) == 0  # another division goes on
    assert "were done before" in capsys.readouterr().out


def test_a_disk_that_fills_up_keeps_what_is_done(runtime, monkeypatch, capsys):
    from maskconver.cli.predict import results

    write = results.write_panoptic_png

    def full(path, ids):
        if path.stem == "b":
            raise OSError(28, "No space left on device", str(path))
        write(path, ids)

    monkeypatch.setattr("maskconver.cli.predict.results.write_panoptic_png", full)
    assert main(COMMAND) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err and err.count("\n") == 1
    monkeypatch.setattr("maskconver.cli.predict.results.write_panoptic_png", write)
    assert main([*COMMAND, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["done_before"] == 1 and report["left"] == 0


def test_large_tiff_files_that_are_damaged_or_of_too_many_tiles_are_listed(tmp_path, monkeypatch, capsys):
    """The others are segmented; the run ends with exit code 1."""
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "maskconver.inference.predictor.open_runtime", lambda *_, **__: FakeRuntime("native", (64, 64))
    )
    monkeypatch.setattr("maskconver.inference.predictor.WINDOWED", 1)
    monkeypatch.setattr("maskconver.inference.mosaic.MOST_TILES", 50)
    for name, size in (("good", (150, 170)), ("bad", (150, 170)), ("wide", (64, 6400))):
        noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        tifffile.imwrite(f"{name}.tif", noise, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile("bad.tif") as file:
        offset = file.pages[0].dataoffsets[20]
    data = bytearray(Path("bad.tif").read_bytes())
    data[offset : offset + 40] = bytes(40)
    Path("bad.tif").write_bytes(data)
    with tifffile.TiffWriter("pages.tif") as file:
        for _ in range(2):
            file.write(noise[:, :60], photometric="rgb", metadata=None)
    Path("pages.tif").write_bytes(Path("pages.tif").read_bytes()[:-50])
    command = ["predict", "model.onnx", ".", "--out", "out", "--tile", "64", "--json"]
    assert main(command) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 1 and Path("out/panoptic/good.png").is_file()
    reasons = {Path(row["file"]).name: row["reason"] for row in report["failed"]}
    assert "damaged or cut off in part 21 of 30 of page 1 (" in reasons["bad.tif"]
    assert "damaged or cut off in part 1 of 1 of page 2 (" in reasons["pages.tif"]
    assert "tiles, more than 50" in reasons["wide.tif"] and "\n" not in str(reasons)


def test_tables_and_labelling_files_of_shards_are_those_of_one_run(runtime, capsys):
    own = ["--table", "all.csv", "--pixel-size", "0.5", "--to", "labelme"]
    assert main(["predict", "model.onnx", "in", "--out", "whole", *own]) == 1
    whole, table = files("whole"), Path("all.csv").read_bytes()
    assert len(table.splitlines()) == 1 + 5 * 2 and "labelme/c.json" in whole
    for k in (1, 2):
        assert not Path("out/labelme").exists()
        Path("all.csv").unlink(missing_ok=True)
        main([*COMMAND, *own, "--shard", f"{k}/2"])
    assert Path("all.csv").read_bytes() == table and files() == whole
    Path("all.csv").unlink()
    Path("out/labelme/a.json").write_text("corrected", encoding="utf-8")
    runtime.shapes.clear()
    assert main([*COMMAND, *own]) == 1 and runtime.shapes == []
    assert "stays as it is" in capsys.readouterr().err
    assert Path("out/labelme/a.json").read_text(encoding="utf-8") == "corrected"
    assert Path("all.csv").read_bytes() == table


def test_images_without_rows_for_a_table_are_done_again(runtime):
    main(COMMAND)
    runtime.shapes.clear()
    assert main([*COMMAND, "--table", "all.csv"]) == 1 and len(runtime.shapes) == 5
    assert len(Path("all.csv").read_text(encoding="utf-8").splitlines()) == 11


def test_a_shard_without_images_is_done(runtime):
    assert main([*COMMAND, "--shard", "9/9"]) == 0


def test_a_shard_belongs_to_one_process(runtime, capsys):
    with open_journal(Path("out"), (1, 2), {}, resume=True):
        assert main([*COMMAND, "--shard", "1/2"]) == 2
        assert "shard 1/2 is at work (process " in capsys.readouterr().err
        assert main(COMMAND) == 2
        assert "give all processes the same number of shards" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--shard", "0/2"], "--shard 0/2: write the number"),
        (["--shard", "3/2"], "--shard 3/2: write"),
        (["--shard", "half"], "--shard half: write"),
        (["--resume", "--to", "labelme", "--no-masks", "--labels"], "leave out --no-masks"),
        (["--resume", "--score-threshold", "0.4"], "out holds results of other settings (score_threshold)"),
        ([], "out holds results of --resume or --shard; add --resume"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(runtime, options, text, capsys):
    main(COMMAND)
    before = files()
    capsys.readouterr()
    assert main([*COMMAND[:-1], *options]) == 2
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1 and files() == before


def test_another_model_of_the_same_name_is_noticed(runtime, capsys):
    main(COMMAND)
    Path("model.onnx").write_bytes(b"two")
    assert main(COMMAND) == 2
    assert "other settings (model)" in capsys.readouterr().err


def test_resuming_what_is_done_with_drawings_does_nothing(runtime):
    words = ["predict", "fake", "in", "--out", "out", "--overlay", "--resume"]
    assert main(words) == 1  # the file that cannot be read
    assert main(words) == 1  # the file that cannot be read
