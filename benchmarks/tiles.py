"""Tiled inference: what it takes beyond the network, its memory, and other packages on the same image.

Run: .venv/bin/python benchmarks/tiles.py [--side 8192]             time beyond the network
     .venv/bin/python benchmarks/tiles.py --memory [--side 20000]   a TIFF, without a network
     .venv/bin/python benchmarks/tiles.py --slide [--side 20000]    a TIFF, by the network: minutes
     .venv/bin/python benchmarks/tiles.py --others [--side 2048]    SAHI and StarDist beside ours
     .venv/bin/python benchmarks/tiles.py --data my_data            PQ of its large images, whole and in tiles

A generated image of cells on a grid, which lies alike in every tile, is segmented in tiles of 1024 pixels of
network input. The network runs on the first tile only and then repeats its answer; its own time is measured
on a few inputs of that size. All times are processor time of one thread. With --memory and --others, cells
are found by a threshold in place of a network, so that what is measured is the tiling.
"""

from __future__ import annotations

import csv
import tempfile
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from harness import Repeating, arguments, fresh, machine, peak, table
from maskconver import Categories, Category, Predictor, Proposals
from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.data import open_dataset
from maskconver.inference import stream
from maskconver.inference.evaluation import Figures

PERIOD, RADIUS, TILE = 64, 15, 1024  # pixels
LEAST = 1024  # longer side in pixels of the images of a data set that are looked at
STAGES = ("decode", "prepare", "postprocess", "join")


