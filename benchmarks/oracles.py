"""What limits a MaskConver model: finding the centres, or drawing the masks at them?

Run: .venv/bin/python benchmarks/oracles.py nuclei --data DIR --split val --by image_type

The model runs four times over, each time with part of its work replaced by the annotation:

- `model`: nothing is replaced.
- `true centres`: proposals are made at the annotated centres; masks and merge are the model's. What is
  missing here is lost by the masks.
- `true masks`: the model's peaks above the score threshold, each with the annotated mask it lies on. A peak
  that lies on no segment of its class stays a false positive of one pixel. Several peaks on one segment count
  once. What is missing here is lost by the heatmap.
- `both`: annotated masks, sampled at the model's stride, at annotated centres. A model whose soft masks place
  edges between cells can get a little more than this.

A row is PQ of the things (of all classes where the data has no things), in percent.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from maskconver.checkpoint import load
from maskconver.data.sample import Sample
from maskconver.preprocess import prepare
from maskconver.proposals import Geometry
from maskconver.resize import resize_nearest
from maskconver.segmentation import Segmentation
from maskconver.targets import TargetConfig, assign_targets

from maskconver import PanopticQuality, Proposals
from maskconver.data.dataset import open_dataset
from maskconver.merge import merge
from maskconver.metrics import pooled_average_precision
from maskconver.metrics.overlap import Overlap
from maskconver.models.maskconver.model import MaskConver
from maskconver.models.maskconver.peaks import top_peaks

ROWS = ("model", "true centres", "true masks", "both")


def proposals_at(
    model: MaskConver, maps: Any, cells: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor
) -> Proposals:
    """The model's masks at k cells (k×2) of one image."""
    image = torch.zeros(len(cells), dtype=torch.long)
    embeddings = model.mask_embeddings(maps.embedding_map, image, cells, labels)
    logits = torch.einsum("kd,dhw->khw", embeddings, model.mask_basis(maps.mask_features)[0])
    return Proposals(scores[None], labels[None], logits[None]).numpy()


def true_masks(sample: Sample, peaks: Any, size: tuple[float, float], threshold: float) -> tuple[Any, ...]:
    """Ids and labels: each annotated segment that a peak of its class lies on, and a pixel for each other."""
    categories_of = dict(zip(sample.segments.ids.tolist(), sample.segments.labels.tolist()))
    ids = np.zeros_like(sample.ids)
    labels: dict[int, int] = {}
    strays = []
    height, width = sample.ids.shape
    for score, label, (y, x) in zip(peaks.scores[0], peaks.labels[0].tolist(), peaks.cells[0].tolist()):
        if score <= threshold:
            break
        at = (
            min(int((y + 0.5) * height / size[0]), height - 1),
            min(int((x + 0.5) * width / size[1]), width - 1),
        )
        segment = int(sample.ids[at])
        if categories_of.get(segment) == label:
            labels[segment] = label
        else:
            strays.append((at, label))
    for segment in labels:
        ids[sample.ids == segment] = segment
    number = int(sample.ids.max()) + 1
    for at, label in strays:
        ids[at] = number
        labels[number] = label
        number += 1
    present = set(np.unique(ids).tolist())
    kept = {k: v for k, v in labels.items() if k in present}
    return ids, np.array(list(kept.values()), np.int64), np.array(list(kept), np.int32)


