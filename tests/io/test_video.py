"""Frames in and an MP4 out, with clips that are generated here."""

# ruff: noqa: E402  (the imports need PyAV)

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs the extra video (PyAV)")

from maskconver.errors import ImageError
from maskconver.io import video
from maskconver.io.video import VideoReader, is_live, is_video, video_writer


def clip(
    path: Path, frames: int = 12, size: tuple[int, int] = (48, 64), times: list[float] | None = None
) -> Path:
    """A clip whose frames are of one brightness each, 10·index; 10 frames a second unless times are given."""
    with video_writer(path) as writer:
        for i in range(frames):
            writer.write(np.full((*size, 3), 10 * i, np.uint8), times[i] if times else i / 10)
    return path


def sound(path: Path) -> Path:
    """A file with sound only."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def brightness(reader: VideoReader) -> list[int]:
    return [round(float(frame.image.mean()) / 10) for frame in reader]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    with VideoReader(clip(tmp_path / "a.mp4")) as reader:
        assert reader.frames == 12
        frames = list(reader)
    assert [round(f.image.mean() / 10) for f in frames] == list(range(12))
    assert [f.index for f in frames] == list(range(12))
    np.testing.assert_allclose([f.time for f in frames], np.arange(12) / 10, atol=1e-4)
    assert frames[0].image.shape == (48, 64, 3) and frames[0].image.dtype == np.uint8


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.51, 2.0]
    with VideoReader(clip(tmp_path / "a.mp4", 5, times=times)) as reader:
        np.testing.assert_allclose([f.time for f in reader], times, atol=1e-4)
    with av.open(str(tmp_path / "a.mp4")) as container:  # as long as players show it
        assert container.duration / 1e6 == pytest.approx(2.0, abs=0.1)


def test_times_that_stand_still_or_go_back_do_not_stop_the_writer(tmp_path: Path) -> None:
    with VideoReader(clip(tmp_path / "a.mp4", 4, times=[0.0, 1.0, 1.0, 0.5])) as reader:
        times = [f.time for f in reader]
    assert len(times) == 4 and times == sorted(times)


def test_odd_sizes_are_made_even(tmp_path: Path) -> None:
    with VideoReader(clip(tmp_path / "a.mp4", 3, size=(45, 63))) as reader:
        assert {f.image.shape for f in reader} == {(46, 64, 3)}


@pytest.mark.parametrize(
    ("every", "limit", "expected"), [(5, None, [0, 5, 10]), (1, 3, [0, 1, 2]), (4, 2, [0, 4])]
)
def test_some_of_the_frames(tmp_path: Path, every: int, limit: int | None, expected: list[int]) -> None:
    with VideoReader(clip(tmp_path / "a.mp4"), every=every, max_frames=limit) as reader:
        assert reader.frames == len(expected)
        assert brightness(reader) == expected


ONE = 1 << 16
LIGHT, GREY, DARK = 250, 120, 0


@pytest.mark.parametrize(
    ("matrix", "shown"),  # a, b, c, d: (x, y) goes to (ax + cy, bx + dy)
    [
        ((0, ONE, -ONE, 0), [[DARK, LIGHT], [DARK, GREY]]),  # turned clockwise, as phones store it
        ((0, -ONE, ONE, 0), [[GREY, DARK], [LIGHT, DARK]]),
        ((-ONE, 0, 0, -ONE), [[DARK, DARK], [GREY, LIGHT]]),
        ((-ONE, 0, 0, ONE), [[GREY, LIGHT], [DARK, DARK]]),  # mirrored, as front cameras store it
        ((ONE, 0, 0, -ONE), [[DARK, DARK], [LIGHT, GREY]]),
        ((0, ONE, ONE, 0), [[LIGHT, DARK], [GREY, DARK]]),  # turned and mirrored
        ((0, -ONE, -ONE, 0), [[DARK, GREY], [DARK, LIGHT]]),
    ],
)
def test_a_turned_or_mirrored_clip_is_upright(
    tmp_path: Path, matrix: tuple[int, ...], shown: list[list[int]]
) -> None:
    path = tmp_path / "a.mp4"
    with video_writer(path) as writer:
        image = np.full((48, 64, 3), DARK, np.uint8)
        image[:24, :32], image[:24, 32:] = LIGHT, GREY
        for i in range(3):
            writer.write(image, i / 10)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    a, b, c, d = matrix
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        frame = next(iter(reader)).image
    height, width = (64, 48) if b else (48, 64)
    assert frame.shape == (height, width, 3)
    found = frame[height // 4 :: height // 2, width // 4 :: width // 2, 0]
    np.testing.assert_allclose(found, shown, atol=6)


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "gray"), ("ffv1", "yuv420p10le"), ("ffv1", "bgra")])
def test_grey_deep_and_transparent_video_becomes_rgb(tmp_path: Path, codec: str, pixels: str) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts = i
            for packet in stream.encode(frame.reformat(format=pixels)):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    with VideoReader(path) as reader:
        images = [f.image for f in reader]
    assert len(images) == 2
    assert all(image.shape == (48, 64, 3) and abs(float(image.mean()) - 100) < 3 for image in images)


def test_a_cut_off_clip_gives_the_frames_before_and_then_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(40):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    seen = 0
    with VideoReader(path) as reader, pytest.raises(ImageError, match=r"ends early: it says it has 4\.0 s"):
        for _ in reader:
            seen += 1
    assert 5 < seen < 40

    mp4 = clip(tmp_path / "b.mp4", 12)
    data = mp4.read_bytes()
    start = data.index(b"mdat") + 40
    mp4.write_bytes(data[:start] + bytes(len(data) - start))
    with pytest.raises(ImageError, match=r"b\.mp4"):
        VideoReader(mp4)


@pytest.mark.parametrize(("codec", "packets"), [("libx264", True), ("libx264", False), ("mpeg2video", False)])
def test_a_cut_off_transport_stream_gives_the_frames_before_and_then_one_line(
    tmp_path: Path, codec: str, packets: bool
) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(40):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    whole = path.read_bytes()
    with VideoReader(path) as reader:
        assert len(list(reader)) == 40
    half = len(whole) // 376 * 188
    path.write_bytes(whole[: half if packets else half + 30])
    seen = 0
    with VideoReader(path) as reader, pytest.raises(ImageError, match="cut off") as caught:
        for _ in reader:
            seen += 1
    assert 5 < seen < 40 and "\n" not in str(caught.value)


def test_frames_that_the_file_promises_and_lacks_are_told(tmp_path: Path) -> None:
    with VideoReader(clip(tmp_path / "a.mp4")) as reader:
        with pytest.raises(ImageError, match="ends early: it says it has 12 frames, 5 are missing"):
            reader._require_all(7, 0.6)
        reader._require_all(11, 1.0)  # some containers count one too many


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.mp4", None, "no such file"),
        ("empty.mp4", b"", "not a video that can be read"),
        ("text.mp4", b"not a video, but words " * 50, "not a video that can be read"),
        ("zeros.mkv", bytes(5000), "not a video that can be read"),
        ("0" * 200 + ".mp4", b"x" * 99, "not a video that can be read"),
    ],
)
def test_what_is_no_video_is_one_line(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        VideoReader(path)
    assert caught.value.where == str(path) and "\n" not in str(caught.value)


def test_sound_alone_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no video in it, only audio"):
        VideoReader(sound(tmp_path / "a.mp4"))
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        VideoReader(tmp_path / "b.mp4")


def test_frames_that_are_too_large_are_refused(tmp_path: Path) -> None:
    with (
        VideoReader(clip(tmp_path / "a.mp4"), max_pixels=1000) as reader,
        pytest.raises(ImageError, match="64×48"),
    ):
        list(reader)


def test_a_camera_that_is_not_there_and_an_address_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TIMEOUT", 1.0)
    with pytest.raises(ImageError, match="camera 97"):
        VideoReader("97")
    with pytest.raises(ImageError, match="nothing to read at this address"):
        VideoReader("rtsp://127.0.0.1:9/x")


def test_writing_stops_in_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no frame to write"), video_writer(tmp_path / "a.mp4"):
        pass
    with pytest.raises(RuntimeError), video_writer(tmp_path / "a.mp4") as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImageError])
def test_what_was_done_before_a_stop_stays(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), video_writer(tmp_path / "a.mp4") as writer:
        writer.write(np.full((48, 64, 3), 100, np.uint8), 0.0)
        raise error("stop")
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert brightness(reader) == [10]


def test_what_counts_as_a_video() -> None:
    videos = ["a.mp4", "A.MOV", "0", "rtsp://host/a", "https://host/a.mp4", "x.webm"]
    assert [is_video(name) for name in [*videos, "a.png", "folder", "*.jpg"]] == [True] * 6 + [False] * 3
    assert [is_live(name) for name in videos] == [False, False, True, True, False, False]
