"""What limits a semantic model: naming the regions, drawing their edges, or the grid of its scores?

Run: .venv/bin/python benchmarks/semantic_oracles.py runs/camvid/last.safetensors --data DIR --split test

The model answers several times over, each time with part of its work replaced by the annotation:

- `model`: nothing is replaced.
- `true edges`: every connected region of the annotation gets the class that the model scores highest there,
  on average. What is missing here is lost by the names.
- `away from edges`: the model, on the pixels that are more than `--band` pixels from another class.
- `grid`: the annotation, sampled on the grid of the model's scores and enlarged as those are. What is missing
  here is lost by the grid; a model whose soft scores place edges between cells can get a little more.

A row is IoU in percent: the mean, then each class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from harness import arguments, table
from maskconver.core.categories import VOID_LABEL
from maskconver.core.preprocess import prepare
from maskconver.core.proposals import Geometry, Proposals
from maskconver.core.resize import resize_nearest
from maskconver.data.open import open_dataset
from maskconver.inference.predictor import Predictor
from maskconver.merge import postprocess
from maskconver.merge.semantic import semantic_scores
from maskconver.metrics import MeanIoU

ROWS = ("model", "true edges", "away from edges", "grid")
NEVER = -20.0  # a logit


def near_edges(labels: NDArray[Any], band: int) -> NDArray[np.bool_]:
    """Where another class is at most `band` pixels away, in either direction."""
    side = 2 * band + 1
    edges: NDArray[np.bool_] = ndimage.maximum_filter(labels, side) != ndimage.minimum_filter(labels, side)
    return edges


def named(labels: NDArray[Any], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Every connected region of H×W labels with the class of the highest mean of C×H×W scores."""
    found = np.full(labels.shape, VOID_LABEL, np.int64)
    for present in set(np.unique(labels).tolist()) - {VOID_LABEL}:
        region, count = ndimage.label(labels == present)
        means = np.stack([ndimage.mean(one, region, np.arange(1, count + 1)) for one in scores])
        found = np.where(region > 0, np.append(VOID_LABEL, means.argmax(0))[region], found)
    return found


def on_grid(labels: NDArray[Any], geometry: Geometry, cells: tuple[int, int], classes: int) -> Proposals:
    """The labels as a mask of every class, sampled at the middle of the cells."""
    height, width = (round(n * s) for n, s in zip(geometry.image_size, geometry.scale))
    canvas = np.full(geometry.canvas_size, VOID_LABEL, np.int32)
    canvas[:height, :width] = resize_nearest(labels.astype(np.int32), (height, width))
    stride = canvas.shape[0] // cells[0]
    small = canvas[stride // 2 :: stride, stride // 2 :: stride]
    masks = np.where(small == np.arange(classes)[:, None, None], -NEVER, NEVER)[None].astype(np.float32)
    scores = np.isin(np.arange(classes), small)[None].astype(np.float32)
    return Proposals(scores, np.arange(classes)[None], masks, geometry=(geometry,))


def main() -> None:
    """Prints the table."""
    parser = arguments(__doc__)
    parser.add_argument("model", help="a model file or a bundled name")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--split", default="val", help="which split of it")
    parser.add_argument("--count", type=int, help="only the first so many images")
    parser.add_argument("--band", type=int, default=2, help="pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = Predictor(args.model)
    data = open_dataset(args.data, args.split)
    categories, config = data.categories, predictor.postprocess
    metrics = {row: MeanIoU(categories) for row in ROWS}
    for index in range(min(args.count or len(data), len(data))):
        sample = data[index]
        truth = sample.segmentation(categories).category_map()
        proposals = predictor.proposals(sample.image)
        found = predictor.segmentations(proposals)[0].category_map()
        scores = semantic_scores(proposals, config, len(categories), output_size=truth.shape)[0]
        _, geometry = prepare(sample.image, predictor.runtime.input)
        grid = on_grid(truth, geometry, proposals.mask_logits.shape[-2:], len(categories))
        answers = {
            "model": found,
            "true edges": named(truth, scores),
            "grid": postprocess(grid, config, categories)[0].category_map(),
        }
        for row, answer in answers.items():
            metrics[row].update(answer, truth)
        inner = np.where(near_edges(truth, args.band), VOID_LABEL, truth)
        metrics["away from edges"].update(found, inner)
    line = table("", "mIoU", *(c.name for c in categories))
    for row, metric in metrics.items():
        result = metric.compute()
        line(row, f"{100 * result.miou:.1f}", *(f"{100 * v:.1f}" for v in result.per_class.values()))


if __name__ == "__main__":
    main()