def measure(model: MaskConver, sample: Sample, geometry: Geometry, canvas: np.ndarray) -> dict[str, Any]:
    """The four answers of one image."""
    assert model.categories is not None
    categories, config, stride = model.categories, model.merge, model.stride
    maps = model(torch.from_numpy(canvas)[None])
    peaks = top_peaks(maps.heatmap_logits, model.config.proposals, model.config.peak_kernel)
    # The annotation on the canvas, from which centres are taken as in training.
    scaled = tuple(round(n * s) for n, s in zip(geometry.image_size, geometry.scale))
    on_canvas = np.zeros(geometry.canvas_size, np.int32)
    on_canvas[: scaled[0], : scaled[1]] = resize_nearest(sample.ids, (scaled[0], scaled[1]))
    targets = assign_targets(
        on_canvas, sample.segments, categories.is_thing, TargetConfig(max_segments=1 << 30), on_canvas > 0
    )
    h, w = maps.heatmap_logits.shape[-2:]
    cells = torch.from_numpy(targets.centers / stride).long()
    cells = torch.minimum(cells, torch.tensor([h, w]) - 1)
    labels = torch.from_numpy(targets.labels)
    ones = torch.ones(len(labels))
    found = {
        "model": proposals_at(model, maps, peaks.cells[0], peaks.labels[0], peaks.scores[0]),
        "true centres": proposals_at(model, maps, cells, labels, ones),
    }
    small = torch.from_numpy(targets.regions[stride // 2 :: stride, stride // 2 :: stride].copy())
    region = torch.from_numpy(targets.region)
    masks = torch.where(small[None] == region[:, None, None], 10.0, -10.0)
    found["both"] = Proposals(ones[None], labels[None], masks[None]).numpy()
    answers: dict[str, Any] = {}
    for row, proposals in found.items():
        proposals.geometry = (geometry,)
        answers[row] = merge(proposals, config, categories)[0]
    size = (scaled[0] / stride, scaled[1] / stride)
    ids, own, numbers = true_masks(sample, peaks, size, config.object_threshold)
    answers["true masks"] = Segmentation.from_ids(ids, categories, labels=own, segment_ids=numbers)
    return answers


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description="How much PQ a MaskConver model loses by its centres and how much by its masks: each is "
        "replaced by the annotation in turn."
    )
    parser.add_argument("model", help="a bundled name or a model file (single-scale MaskConver)")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--split", default="val", help="which split of it")
    parser.add_argument("--by", help="a key of images[] to group by, e.g. image_type")
    parser.add_argument("--count", type=int, help="only the first so many images")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch")
    parser.add_argument("--object-threshold", type=float, help="the model's own if left out")
    parser.add_argument("--overlap-threshold", type=float, help="the model's own if left out")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = load(args.model).eval()
    if not isinstance(model, MaskConver):
        parser.error(f"{args.model} is a {type(model).__name__}; this script knows single-scale MaskConver")
    for name in ("object_threshold", "overlap_threshold"):
        if getattr(args, name) is not None:
            setattr(model.config.merge, name, getattr(args, name))
    data = open_dataset(args.data, args.split, channels=model.input.channels)
    figures: dict[str, dict[str, PanopticQuality]] = defaultdict(
        lambda: {row: PanopticQuality(data.categories) for row in ROWS}
    )
    counts: dict[str, int] = defaultdict(int)
    with torch.no_grad():
        for index in range(min(args.count or len(data), len(data))):
            sample = data[index]
            canvas, geometry = prepare(sample.image, model.input)
            answers = measure(model, sample, geometry, canvas)
            groups = ["all"] + ([str(data.info(index).get(args.by))] if args.by else [])
            for row, answer in answers.items():
                overlap = Overlap.of(
                    answer.ids,
                    answer.segments,
                    sample.ids,
                    data.segments(index),
                    data.categories,
                    sample.image_id,
                )
                for group in groups:
                    figures[group][row].add(overlap)
            for group in groups:
                counts[group] += 1
    things = bool(data.categories.is_thing.any())
    print(f"| images of | number | {' | '.join(f'{row}: PQ | AP@0.5' if things else row for row in ROWS)} |")
    print("|---" * (2 + len(ROWS) * (2 if things else 1)) + "|")
    for group in sorted(counts, key=lambda g: -counts[g]):
        values = []
        for row in ROWS:
            metric = figures[group][row]
            result = metric.compute()
            values.append(f"{100 * (result.things if things else result.all).pq:.1f}")
            if things:
                values.append(f"{100 * pooled_average_precision(metric.state, data.categories).ap:.1f}")
        print(f"| {group} | {counts[group]} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
