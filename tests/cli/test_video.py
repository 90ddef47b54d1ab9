"""`maskconver predict` with videos."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs the extra video (PyAV)")
pytest.importorskip("onnxruntime")

from maskconver.cli.main import main
from maskconver.data.synth.write import synthesize
from maskconver.errors import ImageError
from maskconver.io.video import VideoReader, video_writer


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of cells that move to the right."""
    image = synthesize("cells", (96, 128), 3).image
    path = tmp_path_factory.mktemp("clips") / "cells.mp4"
    with video_writer(path) as writer:
        for i in range(4):
            writer.write(np.ascontiguousarray(np.roll(image, 3 * i, 1)), i / 8)
    return path


def test_a_clip_becomes_a_clip_with_its_segments_drawn(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ["predict", "nuclei", str(clip), "--out", str(tmp_path), "--device", "cpu", "--frame-masks"]
    assert main([*given, "--table", str(tmp_path / "cells.csv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["videos"][0]["frames"] == 4 and told["videos"][0]["objects"] > 0 and not told["failed"]
    with VideoReader(clip) as before, VideoReader(tmp_path / "cells.mp4") as after:
        pairs = list(zip(before, after))
    assert len(pairs) == 4
    for a, b in pairs:
        assert a.image.shape == b.image.shape and a.time == pytest.approx(b.time, abs=1e-4)
        assert np.abs(a.image.astype(int) - b.image).max() > 40  # something is drawn
    panoptic = json.loads((tmp_path / "cells" / "panoptic.json").read_text())
    assert [row["file_name"] for row in panoptic["images"]] == [f"cells_{i:06d}.png" for i in range(4)]
    assert (tmp_path / "cells" / "panoptic" / "cells_000003.png").is_file()
    rows = list(csv.DictReader((tmp_path / "cells.csv").open()))
    assert {row["image"] for row in rows} == {f"cells_{i:06d}.png" for i in range(4)}


def test_a_bad_clip_is_one_line_and_the_others_are_done(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    code = main(
        ["predict", "nuclei", str(bad), str(clip), "--out", str(tmp_path / "out"), "--max-frames", "1"]
    )
    told = capsys.readouterr()
    assert code == 1
    assert "cells.mp4: 1 frames" in told.out
    assert told.err.strip().splitlines() == [f"{bad}: {told.err.strip().partition(': ')[2]}"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cells.mp4"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["{clip}", "a.png"], "a.png is not"),
        (["{clip}", "0"], "predict it alone"),
        (["s3://bucket/plates"], "--engine ray can read"),
        (["{clip}", "--labels"], "--labels is for images"),
        (["{clip}", "--resume"], "--resume is for images"),
        (["{clip}", "--every", "0"], "1 or more"),
        (["a.png", "--every", "2"], "--every is for videos"),
        (["a.png", "--every", "0"], "--every is for videos"),
        (["a.png", "--frame-masks"], "--frame-masks is for videos"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture, given: list[str], words: str
) -> None:
    named = [word.format(clip=clip) for word in given]
    assert main(["predict", "nuclei", *named, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.strip()
    assert words in told and "\n" not in told


def test_a_video_is_never_replaced_by_its_result(clip: Path, capsys: pytest.CaptureFixture) -> None:
    before = clip.read_bytes()
    assert main(["predict", "nuclei", str(clip), "--out", str(clip.parent)]) == 2
    assert "would be replaced by a result" in capsys.readouterr().err
    assert clip.read_bytes() == before


def test_a_video_is_never_replaced_by_the_result_of_another(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first, second = tmp_path / "cells.mov", tmp_path / "cells.mp4"
    for path in (first, second):
        path.write_bytes(clip.read_bytes())
    assert main(["predict", "nuclei", str(first), str(second), "--out", str(tmp_path)]) == 2
    assert f"{second} would be replaced by a result" in capsys.readouterr().err
    assert second.read_bytes() == clip.read_bytes()


def test_all_results_of_the_frames_before_a_fault_stay(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(VideoReader, "_require_all", lambda reader, *_: _cut_off(reader.name))
    assert main(["predict", "nuclei", str(clip), "--out", str(tmp_path), "--frame-masks"]) == 1
    assert capsys.readouterr().err.strip() == f"{clip}: the video ends early"
    assert len(json.loads((tmp_path / "cells" / "panoptic.json").read_text())["images"]) == 4
    with VideoReader(tmp_path / "cells.mp4") as reader:
        assert reader.frames == 4


def _cut_off(name: str) -> None:
    raise ImageError("the video ends early", where=name)
