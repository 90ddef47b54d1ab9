"""A video as a stream of segmentations; decoding and the network run side by side."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.segmentation import Segmentation
from ..errors import MaskconverError
from ..io.video import Frame, VideoReader
from .tracking import Tracker

if TYPE_CHECKING:
    from .predictor import Predictor

WAITING = 2  # frames that are decoded and not yet taken


@dataclass(slots=True)
class VideoFrame:
    """The answer for one frame.

    Attributes:
        index: number of the frame in the video, from 0.
        time: in seconds from the first frame.
        segmentation: with the frame as its `image`.
    """

    index: int
    time: float
    segmentation: Segmentation


def segment_video(
    predictor: Predictor,
    source: str | os.PathLike[str] | VideoReader,
    *,
    every: int = 1,
    max_frames: int | None = None,
    track: Tracker | bool = True,
    seconds: dict[str, float] | None = None,
) -> Generator[VideoFrame, None, None]:
    """Segment a video, a camera or a stream, frame by frame.

    ```python
    for frame in segment_video(Predictor("nuclei"), "clip.mp4"):
        print(frame.time, len(frame.segmentation))
    ```

    A few frames are in memory at a time, whatever the length. Of a camera or a network stream the newest
    frame is taken, so that the answers do not fall behind.

    Args:
        predictor: any; images larger than its tiles are segmented in tiles.
        source: a file, the number of a camera (`0`), an address (`rtsp://…`), or a `VideoReader`, whose own
            `every` and `max_frames` hold.
        every: take every n-th frame only.
        max_frames: stop after so many frames.
        track: whether ids stay from frame to frame, see `Tracker`; one of your own, or false.
        seconds: gets the time of each stage added, as `Predictor.stream` does.

    Yields:
        The frames in order.

    Raises:
        ConfigError: `every` or `max_frames` below 1.
        ImageError: the source cannot be opened; or it is damaged or cut off, after the frames before that.
        MissingExtraError: PyAV is not installed.
    """
    if not isinstance(source, VideoReader):
        source = VideoReader(source, every=every, max_frames=max_frames, max_pixels=predictor.max_pixels)
    tracker = Tracker() if track is True else track or None
    with source:
        coming = _Background(source, newest=source.live)
        with closing(coming):
            answers = predictor.stream(coming, read=_image, threads=1, seconds=seconds)
            with closing(answers):
                for frame, answer in answers:
                    if isinstance(answer, MaskconverError):
                        raise answer
                    if tracker:
                        answer = tracker.update(answer)
                    yield VideoFrame(frame.index, frame.time, answer)
        if coming.error is not None:
            raise coming.error


def _image(frame: Frame) -> object:
    return frame.image


class _Background(Iterable[Frame]):
    """Frames decoded in a thread of its own, a few ahead; `newest` throws away those that wait too long.

    An error ends the frames; it is kept as `error`, so that those before it are all answered first.
    """

    def __init__(self, frames: Iterable[Frame], *, newest: bool) -> None:
        self.error: MaskconverError | None = None
        self._frames, self._newest = frames, newest
        self._queue: queue.Queue[Frame | None] = queue.Queue(1 if newest else WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            yield frame

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        while self._thread.is_alive():
            try:  # it may wait for room
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _work(self) -> None:
        try:
            for frame in self._frames:
                self._put(frame)
                if self._stop.is_set():
                    return
        except MaskconverError as error:
            self.error = error
        except Exception as error:
            self.error = MaskconverError(str(error) or type(error).__name__)
        finally:
            self._put(None)

    def _put(self, frame: Frame | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(frame, timeout=0.1)
                return
            except queue.Full:
                if self._newest and frame is not None:
                    with suppress(queue.Empty):
                        self._queue.get_nowait()