def cells(side: int) -> NDArray[np.uint8]:
    """Bright discs on a dark, noisy ground, the same every 64 pixels."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:PERIOD, :PERIOD] - PERIOD / 2 + 0.5
    disc = 170 / (1 + np.exp(np.hypot(ys, xs) - RADIUS)) + 20 + rng.normal(0, 4, ys.shape)
    once = np.repeat(disc.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
    count = -(-side // PERIOD)
    return np.tile(once, (count, count, 1))[:side, :side]


def varied(side: int) -> NDArray[np.uint8]:
    """Grey cells of 32 to 48 pixels on a dark, noisy ground: one in each 64×64 pixels, none like another."""
    rng = np.random.default_rng(0)
    image = rng.normal(25, 5, (side, side))
    ys, xs = np.mgrid[:PERIOD, :PERIOD] - PERIOD / 2 + 0.5
    for top in range(0, side - PERIOD + 1, PERIOD):
        for left in range(0, side - PERIOD + 1, PERIOD):
            (dy, dx), (a, b), turn = rng.uniform(-6, 6, 2), rng.uniform(16, 24, 2), rng.uniform(0, np.pi)
            u, v = (
                np.cos(turn) * (xs - dx) + np.sin(turn) * (ys - dy),
                np.cos(turn) * (ys - dy) - np.sin(turn) * (xs - dx),
            )
            inside = 1 / (1 + np.exp((np.hypot(u / a, v / b) - 1) * 12))
            texture = ndimage.gaussian_filter(rng.normal(0, 60, ys.shape), 3)
            image[top : top + PERIOD, left : left + PERIOD] += inside * (rng.uniform(60, 150) + texture)
    return image.clip(0, 255).astype(np.uint8)


class Threshold:
    """Every bright spot is a cell: masks at a quarter of the size, as a network gives them."""

    def __init__(self) -> None:
        self.input = InputConfig("native", (512, 512), mean=(0.0,) * 3, std=(1.0,) * 3)
        self.postprocess = PostprocessConfig(min_area=0.0, mask_threshold=0.5)
        self.categories = Categories([Category(1, "cell", True, (220, 60, 60))])

    def __call__(self, images: NDArray[np.float32]) -> Proposals:
        """One proposal a spot, of the first image."""
        bright = images[0, 0, 2::4, 2::4] > 0.4
        spots, count = ndimage.label(bright)
        masks = np.full((max(count, 1), *bright.shape), -9, np.float32)
        for i, part in enumerate(ndimage.find_objects(spots)):
            masks[i][part][spots[part] == i + 1] = 9
        scores = np.full(len(masks), 0.9 if count else 0.0, np.float32)
        return Proposals(scores[None], np.zeros((1, len(masks)), np.int64), masks[None])


def overhead(args: Namespace) -> None:
    """Time of each stage beside that of the network."""
    stream.perf_counter = time.thread_time  # of the stages, whatever else the machine does
    network = Predictor(args.model).runtime
    canvas = np.zeros((1, network.input.channels, TILE, TILE), np.float32)
    network(canvas)
    begun = time.process_time()
    for _ in range(3):
        network(canvas)
    each = (time.process_time() - begun) / 3
    runtime, seconds = Repeating(network), dict[str, float]()
    runtime.input = replace(runtime.input, mode="native")
    tile = round(TILE / runtime.input.scale)
    image = cells(args.side or 8192)
    (_, result), *_ = Predictor(runtime, tile=tile).stream([image], keep_images=False, seconds=seconds)
    tiles = runtime.calls
    print(f"{len(image)}² pixels, {tiles} tiles of {tile}² (input {TILE}²), {len(result)} segments\n")
    row = table("stage", "ms per tile", "% of the network")
    row(f"network ({args.model})", f"{each * 1000:.0f}", 100)
    for name in STAGES:
        row(name, f"{seconds[name] / tiles * 1000:.1f}", f"{100 * seconds[name] / tiles / each:.1f}")


def large(side: int, model: str) -> dict[str, float]:
    """`predict --table` of a large TIFF: seconds, cells found, and memory. `model`: "" for a threshold."""
    from tifffile import imwrite

    from maskconver.cli.main import main as command
    from maskconver.inference import predictor

    if model:
        given = [model, "--scale", "0.25", "--tile", "1400", "--overlap", "96"]
    else:
        given, predictor.open_runtime = ["none"], lambda *_, **__: Threshold()
    with tempfile.TemporaryDirectory() as folder:
        path, grey = Path(folder, "cells.tif"), varied(1024) if model else cells(1024)[..., 0]
        tiles = side // len(grey)
        shape = (side, side)
        parts = (grey for _ in range(tiles**2))
        imwrite(path, parts, shape=shape, dtype=np.uint8, tile=grey.shape, compression="zlib", metadata=None)
        del grey
        before, begun = peak(), time.process_time()
        rows = Path(folder, "cells.csv")
        code = command(["predict", *given, str(path), "--out", f"{folder}/out", "--table", str(rows)])
        used = time.process_time() - begun
        with rows.open(encoding="utf-8") as file:
            found = sum(1 for _ in csv.reader(file)) - 1
    return {"s": used, "found": found, "before": 1000 * before, "peak": 1000 * peak(), "code": code}


def memory(args: Namespace) -> None:
    """The memory of a large image, and of one of four tiles; each in a process of its own."""
    sides = [2048, -(-(args.side or 20_000) // 1024) * 1024]
    row = table("pixels", "cells", "found", "s", "MB before", "MB peak", "MB of the id map", "exit code")
    for side in sides:
        made = fresh(large, side, args.model if args.slide else "")
        ids = side**2 * 4 / 1e6
        found = (f"{made[name]:.0f}" for name in ("found", "s", "before", "peak"))
        row(f"{side}²", (side // PERIOD) ** 2, *found, f"{ids:.0f}", made["code"])
        if side == sides[0]:
            need = made["peak"] - ids
    print(f"\npeak over (one tile's need + id map): {made['peak'] / (need + ids):.2f}")


def ours(image: NDArray[np.uint8], tile: int, overlap: int) -> list[int]:
    """The areas of the cells that our tiles give."""
    return [segment.area for segment in Predictor(Threshold(), tile=tile, overlap=overlap)(image)]


def sahi(image: NDArray[np.uint8], tile: int, overlap: int) -> list[int]:
    """The same network in SAHI's slices, with masks."""
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    class Model(DetectionModel):
        def check_dependencies(self, packages: Any = None) -> None:
            pass

        def load_model(self) -> None:
            self.model = Predictor(Threshold(), tile=None)

        def perform_inference(self, image: NDArray[np.uint8]) -> None:
            self._original_predictions = self.model(image)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            found = []
            for segment in self._original_predictions:
                mask = self._original_predictions.mask(segment.id)
                found.append(
                    ObjectPrediction(
                        category_id=0,
                        category_name="cell",
                        segmentation=self.outlines(mask),
                        score=segment.score,
                        shift_amount=shift_amount_list[0],
                        full_shape=full_shape_list[0],
                    )
                )
            self._object_prediction_list_per_image = [found]

        @staticmethod
        def outlines(mask: NDArray[np.bool_]) -> Any:
            from sahi.utils.cv import get_coco_segmentation_from_bool_mask

            return get_coco_segmentation_from_bool_mask(mask)

    share = overlap / tile
    answer = get_sliced_prediction(
        image,
        Model(confidence_threshold=0.1, load_at_init=True),
        slice_height=tile,
        slice_width=tile,
        overlap_height_ratio=share,
        overlap_width_ratio=share,
        perform_standard_pred=False,
        verbose=0,
    )
    return [int(one.mask.bool_mask.sum()) for one in answer.object_prediction_list]


