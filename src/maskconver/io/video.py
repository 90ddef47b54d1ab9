"""Video files, cameras and network streams, through PyAV (extra `video`): frames in, an MP4 out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.files import atomic_path, require_content
from ..errors import ConfigError, ImageError, MissingExtraError, one_line
from .images import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
TIMEOUT = 10.0  # seconds within which a camera or an address must answer
TIME_BASE = Fraction(
    1, 90_000
)  # of written files: the usual clock of video, fine enough for every frame rate
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}:none"),
    "win32": ("dshow", "video={}"),
}


def is_video(source: str | os.PathLike[str]) -> bool:
    """Whether this names a video: a file with such an ending, the number of a camera, or an address."""
    text = os.fspath(source)
    return is_live(text) or "://" in text or Path(text).suffix.lower() in SUFFIXES


def is_live(source: str | os.PathLike[str]) -> bool:
    """Whether frames come as they are taken: from a camera (`0`, `1`, …) or a stream (`rtsp://…`).

    Files behind `http://` and `https://` are read as files are.
    """
    text = os.fspath(source)
    return text.isdecimal() or (
        "://" in text and not text.lower().startswith(("http://", "https://", "file:"))
    )


@dataclass(slots=True)
class Frame:
    """One frame of a video.

    Attributes:
        index: its number in the video, from 0; of a camera, in what was read.
        time: in seconds from the first frame.
        image: H×W×3 uint8 RGB, upright.
    """

    index: int
    time: float
    image: NDArray[np.uint8]


class VideoReader:
    """The frames of a video, in order, decoded one at a time.

    Sound is left out. Frames are turned and mirrored as the file says (phones store that instead of turning
    pixels), and keep their own times, which need not be evenly spaced. 10 bits, grey and alpha become 8-bit
    RGB.

    Args:
        source: a file, the number of a camera (`0`), or an address (`rtsp://…`, `https://…`).
        every: take every n-th frame only.
        max_frames: stop after so many frames; all if None.
        max_pixels: larger frames are refused.

    Attributes:
        frames: how many frames the file says it has, divided by `every`; None if it does not say.

    Raises:
        ConfigError: `every` or `max_frames` below 1.
        ImageError: no such file, nothing answers within 10 seconds, or there is no video in it.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        every: int = 1,
        max_frames: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        for name, value in (("every", every), ("max_frames", max_frames)):
            if value is not None and value < 1:
                raise ConfigError(f"`{name}={value}` must be a number of frames, 1 or more")
        self.name, self.every = os.fspath(source), every
        self.max_frames, self.max_pixels = max_frames, max_pixels
        self.live = is_live(source)
        self._container = _opened(self.name)
        try:
            self._stream = self._video_stream()
        except ImageError:
            self._container.close()
            raise
        told = self._stream.frames or 0
        counts = [-(-told // every) if told > 0 else None, max_frames]
        self.frames = min((n for n in counts if n is not None), default=None)

    def __iter__(self) -> Iterator[Frame]:
        """Decode; once only.

        Raises:
            ImageError: the file is damaged or cut off; the frames before that have been given.
        """
        given, start, last, broken = 0, None, 0.0, False
        try:
            for index, frame in enumerate(self._container.decode(self._stream)):
                last, broken = frame.time or 0.0, frame.is_corrupt
                if index % self.every:
                    continue
                if self.max_frames is not None and given >= self.max_frames:
                    return
                time = frame.time
                if time is None:  # a stream without times: as its frame rate says
                    time = index / float(self._stream.average_rate or 25)
                start = time if start is None else start
                if frame.width * frame.height > self.max_pixels:
                    size = f"frames of {frame.width}×{frame.height} pixels"
                    raise ImageError(f"{size} are more than `max_pixels={self.max_pixels}`", where=self.name)
                yield Frame(index, time - start, _upright(frame))
                given += 1
                if given == self.max_frames:
                    return
        except (_av().FFmpegError, ValueError) as error:
            done = f"; {given} frames before that can be read" if given else ""
            raise ImageError(
                f"the video is damaged or cut off ({_words(error)}){done}", where=self.name
            ) from None
        if not given:
            raise ImageError("the video has no frame that can be read", where=self.name)
        self._require_all(given, last, broken)

    def close(self) -> None:
        """Let go of the file or camera."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _video_stream(self) -> VideoStream:
        streams = self._container.streams.video
        if not streams:
            kinds = ", ".join(sorted({one.type for one in self._container.streams})) or "nothing"
            raise ImageError(f"there is no video in it, only {kinds}", where=self.name)
        stream = streams[0]
        if stream.codec_context is None:
            raise ImageError("its video is stored in a way that cannot be decoded", where=self.name)
        stream.thread_type = "AUTO"
        return stream

    def _require_all(self, given: int, last: float, broken: bool = False) -> None:
        """A file that ends early is told from its last frame and from what it says of itself."""
        told = self._stream.frames or 0
        if self.live or self.max_frames is not None:
            return
        if told <= 0:  # Matroska and WebM say how long they are; of others, this is an estimate
            length = (self._container.duration or 0) / 1e6
            alone = "matroska" in self._container.format.name and len(self._container.streams) == 1
            if alone and length - last > max(1.0, length / 20):
                what = f"it says it has {length:.1f} s, the last frame is at {last:.1f} s"
                raise ImageError(f"the video ends early: {what}", where=self.name)
            if broken or self._ends_in_a_packet():  # transport streams say nothing of their length
                raise ImageError(
                    f"the video is cut off: its last frame, at {last:.1f} s, is not complete", where=self.name
                )
            return
        missing = -(-told // self.every) - given
        if missing > max(2, told // (20 * self.every)):  # some containers count a few frames too many
            raise ImageError(
                f"the video ends early: it says it has {told} frames, {missing * self.every} are missing",
                where=self.name,
            )

    def _ends_in_a_packet(self) -> bool:
        """Whether a file that is a transport stream ends within one of its packets."""
        path = Path(self.name)
        if "mpegts" not in self._container.format.name or not path.is_file():
            return False
        return all(path.stat().st_size % size for size in (188, 192, 204))


@contextmanager
def video_writer(path: Path) -> Iterator[VideoWriter]:
    """Writes an MP4 file (H.264 where it can be had), which takes its name when the block ends well.

    After Ctrl-C it holds what was done.

    Raises:
        ImageError: the file cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    stopped: BaseException | None = None
    with atomic_path(path) as temporary:
        writer = VideoWriter(temporary, str(path))
        try:
            yield writer
        except (KeyboardInterrupt, ImageError) as error:  # a damaged end: the frames before it stay
            stopped = error
            if not writer.frames:
                raise
        finally:
            writer.close()
        if not writer.frames:
            raise ImageError("no frame to write", where=str(path))
    if stopped is not None:
        raise stopped


class VideoWriter:
    """An MP4 file, frame by frame; see `video_writer`."""

    def __init__(self, path: Path, name: str) -> None:
        self.name, self.frames = name, 0
        self._stream: Any = None
        self._last = -1
        try:
            self._container = _av().open(str(path), "w", format="mp4")
        except (_av().FFmpegError, OSError) as error:
            raise ImageError(f"cannot be written ({_words(error)})", where=name) from None

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Add a frame.

        Args:
            image: H×W×3 uint8 RGB; all of one size, which is made even by repeating the last row or column.
            time: in seconds; frames whose time does not lie after the one before are moved behind it.
        """
        av = _av()
        height, width = image.shape[:2]
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        try:
            if self._stream is None:
                codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
                options = {"qscale": "3"}
                if codec == "libx264":  # with B frames the file's length would be wrong for uneven times
                    options = {"preset": "veryfast", "crf": "20", "bf": "0"}
                self._stream = self._container.add_stream(codec, rate=30, options=options)
                self._stream.width, self._stream.height = image.shape[1], image.shape[0]
                self._stream.pix_fmt = "yuv420p"
                self._stream.codec_context.time_base = TIME_BASE
                self._stream.time_base = TIME_BASE
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self._last = max(round(time / float(TIME_BASE)), self._last + 1)
            frame.pts, frame.time_base = self._last, TIME_BASE
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (av.FFmpegError, OSError) as error:
            raise ImageError(f"cannot be written ({_words(error)})", where=self.name) from None
        self.frames += 1

    def close(self) -> None:
        """Write what is still in the encoder, and the end of the file."""
        try:
            if self._stream is not None:
                for packet in self._stream.encode(None):
                    self._container.mux(packet)
            self._container.close()
        except (_av().FFmpegError, OSError) as error:
            raise ImageError(f"cannot be written ({_words(error)})", where=self.name) from None


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise MissingExtraError("video", "video") from None
    return av


def _opened(source: str) -> InputContainer:
    av = _av()
    where, form = source, None
    if source.isdecimal():
        form, pattern = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
        where = pattern.format(source)
        if sys.platform == "linux" and not Path(where).exists():
            raise ImageError(f"there is no camera {source} ({where} does not exist)", where=source)
    elif "://" not in source and not Path(source).is_file():
        raise ImageError("is a folder" if Path(source).is_dir() else "no such file", where=source)
    require_content(source, "a video", ImageError)
    options = {"rtsp_transport": "tcp"} if source.lower().startswith("rtsp") else {}
    try:
        container: InputContainer = av.open(
            where, "r", format=form, options=options, timeout=(TIMEOUT, TIMEOUT)
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        if source.isdecimal():
            what = f"camera {source} cannot be opened ({_words(error)})"
        elif "://" in source:
            what = f"nothing to read at this address within {TIMEOUT:.0f} seconds ({_words(error)})"
        else:
            what = f"not a video that can be read ({_words(error)})"
        raise ImageError(what, where=source) from None
    return container


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or one_line(error)
    return str(text).rstrip(".")


def _upright(frame: Any) -> NDArray[np.uint8]:
    """The pixels as players show them: turned by quarters and mirrored as the display matrix says."""
    image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    # Row vectors: (x, y) · [[a, b], [c, d]] is where a pixel is shown.
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
