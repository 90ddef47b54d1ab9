"""`convert`: annotations of any known format become a COCO panoptic data set; a report says how."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ...core.files import LFS_FIX, atomic_path
from ...core.segments import lookup
from ...errors import ConfigError, DataError, ImageError, MaskconverError, one_line
from ...io.decoding import orientation_of
from ...io.images import image_size
from ...io.lock import Lock, hold
from ...io.opening import opened
from .annotation import AnnotatedImage, Edges, Fault, Faults, Images, Options, Overlaps, Reader
from .archive import unpack
from .classes import ClassPlan, plan_classes
from .files import Files
from .folder import REPORT, begin_folder, replace_folder, require_free
from .rasterize import rasterize
from .registry import reader_of, recognise
from .splits import deal, group_of, group_pattern, split_name, split_shares
from .write import SetWriter


@dataclass(slots=True)
class Conversion:
    """What a conversion did; the content of `conversion.json`.

    Attributes:
        out: the folder that was written.
        format, reason: the source's format and why it is that one.
        decisions: what was decided, in plain sentences.
        splits: images by split.
        classes: for each class its id, name, whether it is a thing, segments and pixels; also the pixels that
            other segments were drawn over (`overlapped`).
        void: share of pixels without a class, 0…1.
        images: how many images were linked, copied, resized or only named.
        notes: how often something was noticed that leaves nothing out, by kind.
        errors: how often something was left out, by kind.
        faults: the first 10,000 of them.
        options: that were used.
        seconds: it took.
    """

    out: str
    format: str
    reason: str
    decisions: list[str] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)
    void: float = 0.0
    images: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    from_format: str | None = None,
    *,
    things: Iterable[str] = (),
    stuff: Iterable[str] = (),
    overlaps: Overlaps = "small-on-top",
    background: str | None = None,
    merge_stuff: bool = True,
    edges: Edges | None = None,
    split: str | Mapping[str, float] | None = None,
    group: str | None = None,
    seed: int = 0,
    images: Images = "link",
    image_folder: str | os.PathLike[str] | None = None,
    max_side: int | None = None,
    colors: str | os.PathLike[str] | None = None,
    class_attribute: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int], Callable[[], Any]] | None = None,
) -> Conversion:
    """Convert annotations to a COCO panoptic data set.

    What cannot be read is listed in the result and left out; the rest is converted. The folder appears only
    when all is done.

    Example:
        >>> import maskconver as mc
        >>> exported = mc.data.export("my_data", "my_labelme", "labelme", split="val")
        >>> mc.data.convert("my_labelme", "converted").format
        'labelme'

    Args:
        source: the folder, the .zip or the annotation file as the tool exported it.
        out: the folder to write.
        from_format: a name of `FORMATS`; recognised if left out.
        things, stuff: names of classes that are things or stuff; what the format says, else things.
        overlaps: which shape a pixel belongs to that lies in several: the smallest (`small-on-top`, by the
            area that the file states, else by pixels), the last in the file (`order`), that of the highest
            `score`; `fail` leaves such images out.
        background: the stuff class of pixels without annotation, or `void`. If left out: the class
            `background` where all classes are things, else void.
        merge_stuff: one segment for all regions of a stuff class in an image.
        edges: the pixels on a polygon's outline: all that are `touched`, as Pillow, OpenCV, labelme and YOLO
            draw it, or only those with their `centers` inside, as COCO's own tools do. If left out: `centers`
            for labelling tools, whose points lie anywhere in a pixel, else `touched`.
        split: shares such as `train=0.8,val=0.2`, to split the images at random, or one name for all. If left
            out, the source's own splits, or `train` where it has none.
        group: regular expression; images whose names match with the same text go to the same split.
        seed: of the split.
        images: `link` (a hard link, or a symbolic one to another disk), `copy`, or `none`.
        image_folder: where the images lie, if not in the source.
        max_side: reduce larger images and their annotation to this longer side, in pixels.
        colors: for colour PNGs, the file that says which colour is which class.
        class_attribute: for VIA, the attribute of a region that is its class.
        overwrite: replace `out` if it holds an earlier conversion.
        progress: called with the number of images (0 if unknown); what it returns is called after each.

    Returns:
        What was done and decided, and what was left out.

    Raises:
        ConfigError: an option that is not possible, such as a class there is not.
        DataError: the source is of no known format or of several, nothing in it can be converted, or `out` is
            there already.
        OSError: the folder cannot be written. Nothing is left behind then.
    """
    source, out = Path(source), Path(out)
    options = Options(
        things=tuple(things),
        stuff=tuple(stuff),
        overlaps=overlaps,
        background=background,
        merge_stuff=merge_stuff,
        edges=edges,
        split=split,
        group=group,
        seed=seed,
        images=images,
        image_folder=None if image_folder is None else Path(image_folder),
        max_side=max_side,
        colors=None if colors is None else Path(colors),
        class_attribute=class_attribute,
    )
    _require_possible(options)
    require_free(source, out, overwrite)
    with hold(out.absolute().with_name(f".{out.name}.lock"), str(out)) as lock:
        return _convert(source, out, from_format, options=options, progress=_beating(progress, lock))


def _beating(
    progress: Callable[[int], Callable[[], Any]] | None, lock: Lock
) -> Callable[[int], Callable[[], Any]]:
    """A progress that is a sign of life as well."""

    def begin(total: int) -> Callable[[], Any]:
        advance = progress(total) if progress else lambda: None

        def step() -> None:
            lock.beat()
            advance()

        return step

    return begin


def _convert(
    source: Path,
    out: Path,
    from_format: str | None,
    *,
    options: Options,
    progress: Callable[[int], Callable[[], Any]],
) -> Conversion:
    start = time.perf_counter()
    partial = out.with_name(out.name + ".partial")
    begin_folder(partial)
    try:
        faults = Faults()
        files = _files(source, out, partial, options, faults)
        reader, reason = _reader(files, from_format, options)
        if not reader.classes and (reader.faults.listed or next(reader.images(), None) is None):
            raise _nothing(reader.faults, source)  # it says why, better than the missing classes do
        reader.faults.errors.update(faults.errors)
        reader.faults.listed[:0] = faults.listed
        result = Conversion(str(out), reader.name, reason)
        result.options = {k: v for k, v in asdict(options).items() if v != getattr(Options(), k)}
        zipped = files.root.is_relative_to(partial)
        _Run(reader, options, partial / "set", result=result, zipped=zipped).run(source, progress)
        result.seconds = round(time.perf_counter() - start, 2)
        with atomic_path(partial / "set" / REPORT) as temporary:
            text = json.dumps(result.to_json(), ensure_ascii=False, indent=1, default=str)
            temporary.write_text(text, encoding="utf-8")
        replace_folder(partial / "set", out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


class _Run:
    """The state of one conversion."""

    def __init__(
        self, reader: Reader, options: Options, folder: Path, *, result: Conversion, zipped: bool
    ) -> None:
        self.reader, self.options, self.result = reader, options, result
        self.plan: ClassPlan = plan_classes(reader.classes, options)
        how: Images = "copy" if zipped and options.images == "link" else options.images
        folder.mkdir()
        self.writer = SetWriter(folder, self.plan.categories, how, options.max_side)
        self.pattern = group_pattern(options.group)
        self.segments: Counter[int] = Counter()
        self.pixels: Counter[int] = Counter()
        self.lost: Counter[str] = Counter()
        self.total = 0
        self.split_of: dict[Path, str] = {}

    def run(self, source: Path, progress: Callable[[int], Callable[[], Any]] | None) -> None:
        try:
            advance = progress(self.reader.count or len(self.reader.names)) if progress else None
            for image in self.reader.images():
                try:
                    self.add(image)
                except (MaskconverError, OSError) as error:
                    if isinstance(error, OSError) and error.filename is None:
                        raise  # the disk is full
                    kind = getattr(error, "kind", "") or "unusable-image"
                    text = getattr(error, "text", "") or one_line(error)
                    self.reader.faults.add(kind, getattr(error, "where", "") or image.where, text)
                if advance:
                    advance()
            self.finish(source)
        finally:
            self.writer.close()

    def add(self, image: AnnotatedImage) -> None:
        """Draw and write one image."""
        size = _size(image)
        void = None
        if image.ids is None:
            known = [s for s in image.shapes if self._known(s.name, image, s.entry)]
            stuff = self.plan.stuff if self.options.merge_stuff else frozenset()
            drawn = rasterize(
                known,
                size,
                self.reader.faults,
                image.where,
                overlaps=self.options.overlaps,
                stuff=stuff,
                edges=self.options.edges or self.reader.edges,
            )
            ids, segments, lost = drawn.ids, drawn.segments, drawn.lost
        else:
            segments = [s for s in image.segments if self._known(s.name, image, f"segment {s.id}")]
            keep = [s.id for s in segments]
            void, ids, lost = image.ids < 0, np.maximum(image.ids, 0), Counter()
            if image.path is not None and _is_turned(image.path):  # and the mask perhaps not
                self.reader.faults.note("images-turned-by-their-exif-tag")
            if len(keep) < len(image.segments):
                ids = lookup(ids, keep, keep, 0) if keep else np.zeros_like(ids)
        split = "set" if self.options.split is not None else split_name(image.split) or "train"
        if image.path is not None and self.split_of.setdefault(image.path, split) != split:
            self.reader.faults.note("images-in-several-splits")
        rows = [(s.id, self.plan.ids[s.name], s.crowd) for s in segments]
        ids, rows = self._filled(*self._merged(ids, rows))
        if void is not None:
            ids = np.where(void, np.int32(0), ids)
        written = self.writer.add(
            image.name,
            image.path or image.data,
            ids,
            rows,
            split=split,
            group=None if self.pattern is None else group_of(image.name, self.pattern),
            info=image.info,
        )
        for category, area in written:
            self.segments[category] += 1
            self.pixels[category] += area
        self.total += self.writer.pixels
        self.lost += lost

    def finish(self, source: Path) -> None:
        faults, result, writer = self.reader.faults, self.result, self.writer
        listed = {fault.where for fault in faults.listed}
        for name in self.reader.files.pointers():  # which no reader has recognised
            if (where := self.reader.files.where(name)) not in listed:
                faults.reject(_pointer(where), where)
        result.errors, result.faults = dict(faults.errors), faults.listed
        nothing = not any(n for c, n in self.segments.items() if c != self.plan.ids.get(self.plan.background))
        if not writer.splits or (nothing and faults.errors):
            raise _nothing(faults, source)
        splits, said = self._splits()
        writer.finish(splits, f"converted from {self.reader.title}")
        counts = Counter(splits)
        first = [s for s in ("train", "val") if s in counts]
        result.splits = {s: counts[s] for s in dict.fromkeys([*first, *sorted(counts)])}
        result.decisions = [*self.reader.decisions, *self.plan.decisions, *said]
        result.images = dict(writer.how)
        if writer.renamed:
            faults.note("renamed-images", writer.renamed)
        result.notes = dict(faults.notes)
        result.void = round(1 - self.pixels.total() / max(self.total, 1), 6)
        result.classes = [
            {
                "id": c.id,
                "name": c.name,
                "isthing": int(c.is_thing),
                "segments": self.segments[c.id],
                "pixels": self.pixels[c.id],
                "overlapped": self.lost[c.name],
            }
            for c in self.plan.categories
        ]

    def _splits(self) -> tuple[list[str], list[str]]:
        writer, options = self.writer, self.options
        if options.split is None:
            return writer.splits, []
        shares = split_shares(options.split)
        groups = [(k,) if g is None else g for k, g in enumerate(writer.groups)]
        text = ", ".join(f"{share:g} {name}" for name, share in shares.items())
        said = [f"the images are split by chance (seed {options.seed}): {text}"]
        if self.pattern is not None:
            alone = sum(g is None for g in writer.groups)
            said[0] += f"; {len(set(groups)) - alone} groups stay together"
            if alone:
                said.append(f"{alone} image names do not match `group` and are split one by one")
        return deal(groups, shares, options.seed), said

    def _known(self, name: str, image: AnnotatedImage, entry: str) -> bool:
        if name in self.plan.ids:
            return True
        where = f"{image.where}, {entry}" if entry else image.where
        self.reader.faults.add("unknown-class", where, f'there is no class "{name}"')
        return False

    def _merged(
        self, ids: NDArray[np.int32], rows: list[tuple[int, int, bool]]
    ) -> tuple[NDArray[np.int32], list[tuple[int, int, bool]]]:
        """One segment a stuff class, as far as that is wanted."""
        if not self.options.merge_stuff:
            return ids, rows
        stuff = {self.plan.ids[name] for name in self.plan.stuff}
        first: dict[int, int] = {}
        keys = [first.setdefault(category, id_) if category in stuff else id_ for id_, category, _ in rows]
        if keys == [r[0] for r in rows]:
            return ids, rows
        ids = lookup(ids, [r[0] for r in rows], keys, 0)
        return ids, [r for r, key in zip(rows, keys) if r[0] == key]

    def _filled(
        self, ids: NDArray[np.int32], rows: list[tuple[int, int, bool]]
    ) -> tuple[NDArray[np.int32], list[tuple[int, int, bool]]]:
        """The background in place of void."""
        if not self.plan.background or ids.all():
            return ids, rows
        category = self.plan.ids[self.plan.background]
        same = [r[0] for r in rows if r[1] == category]
        number = same[0] if same else max((r[0] for r in rows), default=0) + 1
        ids = np.where(ids == 0, np.int32(number), ids)
        return ids, rows if same else [*rows, (number, category, False)]


def _size(image: AnnotatedImage) -> tuple[int, int]:
    """Height and width, agreed by all that state them."""
    stated = None if image.width is None or image.height is None else (image.height, image.width)
    if image.ids is not None:
        shape = (image.ids.shape[0], image.ids.shape[1])
        if stated not in (None, shape):
            raise DataError(f"the annotation is {_by(shape)}, but states {_by(stated)}", kind="size-mismatch")
        stated = shape
    if stated is not None and min(stated) < 1:
        raise DataError(f"states a size of {_by(stated)}", kind="size-mismatch")
    source = image.path or image.data
    if source is None:
        if stated is None:
            raise DataError("neither an image nor a width and height", kind="missing-image")
        return stated
    try:
        size = image_size(source, name="" if image.path is None else None)
    except ImageError as error:
        raise DataError(error.text, where=error.where or image.where, kind="bad-image") from None
    if stated not in (None, size):
        what = f"annotated at {_by(stated)}, but the image {image.path or 'in it'} is {_by(size)}"
        with opened(source, image.where) as file:
            turned = stated == size[::-1] and orientation_of(file) >= 5
        text = "turned by its EXIF tag; annotate it as viewers show it, or remove the tag"
        raise DataError(f"{what}, {text}" if turned else what, kind="size-mismatch")
    return size


def _is_turned(path: Path) -> bool:
    """Whether a JPEG says that it is shown turned or mirrored."""
    with opened(path, "") as file:
        return file.format in ("JPEG", "MPO") and orientation_of(file) > 1


def _nothing(faults: Faults, source: Path) -> DataError:
    total = faults.errors.total()
    first = f", first {faults.listed[0]}" if total > 1 else f", {faults.listed[0]}" if total else ""
    return DataError(
        f"no image could be converted ({total} error{'s' * (total != 1)}{first})", where=str(source)
    )


def _by(size: tuple[int, int] | None) -> str:
    return "nothing" if size is None else f"{size[1]}×{size[0]}"


def _require_possible(options: Options) -> None:
    for name, value, among in (
        ("overlaps", options.overlaps, get_args(Overlaps)),
        ("images", options.images, get_args(Images)),
        ("edges", options.edges, (None, *get_args(Edges))),
    ):
        if value not in among:
            raise ConfigError(f'`{name}` is one of {", ".join(filter(None, among))}, not "{value}"')
    if options.max_side is not None and options.max_side < 1:
        raise ConfigError(f"`max_side={options.max_side}` is not possible; it must be 1 or more")
    if options.max_side is not None and options.images == "none":
        raise ConfigError("`max_side` writes smaller images, so it cannot be used with `images=none`")
    if options.split is not None:
        split_shares(options.split)
    elif options.group is not None:
        raise ConfigError("`group` works only with `split`")
    group_pattern(options.group)


def _files(source: Path, out: Path, partial: Path, options: Options, faults: Faults) -> Files:
    if source.is_file() and zipfile.is_zipfile(source):
        inside = unpack(source, partial / "source", faults)
        return Files(inside, options.image_folder, shown=os.fspath(source))
    files = Files(source, options.image_folder, skip=out)
    if partial.is_relative_to(files.root):
        start = partial.relative_to(files.root).as_posix() + "/"
        files.names = [n for n in files.names if not n.startswith(start)]
    return files


def _reader(files: Files, name: str | None, options: Options) -> tuple[Reader, str]:
    try:
        reader, reason = recognise(files) if name is None else (reader_of(name), "as you said")
        return reader(files, options), reason
    except DataError:
        for pointer in files.pointers():  # why nothing is recognised
            raise _pointer(files.where(pointer)) from None
        raise


def _pointer(where: str) -> DataError:
    return DataError("not an annotation", where=where, fix=LFS_FIX)
