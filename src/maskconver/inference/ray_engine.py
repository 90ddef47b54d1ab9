"""Images segmented by the actors of a Ray cluster, each with the model in memory; results as Parquet files.

Only paths go to the actors, and only counts come back: actors read the images and write the results
themselves, one file per batch, named by the images in it. A batch that is done again replaces its own file,
and the process that starts the run has little to do. docs/tasks/machines.md has the columns.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import posixpath
import socket
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ..core.categories import Categories
from ..core.files import IMAGE_SUFFIXES, atomic_path
from ..core.panoptic_png import encode_panoptic_png
from ..core.segmentation import Segmentation
from ..errors import ConfigError, ImageError, MaskconverError, MissingExtraError, one_line
from ..io.images import ImageWarning, read_image
from ..io.naming import unique_stems
from ..io.results import panoptic_json
from ..io.sources import list_images
from .predictor import Predictor

BATCH = 64  # images of a task, and of a Parquet file
TRIES = 3  # of a batch whose actor dies
KEY = b"maskconver"  # of the schema's metadata: categories and settings as JSON
SETTINGS = "_settings.json"  # readers of Parquet pass over names that begin so
DONE, FAILED, TRIED = "part-", "failed-", "_tried-"  # how the names of files begin


@dataclass
class Plan:
    """How a run uses the cluster.

    Attributes:
        address: `HOST:PORT`, `ray://…` or `auto`; a cluster of this machine alone if None.
        actors: processes with the model; as many as the cluster has room for if None.
        cpus: of each actor.
        gpus: of each actor, which may be a part of one.
        wait: seconds until an address that does not answer is given up.
    """

    address: str | None = None
    actors: int | None = None
    cpus: float = 1
    gpus: float = 0
    wait: float = 15.0


@dataclass
class Outcome:
    """What a run did: numbers of images and segments, what failed, and warnings about images."""

    images: int = 0
    before: int = 0
    segments: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)


def segment_on_ray(
    images: Sequence[tuple[str, str]],
    model: Any,
    out: str | os.PathLike[str],
    *,
    plan: Plan | None = None,
    options: dict[str, Any] | None = None,
    threads: int = 2,
    resume: bool = False,
    settings: dict[str, Any] | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Segment images with the actors of a Ray cluster.

    An image that cannot be segmented is a row with its error. A batch whose actor dies is done again; if it
    dies each time, its images are tried one by one, and only those that end the actor again fail.

    Args:
        images: path or address, and name in the results; see `find_images`.
        model: as of `Predictor`; a file must be there on all machines. An object is sent to the actors.
        out: folder or address for the Parquet files.
        plan: how the cluster is used.
        options: other arguments of `Predictor`.
        threads: images that an actor reads at the same time.
        resume: go on with what an earlier run left; images that failed are tried again.
        settings: plain values that decide what results are; a folder holds results of one set of them.
        on_images: called with a number of images that are done.

    Raises:
        ConfigError: no cluster answers, or `out` has other results.
        MaskconverError: the actors cannot work, e.g. as the disk is full; what is done stays.
        MissingExtraError: Ray is not installed.
    """
    ray, plan, outcome = import_ray(), plan or Plan(), Outcome()
    files, folder = filesystem(out)
    todo = list(images)
    with _reported(f"{out} cannot be written"):
        files.create_dir(folder, recursive=True)
        _require_same(files, folder, str(out), settings=settings or {}, resume=resume)
        done = _done(files, folder)
    todo = [image for image in images if image[0] not in done]
    outcome.before = len(images) - len(todo)
    on_images(outcome.before)
    if not todo:
        return outcome
    with _cluster(ray, plan):
        size = min(BATCH, -(-len(todo) // (4 * _actors(ray, plan))))
        # Actors begin in another folder.
        place = str(out) if "://" in str(out) else folder
        if isinstance(model, str | os.PathLike) and Path(model).exists():
            model = str(Path(model).absolute())
        work = {"model": model, "options": options or {}, "out": place, "threads": threads}
        work["settings"] = settings or {}
        for batch in (size, 1):  # what ends its actor is then alone
            todo = _run(ray, todo, batch, plan=plan, work=work, outcome=outcome, on_images=on_images)
            if not todo:
                break
    return outcome


def _run(
    ray: Any,
    images: list[tuple[str, str]],
    size: int,
    *,
    plan: Plan,
    work: dict[str, Any],
    outcome: Outcome,
    on_images: Callable[[int], None],
) -> list[tuple[str, str]]:
    """Has batches segmented; returns the images of those whose actors died."""
    batches = [images[i : i + size] for i in range(0, len(images), size)]
    lost: list[tuple[str, str]] = []
    pool = ray.data.ActorPoolStrategy(size=min(_actors(ray, plan), len(batches)))
    # A block each, so that it is one task, which Ray repeats where its actor dies.
    items = ray.data.from_items([{"batch": json.dumps(b)} for b in batches], override_num_blocks=len(batches))
    actors = items.map_batches(
        _Actor,
        fn_constructor_kwargs=work,
        batch_size=None,
        compute=pool,
        num_cpus=plan.cpus,
        num_gpus=plan.gpus or None,
    )
    try:
        for row in actors.iter_rows():
            about = json.loads(row["about"])
            if "fatal" in about:
                raise MaskconverError(about["fatal"])
            batch = [(path, name) for path, name in json.loads(row["batch"])]
            if about.get("crashed"):
                lost += batch
                continue
            outcome.images += len(batch) - len(about["failed"])
            outcome.failed += [(path, reason) for path, reason in about["failed"]]
            outcome.segments.update(about["segments"])
            outcome.warned += about["warned"]
            on_images(len(batch))
    except (ray.exceptions.RayError, OSError) as error:
        raise MaskconverError(f"Ray: {_cause(error)}") from error
    return lost


class _Actor:
    """Holds the model; takes a batch of paths and gives figures as JSON, where `fatal` is what stops it."""

    def __init__(
        self, model: Any, options: dict[str, Any], *, out: str, threads: int, settings: dict[str, Any]
    ) -> None:
        self.fatal, self.threads = "", threads
        try:
            self.files, self.folder = filesystem(out)
            self.predictor = Predictor(model, **options)
            self.meta = {"categories": self.predictor.categories.to_json(), "settings": settings}
        except (MaskconverError, OSError) as error:
            self.fatal = f"an actor on {socket.gethostname()} cannot begin: {one_line(error)}"

    def __call__(self, batches: dict[str, Any]) -> dict[str, list[str]]:
        answers = []
        for text in batches["batch"]:
            about: dict[str, Any] = {"fatal": self.fatal}
            if not self.fatal:
                try:
                    about = self._counted(dict(json.loads(text)))
                except OSError as error:
                    what = f"results cannot be written on {socket.gethostname()}: {one_line(error)}"
                    about = {"fatal": what}
            answers.append(json.dumps(about))
        return {"batch": [str(text) for text in batches["batch"]], "about": answers}

    def _counted(self, names: dict[str, str]) -> dict[str, Any]:
        """Segments images, unless they have ended too many actors already; a file counts the tries."""
        mark, tries = f"{self.folder}/{TRIED}{_key([*names])}", 1
        with suppress(FileNotFoundError, ValueError), self.files.open_input_stream(mark) as file:
            tries += int(file.read())
        if tries > TRIES and len(names) > 1:
            return {"crashed": True}
        with self.files.open_output_stream(mark) as file:
            file.write(str(tries).encode())
        about = self._segment(names) if tries <= TRIES else self._given_up(names)
        self.files.delete_file(mark)
        return about

    def _given_up(self, names: dict[str, str]) -> dict[str, Any]:
        text = f"ends the process that segments it, tried {TRIES} times"
        rows = [{"path": path, "file_name": name, "error": text} for path, name in names.items()]
        _write(self.files, f"{self.folder}/{FAILED}{_key([*names])}.parquet", rows, meta=self.meta)
        return {"failed": [(path, text) for path in names], "segments": {}, "warned": []}

    def _segment(self, names: dict[str, str]) -> dict[str, Any]:
        """Segments images and writes their rows, as one file or, where some failed, two."""
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        segments: Counter[str] = Counter()
        stream = self.predictor.stream(names, read=self._read, keep_images=False, threads=self.threads)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for path, answer in stream:
                row = {"path": path, "file_name": names[path]}
                try:
                    if isinstance(answer, MaskconverError):
                        raise answer
                    done.append(row | columns(answer))
                    segments.update(s.category for s in answer.segments)
                except MaskconverError as error:
                    text = error.text if error.where == path else one_line(error)
                    failed.append(row | {"error": text})
        for kind, rows in ((DONE, done), (FAILED, failed)):
            path = f"{self.folder}/{kind}{_key([*names])}.parquet"
            if rows:
                _write(self.files, path, rows, meta=self.meta)
            else:  # of an actor that died after it had written it
                with suppress(OSError):
                    self.files.delete_file(path)
        return {
            "failed": [(row["path"], row["error"]) for row in failed],
            "segments": segments,
            "warned": [one_line(str(w.message)) for w in caught if issubclass(w.category, ImageWarning)],
        }

    def _read(self, path: str) -> Any:
        """What `Predictor` takes: a local path as it is, the pixels of one elsewhere."""
        if "://" not in path:
            return path
        with _reported(path, ImageError):
            files, place = filesystem(path)
            with files.open_input_stream(place) as file:
                data = file.read()
        return read_image(data, name=path, **self.predictor.reading)


def columns(result: Segmentation) -> dict[str, Any]:
    """The columns of an image in the Parquet files; see docs/tasks/machines.md."""
    height, width = result.ids.shape
    kept = "id", "category_id", "category", "is_thing", "area"
    segments = [
        {name: getattr(s, name) for name in kept} | {"score": round(s.score, 5), "bbox": list(s.bbox)}
        for s in result.segments
    ]
    png = encode_panoptic_png(result.ids)
    return {"height": height, "width": width, "panoptic_png": png, "segments": segments}


def find_images(given: Sequence[str], *, column: str = "path") -> tuple[list[tuple[str, str]], list[str]]:
    """The images that paths name: files, folders and globs, here or in an object store, and Parquet lists.

    Args:
        given: `plates`, `plates/*.png`, `s3://bucket/plates`, `list.parquet`, …
        column: of a Parquet list, with paths; relative ones start from the folder of the list.

    Returns:
        Path (absolute, or an address) and name in the results (the path below what was given) of each, by
        path; and what is wrong with those of `given` that name none.

    Raises:
        ImageError: none of them names an image.
        MissingExtraError: PyArrow is not installed.
    """
    found: dict[str, str] = {}
    wrong = []
    for text in given:
        try:
            found |= dict(_found(text, column))
        except ImageError as error:
            wrong.append(str(error))
    if not found:
        raise ImageError("; ".join(wrong) or "no image given; name files, folders or globs")
    if len(set(found.values())) < len(found):  # the same names in several folders
        shared = os.path.commonprefix([*found])  # noqa: RUF071
        shared = shared.rpartition("/")[0] + "/"
        found = {path: path.removeprefix(shared) for path in found}
    return sorted(found.items()), wrong


def _found(text: str, column: str) -> Iterator[tuple[str, str]]:
    if text.lower().endswith(".parquet"):
        yield from _listed(text, column)
    elif "://" in text:
        yield from _stored(text)
    else:
        base = Path(text).absolute() if Path(text).is_dir() else None
        for path in list_images(text):
            whole = path.absolute()
            yield str(whole), whole.relative_to(base or whole.parent).as_posix()


def _listed(text: str, column: str) -> Iterator[tuple[str, str]]:
    """The rows of a Parquet file."""
    files, place = filesystem(text)
    with _reported(text, ImageError):
        import pyarrow.parquet as pq

        paths = pq.read_table(place, filesystem=files, columns=[column])[column].to_pylist()
    folder = text.rpartition("/")[0] if "://" in text else str(Path(text).absolute().parent)
    for path in filter(None, paths):
        whole = "://" in path or Path(path).is_absolute()
        yield (path, path.rpartition("/")[2]) if whole else (f"{folder}/{path}", path)


def _stored(text: str) -> Iterator[tuple[str, str]]:
    """The images below an address, or that match one with `*`, `?` or `[`."""
    import pyarrow.fs as pafs

    scheme = text.partition("://")[0]
    first = min((text.index(c) for c in "*?[" if c in text), default=None)
    files, base = filesystem(text if first is None else text[:first].rpartition("/")[0])
    prefix = text[: text.index(base)] if base in text else f"{scheme}://"
    with _reported(text, ImageError):
        if files.get_file_info(base).type == pafs.FileType.File:
            yield text, posixpath.basename(base)
            return
        below = [
            info.path
            for info in files.get_file_info(pafs.FileSelector(base, recursive=True))
            if info.type == pafs.FileType.File
        ]
    if first is None:
        chosen = [path for path in below if posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES]
    else:
        chosen = [path for path in below if fnmatch.fnmatchcase(prefix + path, text)]
    if not chosen:
        raise ImageError("no image there", where=text)
    for path in chosen:
        yield prefix + path, posixpath.relpath(path, base)


def filesystem(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """PyArrow's file system of a path or an address, and the path in it.

    Raises:
        ConfigError: an address that PyArrow does not know.
        MissingExtraError: PyArrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.fs as pafs
    except ModuleNotFoundError:
        raise MissingExtraError("Parquet", "ray") from None
    text = os.fspath(path)
    if "://" not in text:
        return pafs.LocalFileSystem(), str(Path(text).absolute())
    try:
        files, place = pafs.FileSystem.from_uri(text)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{text} cannot be used: {one_line(error)}") from None
    return files, place.rstrip("/")


def unpack(out: str | os.PathLike[str], folder: Path, categories: Categories) -> int:
    """Write the images of Parquet results as `panoptic/*.png` and `panoptic.json`, as `predict` does.

    Args:
        out: of the Parquet files.
        folder: gets the files.
        categories: of the results.

    Returns:
        How many images were written.

    Raises:
        OSError: the disk is full; there is then no JSON.
    """
    import pyarrow.parquet as pq

    files, place = filesystem(out)

    @lru_cache(maxsize=8)
    def rows(path: str) -> list[dict[str, Any]]:
        table = pq.read_table(path, filesystem=files, columns=[*_schema().names])
        return table.to_pylist()

    parts = [path for path in _files(files, place) if posixpath.basename(path).startswith(DONE)]
    order = sorted((row["file_name"], path, i) for path in parts for i, row in enumerate(_names(files, path)))
    stems = unique_stems(Path(name).stem for name, _, _ in order)
    keys = "id", "category_id", "area", "bbox", "iscrowd", "score"
    with panoptic_json(folder / "panoptic.json", categories, {}) as add:
        for (name, path, i), stem in zip(order, stems):
            row, png = rows(path)[i], f"{stem}.png"
            with atomic_path(folder / "panoptic" / png) as temporary:
                temporary.write_bytes(row["panoptic_png"])
            info = [{k: (s | {"iscrowd": 0})[k] for k in keys} for s in row["segments"]]
            add({"image_id": 0, "file_name": png, "segments_info": info}, name, (row["height"], row["width"]))
    return len(order)


def _names(files: Any, path: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path, filesystem=files, columns=["file_name"]).to_pylist()


def _schema() -> Any:
    import pyarrow as pa

    segment = {
        "id": pa.int32(),
        "category_id": pa.int32(),
        "category": pa.string(),
        "is_thing": pa.bool_(),
        "score": pa.float64(),
        "area": pa.int64(),
        "bbox": pa.list_(pa.int32()),
    }
    names = {
        "path": pa.string(),
        "file_name": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "panoptic_png": pa.binary(),
        "segments": pa.list_(pa.struct(list(segment.items()))),
        "error": pa.string(),
    }
    return pa.schema(list(names.items()))


def _write(files: Any, path: str, rows: list[dict[str, Any]], *, meta: dict[str, Any]) -> None:
    """A Parquet file, whole or not at all: objects of a store are seen when they are complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows, _schema().with_metadata({KEY: json.dumps(meta).encode()}))
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    moved = files.type_name in ("local", "hdfs")
    folder, _, name = path.rpartition("/")
    place = f"{folder}/_{name}.{uuid.uuid4().hex[:8]}" if moved else path
    try:
        with files.open_output_stream(place) as file:
            file.write(buffer.getvalue())
        if moved:
            files.move(place, path)
    except BaseException:
        with suppress(OSError):
            files.delete_file(place)
        raise


def _key(paths: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:20]


def _files(files: Any, folder: str, ending: str = ".parquet") -> list[str]:
    import pyarrow.fs as pafs

    found = files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    return sorted(info.path for info in found if info.path.endswith(ending))


def _done(files: Any, folder: str) -> set[str]:
    """The paths with a result; rows of images that failed are removed, as those are tried again."""
    import pyarrow.dataset as pads

    found = _files(files, folder, "")
    for path in found:
        if posixpath.basename(path).startswith((FAILED, TRIED)):
            files.delete_file(path)
    parts = [path for path in found if posixpath.basename(path).startswith(DONE)]
    if not parts:
        return set()
    data = pads.dataset(parts, filesystem=files, format="parquet")
    return set(data.to_table(columns=["path"])["path"].to_pylist())


def _require_same(files: Any, folder: str, out: str, *, settings: dict[str, Any], resume: bool) -> None:
    """Refuses a folder with results that this run does not go on with."""
    settings, path = json.loads(json.dumps(settings)), f"{folder}/{SETTINGS}"
    if not resume and _files(files, folder):
        raise ConfigError(
            f"{out} already holds results; continue with `resume`, or choose another folder with `out`"
        )
    before = None
    with suppress(FileNotFoundError, ValueError), files.open_input_stream(path) as file:
        before = json.loads(file.read())
    if not (resume and isinstance(before, dict)):
        with files.open_output_stream(path) as file:
            file.write(json.dumps(settings, indent=1).encode())
    elif other := sorted(k for k in before | settings if before.get(k) != settings.get(k)):
        raise ConfigError(
            f"{out} holds results of other settings ({', '.join(other)}); choose another folder with `out`"
        )


@contextmanager
def _reported(what: str, kind: type[MaskconverError] = ConfigError) -> Iterator[None]:
    """PyArrow's errors and the system's as one of ours, in one line."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise kind("no such file or folder", where=what) from None
    except (pa.ArrowException, OSError) as error:
        raise kind(f"{what}: {one_line(error)}") from None


def import_ray() -> Any:
    """Ray with its data part.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ModuleNotFoundError:
        raise MissingExtraError("several machines", "ray") from None
    return ray


@contextmanager
def _cluster(ray: Any, plan: Plan) -> Generator[None, None, None]:
    """Connects to a cluster, or starts one here that ends with the block; uses one that is connected."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    address = plan.address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cpus = max(os.cpu_count() or 1, int(plan.cpus * (plan.actors or 1) + 0.999))
        own |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 128 << 20}
    elif address != "auto":
        require_answer(address, plan.wait)
    try:
        ray.init(address=address, **own)
    except Exception as error:  # Ray's errors of starting have no common class but this one
        what = "cannot be started here" if address == "local" else f"at {address} cannot be used"
        raise ConfigError(f"a Ray cluster {what}: {one_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def require_answer(address: str, seconds: float) -> None:
    """Refuses an address where no gRPC server answers in time: Ray itself would try for ever.

    Raises:
        ConfigError: naming the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"`address={address}` is not HOST:PORT; Ray's own is port 6379 of the head node")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as server:
            server.settimeout(seconds)
            # The beginning of HTTP/2, which a server answers with its settings: a frame of type 4.
            server.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            if server.recv(9)[3:4] != b"\4":
                raise OSError("no Ray cluster, but another program")
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else one_line(error)
        raise ConfigError(
            f"no Ray cluster answers at {address} ({reason}); see whether its head node runs, or leave out "
            "`address` to use this machine alone"
        ) from None


def _actors(ray: Any, plan: Plan) -> int:
    """How many actors there is room for, or were asked for."""
    if plan.actors is not None:
        return plan.actors
    there = ray.cluster_resources()
    room = there.get("GPU", 0) / plan.gpus if plan.gpus else there.get("CPU", 1) / max(plan.cpus, 0.01)
    if plan.gpus and room < 1:
        raise ConfigError("the Ray cluster has no GPU; leave out `device`, or say how many `actors`")
    return max(int(room), 1)


def _cause(error: BaseException) -> str:
    """The last line of an error of Ray, whose text is a traceback."""
    cause = getattr(error, "cause", None) or error
    return next((line.strip() for line in reversed(str(cause).splitlines()) if line.strip()), one_line(error))
