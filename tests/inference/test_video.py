"""A video as a stream of segmentations, with networks that are stand-ins."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="needs the extra video (PyAV)")

from maskconver.core.categories import Categories
from maskconver.core.segmentation import Segmentation
from maskconver.errors import ConfigError, ImageError, MaskconverError
from maskconver.inference.video import _Background, segment_video
from maskconver.io.video import Frame, VideoReader, video_writer

CATEGORIES = Categories.from_json(
    [{"id": 1, "name": "ball", "isthing": 1}, {"id": 2, "name": "rest", "isthing": 0}]
)


class Bright:
    """Stands in for a `Predictor`: what is bright is a ball."""

    max_pixels = 1 << 20
    categories = CATEGORIES
    fails_at = -1

    def stream(self, frames: Any, *, read: Any, threads: int, seconds: Any) -> Iterator[Any]:
        for number, frame in enumerate(frames):
            image = read(frame)
            ids = np.where(image[..., 0] > 128, 1, 2).astype(np.int32)
            if number == self.fails_at:
                yield frame, MaskconverError("the network gave NaN")
                continue
            labels = [0, 1] if (ids == 1).any() else [1]
            yield (
                frame,
                Segmentation.from_ids(
                    ids, CATEGORIES, labels=labels, segment_ids=[1, 2][-len(labels) :], image=image
                ),
            )


def moving(path: Path, frames: int = 10) -> Path:
    with video_writer(path) as writer:
        for i in range(frames):
            image = np.zeros((48, 64, 3), np.uint8)
            image[20:30, 4 * i : 4 * i + 12] = 255
            writer.write(image, i / 10)
    return path


def test_every_frame_is_answered_in_order_with_ids_that_stay(tmp_path: Path) -> None:
    frames = list(segment_video(Bright(), moving(tmp_path / "a.mp4")))  # type: ignore[arg-type]
    assert [f.index for f in frames] == list(range(10))
    np.testing.assert_allclose([f.time for f in frames], np.arange(10) / 10, atol=1e-4)
    assert len({s.id for f in frames for s in f.segmentation if s.is_thing}) == 1
    assert all(f.segmentation.image is not None for f in frames)


def test_without_tracking_ids_are_those_of_the_network(tmp_path: Path) -> None:
    frames = list(segment_video(Bright(), moving(tmp_path / "a.mp4"), track=False, every=3))  # type: ignore[arg-type]
    assert [f.index for f in frames] == [0, 3, 6, 9]
    assert {s.id for f in frames for s in f.segmentation} == {1, 2}


def test_frames_before_a_fault_are_answered_first(tmp_path: Path) -> None:
    class Cut(VideoReader):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                if frame.index == 6:
                    raise ImageError("the video is damaged", where=self.name)
                yield frame

    seen = []
    with pytest.raises(ImageError, match="damaged"):
        for frame in segment_video(Bright(), Cut(moving(tmp_path / "a.mp4"))):  # type: ignore[arg-type]
            seen.append(frame.index)
    assert seen == list(range(6))


def test_an_error_of_the_network_ends_the_video(tmp_path: Path) -> None:
    network = Bright()
    network.fails_at = 2
    with pytest.raises(MaskconverError, match="NaN"):
        list(segment_video(network, moving(tmp_path / "a.mp4")))  # type: ignore[arg-type]
    assert not [t for t in threading.enumerate() if t.name == "decode"]


def test_stopping_early_ends_the_thread_that_decodes(tmp_path: Path) -> None:
    frames = segment_video(Bright(), moving(tmp_path / "a.mp4"))  # type: ignore[arg-type]
    assert next(frames).index == 0
    frames.close()
    assert not [t for t in threading.enumerate() if t.name == "decode"]


@pytest.mark.parametrize("settings", [{"every": 0}, {"max_frames": 0}])
def test_counts_below_one_are_refused(tmp_path: Path, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        next(segment_video(Bright(), tmp_path / "a.mp4", **settings))  # type: ignore[arg-type]


def test_a_long_video_keeps_a_few_frames_in_memory() -> None:
    class Endless(VideoReader):
        live, frames, max_frames = False, None, None

        def __init__(self) -> None:
            pass

        def __iter__(self) -> Iterator[Frame]:
            for i in range(10_000):
                image = np.zeros((16, 16, 3), np.uint8)
                image[4:8, i % 12 : i % 12 + 4] = 255
                yield Frame(i, i / 25, image)

        def close(self) -> None:
            pass

    most = count = 0
    for frame in segment_video(Bright(), Endless()):  # type: ignore[arg-type]
        count += 1
        if frame.index % 2500 == 0:
            most = max(most, sum(isinstance(o, Frame) for o in gc.get_objects()))
    assert count == 10_000
    assert most < 12


def test_a_camera_gives_its_newest_frame() -> None:
    go, read = threading.Event(), threading.Event()

    def frames() -> Iterator[Frame]:
        for i in range(50):
            yield Frame(i, i / 10, np.zeros((2, 2, 3), np.uint8))
        read.set()
        go.wait(10)
        yield Frame(50, 5.0, np.zeros((2, 2, 3), np.uint8))

    coming = _Background(frames(), newest=True)
    assert read.wait(20)
    first = next(iter(coming))
    assert first.index >= 48  # what waited longer is gone
    go.set()
    coming.close()
