"""What the benchmarks share: one timer, fresh processes, peak memory, the line about the machine, tables."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from copy import copy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Data sets and weights that are not part of the repository lie below it, in `data` and `weights`.
SHARED = Path(os.environ.get("MASKCONVER_SHARED", "shared"))
LAST_LINE = "harness:"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints a script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    *,
    clock: Callable[[], float] = time.process_time,
    warm: int = 1,
    pause: float = 0.0,
    limit: float = float("inf"),
) -> dict[str, list[float]]:
    """Seconds of some calls that take turns, so that what else the machine does meets all of them alike.

    Args:
        calls: by name.
        rounds: how often each is timed.
        clock: processor time of the process by default; `time.perf_counter` for what other processes or a
            GPU do; `time.thread_time` for one thread.
        warm: rounds before those that count.
        pause: seconds of sleep before a call, in which threads of the call before stop waiting for work.
        limit: no round begins after so many timed seconds.
    """
    for _ in range(warm):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(pause)
            start = clock()
            call()
            times[name].append(clock() - start)
        if sum(map(sum, times.values())) >= limit:
            break
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in times.items()}


def median(call: Callable[[], object], rounds: int = 5, **options: Any) -> float:
    """Median seconds of one call; options as of `in_turn`."""
    return statistics.median(in_turn({"": call}, rounds, **options)[""])


def fresh(
    function: Callable[..., Any],
    *given: Any,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Any:
    """What a function of a benchmark gives when it runs in a process of its own.

    Args:
        function: one of the script's own, at its top level; it may print.
        given: its arguments; like its result they pass through JSON.
        environment: variables in addition to this process's.
        python: another interpreter.

    Raises:
        RuntimeError: the process failed, with the last line it said.
    """
    script = Path(inspect.getfile(function))
    code = (
        f"import json, sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem} as script\n"
        f"print({LAST_LINE!r} + json.dumps(script.{function.__name__}(*json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [python, "-c", code, json.dumps(given)],
        capture_output=True,
        text=True,
        env=os.environ | dict(environment or {}),
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise RuntimeError(said[-1])
    return json.loads(done.stdout.splitlines()[-1].removeprefix(LAST_LINE))


def peak() -> float:
    """Highest resident memory of this process so far, GB.

    On Linux not of getrusage, which counts what the parent had before it became this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def table(*header: str) -> Callable[..., None]:
    """Begins a Markdown table; gives what prints one row of it, at once."""
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|", flush=True)

    def row(*cells: object) -> None:
        print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)

    return row


def machine(*packages: str, where: str = "") -> str:
    """Where and with what this is measured: cores, system, versions, command.

    Args:
        packages: distributions whose versions are named.
        where: what else matters, e.g. the number of threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [where] if where else []
    parts += [f"{_processor()}, {cores} of {os.cpu_count()} cores, {platform.system()}"]
    parts += [f"Python {platform.python_version()}", *map(_version, packages)]
    return (
        f"{', '.join(parts)}\nCommand: python benchmarks/{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}"
    )


def _processor() -> str:
    """The name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"without {package}"


class Repeating:
    """A runtime that gives the network's first answer every time, after some seconds of waiting."""

    def __init__(self, runtime: Any, seconds: float = 0.0) -> None:
        self.input, self.postprocess, self.categories = runtime.input, runtime.postprocess, runtime.categories
        self.runtime, self.seconds = runtime, seconds
        self.answer, self.calls = None, 0

    def __call__(self, images: Any) -> Any:
        """Inputs B×C×h×w, of which only the first call's are looked at."""
        self.calls += 1
        if self.answer is None:
            self.answer = self.runtime(images).numpy()
        time.sleep(self.seconds)
        return copy(self.answer)


def groups_of(sample: Any, key: str | None) -> list[str]:
    """The groups an image counts in: `all`, and the value of a key of images[]."""
    return ["all"] + ([str(sample.info.get(key))] if key else [])


def instances_table(data: Any, by: str | None, instances: Callable[[Any], Any]) -> None:
    """Prints PQ of the things and AP@0.5 of a method that finds objects of one kind, a row for each group.

    Args:
        data: a data set with one class of things and at most one of stuff, which gets all other pixels.
        by: a key of images[] to group by.
        instances: turns an H×W×3 uint8 image into an H×W int32 map, 1…n the objects, 0 none.
    """
    import numpy as np

    from maskconver.core.segmentation import Segmentation
    from maskconver.inference.evaluation import Figures
    from maskconver.metrics.average_precision import pooled_average_precision

    thing = int(np.flatnonzero(data.categories.is_thing)[0])
    stuff = np.flatnonzero(~data.categories.is_thing)
    figures: dict[str, Any] = {}
    for index in range(len(data)):
        sample = data[index]
        ids = instances(sample.image)
        numbers = np.unique(ids[ids > 0])
        labels = np.full(len(numbers), thing)
        if len(stuff) and (ids == 0).any():
            background = int(ids.max()) + 1
            ids[ids == 0] = background
            numbers, labels = np.append(numbers, background), np.append(labels, stuff[0])
        answer = Segmentation.from_ids(ids, data.categories, labels=labels, segment_ids=numbers)
        for group in groups_of(sample, by):
            found = figures.setdefault(group, Figures(data.categories))
            found.add_image(answer, sample.ids, data.segments(index), image_id=sample.image_id)
    row = table("images of", "number", "PQ things, %", "SQ, %", "RQ, %", "AP@0.5, %")
    for group, found in sorted(figures.items(), key=lambda item: -item[1].images):
        things = found.pq.compute().things
        ap = pooled_average_precision(found.pq.state, data.categories).ap
        row(group, found.images, *(f"{100 * v:.1f}" for v in (things.pq, things.sq, things.rq, ap)))


def annotated(size: int, batch: int, segments: int, classes: int) -> Any:
    """A `Batch` of noise on square inputs, each cut into so many things by the nearest of random points."""
    import numpy as np

    from maskconver.core.segments import SegmentTable
    from maskconver.training.augment.example import Example
    from maskconver.training.loader import collate
    from maskconver.training.targets import TargetConfig, assign_targets

    rng = np.random.default_rng(segments)
    examples = []
    for number in range(batch):
        seeds = rng.uniform(0, size, (segments, 2)).astype(np.float32)
        axis = np.arange(size, dtype=np.float32)
        ids = np.empty((size, size), np.int32)
        for y in range(size):  # a row at a time, so that making the data needs no memory to speak of
            ids[y] = ((seeds[:, :1] - y) ** 2 + (seeds[:, 1:] - axis) ** 2).argmin(0) + 1
        rows = np.arange(1, segments + 1, dtype=np.int32), rng.integers(0, classes, segments)
        table = SegmentTable(*rows, np.zeros(segments, bool), np.zeros(segments, np.int64))
        targets = assign_targets(
            ids, table, np.ones(classes, bool), config=TargetConfig(max_segments=segments)
        )
        examples.append(Example(rng.standard_normal((3, size, size), np.float32), targets, number))
    return collate(examples)
