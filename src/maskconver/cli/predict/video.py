"""`maskconver predict` for videos, cameras and network streams."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.segmentation import Segmentation
from ...errors import ConfigError, ImageError, MaskconverError, one_line
from ...inference.stream import behind, timed
from ...inference.video import segment_video
from ...io.naming import unique_stems
from ...io.results import panoptic_writer, table_writer
from ...io.video import VideoReader, is_live, is_video, video_writer
from ..options import progress_bar, shown

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from ...inference.predictor import Predictor

# Options that are about single images, with the value that leaves them out.
FOR_IMAGES: dict[str, Any] = {
    "labels": False,
    "semantic_from": None,
    "geojson": False,
    "intensity": False,
    "to": None,
    "ids_from": None,
    "resume": False,
    "shard": None,
    "draft_jpeg": False,
    "no_masks": False,
    "white_level": None,
}
STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")


def names_videos(paths: list[str]) -> bool:
    """Whether the paths are videos.

    Raises:
        ConfigError: some are and some are not, or there are several and one is a camera or a stream; one
            is an address of an object store.
    """
    if stored := [path for path in paths if path.partition("://")[0] in STORES and "://" in path]:
        raise ConfigError(
            f"{stored[0]} is in an object store, which only --engine ray can read; add that option"
        )
    videos = [path for path in paths if is_video(path) and not (path.isdecimal() and Path(path).exists())]
    if videos and len(videos) < len(paths):
        other = next(path for path in paths if path not in videos)
        raise ConfigError(f"{videos[0]} is a video and {other} is not; predict them one after the other")
    if len(videos) > 1 and (live := [path for path in videos if is_live(path)]):
        raise ConfigError(f"{live[0]} is a camera or a stream; predict it alone")
    return bool(videos)


def require_images(args: Namespace) -> None:
    """Refuses the options of videos where the inputs are images."""
    for name in ("every", "max_frames", "frame_masks", "no_track"):
        value = getattr(args, name)
        if value is not None and value is not False:  # 0 is given, too
            raise ConfigError(f"--{name.replace('_', '-')} is for videos")


def run_videos(args: Namespace, predictor: Predictor) -> int:
    """Segments videos; 0 when all of them were segmented to the end, 1 when some were not."""
    out, rows, failures = Path(args.out), [], []
    start = time.perf_counter()
    stems = _stems(args.paths)
    files = [source for source in args.paths if Path(source).exists()]
    for target in (out / f"{stem}.mp4" for stem in stems):
        source = next((one for one in files if target.exists() and target.samefile(one)), None)
        if source is not None:  # `clip.mp4` could also be the result of `clip.mov`
            raise ConfigError(f"{source} would be replaced by a result; choose another folder with --out")
    with ExitStack() as stack:
        table = None
        if args.table:
            table = stack.enter_context(table_writer(Path(args.table), pixel_size=args.pixel_size))
        for source, stem in zip(args.paths, stems):
            row: dict[str, Any] = {
                "video": source,
                "out": str(out / f"{stem}.mp4"),
                "frames": 0,
                "objects": 0,
            }
            seconds: dict[str, float] = {}
            begun = time.perf_counter()
            try:
                _segment(args, predictor, source, out, stem, table=table, row=row, seconds=seconds)
            except ImageError as error:
                text = error.text if error.where == source else str(error)
                failures.append((source, shown(text)))
            row["seconds"] = {stage: round(value, 4) for stage, value in seconds.items()}
            row["seconds"]["total"] = round(time.perf_counter() - begun, 4)
            if row["frames"]:
                rows.append(row)
    if args.json:
        failed = [{"file": path, "reason": reason} for path, reason in failures]
        print(json.dumps({"videos": rows, "failed": failed}, ensure_ascii=False))
    else:
        for row in rows:
            rate = row["frames"] / row["seconds"]["total"]
            things = f", {row['objects']} things" if not args.no_track else ""
            print(f"{row['video']}: {row['frames']} frames{things}, {rate:.1f} frames/s: {row['out']}")
        if args.table:
            print(f"table: {args.table}")
        print(f"{time.perf_counter() - start:.1f} s in all")
    for path, reason in failures:
        print(f"{path}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def require_video_options(args: Namespace) -> None:
    """Refuses the options of images where the inputs are videos."""
    for name, default in FOR_IMAGES.items():
        if getattr(args, name) != default:
            raise ConfigError(f"--{name.replace('_', '-')} is for images, not for videos")


def _segment(
    args: Namespace,
    predictor: Predictor,
    source: str,
    out: Path,
    stem: str,
    *,
    table: Any,
    row: dict[str, Any],
    seconds: dict[str, float],
) -> None:
    reader = VideoReader(
        source,
        every=1 if args.every is None else args.every,
        max_frames=args.max_frames,
        max_pixels=predictor.max_pixels,
    )
    seen: set[int] = set()
    fault: ImageError | None = None
    with ExitStack() as stack:
        frames = segment_video(predictor, reader, track=not args.no_track, seconds=seconds)
        advance = stack.enter_context(progress_bar(Path(source).name, reader.frames, "frames"))
        masks = None
        if args.frame_masks:
            masks = stack.enter_context(panoptic_writer(out / stem, predictor.categories, {}))
        video = stack.enter_context(video_writer(out / f"{stem}.mp4"))

        def write(result: Segmentation, name: str, at: float) -> None:
            with timed(seconds, "write"):
                if masks:
                    masks(result, name)
                if table:
                    table(result)
                video.write(np.asarray(result.draw(by_id=not args.no_track)), at)

        try:
            with behind(write) as hand_over, closing(frames) as coming:
                for frame in coming:
                    name = f"{stem}_{frame.index:06d}"
                    result = replace(frame.segmentation, file_name=f"{name}.png")
                    with timed(seconds, "waiting"):
                        hand_over(result, name, frame.time)
                    seen.update(s.id for s in result if s.is_thing)
                    row["frames"] += 1
                    row["objects"] = len(seen)
                    advance()
        except KeyboardInterrupt:
            if not reader.live:  # the usual end of a camera's video
                raise
        except MaskconverError as error:
            fault = ImageError(error.text, where=error.where or source)
        except OSError as error:  # a full disk
            fault = ImageError(one_line(error), where=source)
        if fault is not None and not row["frames"]:
            raise fault
    if fault is not None:  # after the files are closed, which hold the frames before it
        raise fault


def _stems(sources: list[str]) -> list[str]:
    """A name for the results of each video."""
    stems = []
    for source in sources:
        stem = "camera" + source if source.isdecimal() else Path(source.split("?")[0].rstrip("/")).stem
        stem = "".join(c if c.isalnum() or c in "-_. " else "_" for c in stem) or "video"
        stems.append(stem.encode()[:200].decode(errors="ignore"))  # names have at most 255 bytes
    return unique_stems(stems)