def stardist(image: NDArray[np.uint8], tile: int, overlap: int) -> list[int]:
    """The same network in the blocks of StarDist's `predict_instances_big`."""
    from stardist.models import Config2D, StarDist2D

    class Model(StarDist2D):
        def predict_instances(
            self, img: NDArray[np.uint8], **_: Any
        ) -> tuple[NDArray[np.int32], dict[str, Any]]:
            found = network(img)
            points = np.array([ndimage.center_of_mass(found.mask(s.id)) for s in found]).reshape(-1, 2)
            outlines = points[..., None] + np.zeros((1, 2, self.config.n_rays))
            return found.ids, {"points": points, "coord": outlines, "prob": np.ones(len(points))}

    network = Predictor(Threshold(), tile=None)
    model = Model(Config2D(n_rays=8, n_channel_in=3), name=None, basedir=None)
    blocks = {"block_size": (tile, tile, 3), "min_overlap": (overlap, overlap, 0), "context": (0, 0, 0)}
    labels, _ = model.predict_instances_big(image, axes="YXC", show_progress=False, **blocks)
    return np.bincount(labels.ravel())[1:].tolist()


def others(args: Namespace) -> None:
    """Time, memory and cells of ours and of others; sides of tiles run through cells. All cells are alike."""
    image = cells(args.side or 2048)
    count, tile = (len(image) // PERIOD) ** 2, 480
    row = table("tiles of", "s", "MB more", "cells there", "cells found", "of another area by 5 % or more")
    for function in (ours, sahi, stardist):
        try:
            function(image[: 2 * tile, : 2 * tile], tile, tile // 4)  # so that imports do not count
        except ModuleNotFoundError as error:
            print(f"{function.__name__} left out: {error}")
            continue
        before, begun = peak(), time.process_time()
        found = function(image, tile, tile // 4)
        used = time.process_time() - begun
        areas = np.array(found)
        odd = int((abs(areas / np.median(areas) - 1) >= 0.05).sum())
        row(function.__name__, f"{used:.1f}", f"{1000 * (peak() - before):.0f}", count, len(found), odd)


def quality(args: Namespace) -> None:
    """PQ of the things of a data set's images of `LEAST` pixels and more, whole and in tiles."""
    row = table("split", "images", "whole", f"tiles of {args.tile}")
    for split in ("val", "train"):
        dataset = open_dataset(args.data, split)
        figures = [Figures(dataset.categories) for _ in range(2)]
        predictors = [Predictor(args.model, tile=tile).for_dataset() for tile in (None, args.tile)]
        for i in range(len(dataset)):
            if max(dataset.info(i)["height"], dataset.info(i)["width"]) < LEAST:
                continue
            image, truth = dataset.image(i), (dataset.ids(i), dataset.segments(i))
            for figure, predictor in zip(figures, predictors):
                figure.add_image(predictor(image), *truth)
        values = [f"{100 * figure.headline[1]:.1f}" if figure.images else "-" for figure in figures]
        row(split, figures[0].images, *values)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--side", type=int, help="of the image in pixels")
    parser.add_argument("--model", default="nuclei", help="a model of cells")
    parser.add_argument("--memory", action="store_true", help="memory of a large TIFF")
    parser.add_argument("--slide", action="store_true", help="the same by the network of `--model`")
    parser.add_argument("--others", action="store_true", help="other packages on the same image")
    parser.add_argument("--data", help="a data set, for PQ whole and in tiles")
    parser.add_argument("--tile", type=int, default=512, help="of --data, in pixels")
    args = parser.parse_args()
    print(machine())
    chosen = (
        memory if args.memory or args.slide else others if args.others else quality if args.data else overhead
    )
    chosen(args)


if __name__ == "__main__":
    main()
