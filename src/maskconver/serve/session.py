"""One network for many requests: a bounded queue, small batches, and proposals kept for new thresholds."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.config import PostprocessConfig
from ..core.proposals import Geometry, Proposals
from ..core.segmentation import Segmentation
from ..errors import MaskconverError
from ..inference.predictor import Predictor
from ..inference.runtime import Replay, above, has_postprocessing, run
from ..io.images import read_image
from ..merge import RULES

T = TypeVar("T")
LEAST_SCORE = 0.05  # proposals below are not kept, unless a threshold lies lower: the page's go no further


class Busy(MaskconverError):
    """Too many requests wait already."""


class Gone(Exception):
    """Whoever asked has gone."""


@dataclass(slots=True)
class Kept:
    """What is kept of an image: enough to post-process it again.

    Attributes:
        image: H×W×C uint8, or uint16 of a model of 16 bits.
        proposals: of the image, or None for files with their post-processing inside and images in tiles.
        result: the segmentation with the model's own thresholds.
        tiles: the proposals of an image that was segmented in tiles.
        least: proposals with a score at or below are not there.
    """

    image: NDArray[Any]
    proposals: Proposals | None
    result: Segmentation
    tiles: Replay | None = None
    least: float = 0.0

    @property
    def size(self) -> int:
        """Bytes."""
        logits = 0 if self.proposals is None else self.proposals.mask_logits.nbytes
        logits += 0 if self.tiles is None else self.tiles.size
        return int(self.image.nbytes + self.result.ids.nbytes + logits)


@dataclass(eq=False)
class _Job:
    canvas: NDArray[Any]
    geometry: Geometry
    least: float  # proposals that score no more are not needed
    done: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Session:
    """Runs a predictor for requests that come at the same time; all methods are called in one event loop.

    Args:
        predictor: the model.
        queue: how many requests may wait for the network; more are refused.
        memory: bytes of images and proposals that are kept; the longest unused go first.
    """

    def __init__(self, predictor: Predictor, *, queue: int = 32, memory: int = 256 << 20) -> None:
        self.predictor, self.queue, self.memory = predictor, queue, memory
        self.seconds: dict[str, float] = {}  # of each stage, all requests together
        self.images = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._jobs: list[_Job] = []
        self._waiting = 0
        self._wake: asyncio.Event | None = None
        self._network = ThreadPoolExecutor(1, "network")  # one run at a time
        self._workers = ThreadPoolExecutor(2, "images")
        self._lock = threading.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait or run now."""
        return self._waiting

    async def segment(self, data: bytes, settings: dict[str, float]) -> tuple[str, Kept, Segmentation]:
        """Segment an image file.

        Args:
            data: the bytes of the file.
            settings: thresholds that replace the model's own.

        Returns:
            The name under which it is kept, what is kept, and the result.

        Raises:
            Busy: the queue is full.
            MaskconverError: the image cannot be read, or a threshold is out of range.
        """
        with self._place():
            image, canvas, geometry = await self.work(self._read, data)
            least = min(LEAST_SCORE, settings.get("score_threshold", 1.0))
            if canvas is None or geometry is None:
                kept = await self._tiled(image, least)
            else:
                job = _Job(canvas, geometry, self._keeping(least)[0])
                self._jobs.append(job)
                self._start()
                found = await job.done
                kept = await self.work(self._finish, image, found, geometry, least)
            token = hashlib.sha256(data).hexdigest()[:24]
            self._keep(token, kept)
            self.images += 1
            return token, kept, await self._again(kept, settings)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place in the queue.

        Raises:
            Busy: there is none left.
        """
        if self._waiting >= self.queue:
            raise Busy(f"{self._waiting} requests are already waiting; try again in a second")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def again(self, token: str, settings: dict[str, float]) -> tuple[Kept, Segmentation] | None:
        """The result of a kept image with other thresholds; None if it, or what they let through, is gone.

        The network runs again for images of more tiles than are kept.
        """
        kept = self._kept.get(token)
        if kept is None or settings.get("score_threshold", 1.0) < kept.least:
            return None
        self._kept.move_to_end(token)
        if not settings or kept.tiles is None or kept.tiles.whole:
            return kept, await self._again(kept, settings)
        with self._place():
            return kept, await self._again(kept, settings)

    async def work(self, call: Callable[..., T], *args: Any) -> T:
        """A call in one of the threads for images."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, call, *args)

    def close(self) -> None:
        """Stop the threads; what runs is finished."""
        if self._task is not None:
            self._task.cancel()
        self._network.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _read(self, data: bytes) -> tuple[NDArray[Any], NDArray[Any] | None, Geometry | None]:
        """The image and the network's input; without one where it is segmented in tiles."""
        with self._timed("decode"):
            image = read_image(data, name="the image", **self.predictor.reading)
        tiles = self.predictor.tiles
        if tiles is not None and tiles.over(image.shape[:2]):
            return image, None, None
        with self._timed("prepare"):
            canvas, geometry = self.predictor.network_input(image)
        return image, canvas, geometry

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run())
        assert self._wake is not None
        self._wake.set()

    async def _run(self) -> None:
        """Run the network on waiting inputs of one size, as many as the predictor's batch size."""
        assert self._wake is not None
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._jobs:
                first = self._jobs[0].canvas.shape
                batch = [job for job in self._jobs if job.canvas.shape == first][: self.predictor.batch_size]
                self._jobs = [job for job in self._jobs if job not in batch]
                batch = [job for job in batch if not job.done.cancelled()]  # whoever asked has gone
                if not batch:
                    continue
                try:
                    answers = await loop.run_in_executor(self._network, self._infer, batch)
                    for job, answer in zip(batch, answers):
                        if not job.done.done():
                            job.done.set_result(answer)
                except Exception as error:
                    for job in batch:
                        if not job.done.done():
                            job.done.set_exception(error)

    def _infer(self, batch: list[_Job]) -> list[Any]:
        with self._timed("network"):
            canvases, least = np.stack([job.canvas for job in batch]), min(job.least for job in batch)
            found = run(self.predictor.runtime, canvases, least)
        if not isinstance(found, Proposals):
            return list(found)
        found = replace(found, class_logits=None).numpy()
        return [
            Proposals(
                found.scores[i : i + 1],
                found.labels[i : i + 1],
                found.mask_logits[i : i + 1],
                geometry=(job.geometry,),
            )
            for i, job in enumerate(batch)
        ]

    def _finish(self, image: NDArray[Any], found: Any, geometry: Geometry, least: float) -> Kept:
        with self._timed("postprocess"):
            if not isinstance(found, Proposals):
                own = self.predictor.runtime.input, self.predictor.categories
                side = self.predictor.output_side
                return Kept(image, None, found.segmentation(geometry, *own, side=side))
            least, keep = self._keeping(least)
            found = keep(found)
            return Kept(image, found, self.predictor.segmentations(found)[0], least=least)

    def _keeping(self, least: float) -> tuple[float, Callable[[Proposals], Proposals]]:
        """The score that kept proposals are above, and what keeps them."""
        least = min(least, self.predictor.postprocess.score_threshold)
        independent = RULES[self.predictor.postprocess.rule].independent_masks

        def keep(found: Proposals) -> Proposals:
            found = replace(found, class_logits=None)
            return above(found, least) if independent else found.numpy()

        return least, keep

    async def _tiled(self, image: NDArray[Any], least: float) -> Kept:
        least, keep = self._keeping(least)
        tiles = Replay(self.predictor.runtime, keep, least, most=self.memory * 3 / 4)
        return Kept(image, None, await self._in_tiles(image, tiles), tiles, least)

    async def _in_tiles(
        self, image: NDArray[Any], tiles: Replay, config: PostprocessConfig | None = None
    ) -> Segmentation:
        again = config is not None and tiles.whole  # without the network
        predictor = self.predictor.for_dataset()  # the white level is applied already
        predictor.postprocess, predictor.runtime = config or predictor.postprocess, tiles.runtime()

        def run() -> Segmentation:
            with self._timed("postprocess" if again else "tiles"):
                return replace(predictor(image), image=None)

        if again:
            return await self.work(run)
        gone = threading.Event()  # nobody waits any more: the tiles that are left are not segmented

        def stop(done: int, total: int) -> None:
            if gone.is_set():
                raise Gone(f"stopped after tile {done} of {total}")

        predictor.on_tile = stop
        try:
            return await asyncio.get_running_loop().run_in_executor(self._network, run)
        except asyncio.CancelledError:
            gone.set()
            raise

    async def _again(self, kept: Kept, settings: dict[str, float]) -> Segmentation:
        if not settings or (kept.proposals is None and kept.tiles is None):
            return kept.result
        config = replace(self.predictor.postprocess, **settings)  # type: ignore[arg-type]
        if "score_threshold" in settings:
            config = replace(config, stuff_threshold=None)
        config.check()
        if kept.tiles is not None:
            return await self._in_tiles(kept.image, kept.tiles, config)
        assert kept.proposals is not None
        with self._timed("postprocess"):
            return (await self.work(self.predictor.segmentations, kept.proposals, config))[0]

    def _keep(self, token: str, kept: Kept) -> None:
        self._kept.pop(token, None)
        self._kept[token] = kept
        total = sum(one.size for one in self._kept.values())
        while total > self.memory and len(self._kept) > 1:
            total -= self._kept.popitem(last=False)[1].size

    def _timed(self, stage: str) -> _Timer:
        return _Timer(self, stage)


class _Timer:
    def __init__(self, session: Session, stage: str) -> None:
        self.session, self.stage = session, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        with self.session._lock:
            seconds = self.session.seconds
            seconds[self.stage] = seconds.get(self.stage, 0.0) + time.perf_counter() - self.start


def adjustable(predictor: Predictor) -> bool:
    """Whether thresholds can be changed after the network has run."""
    return not has_postprocessing(predictor.runtime)
