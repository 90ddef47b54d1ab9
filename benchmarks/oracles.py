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

With a semantic head, stuff is the head's in the first two rows, and the annotation's in the others.

A row is PQ of the things (of all classes where the data has no things), in percent.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch

from harness import arguments, groups_of, table
from maskconver.core.preprocess import prepare
from maskconver.core.proposals import Geometry, Proposals
from maskconver.core.resize import resize_nearest
from maskconver.core.segmentation import Segmentation
from maskconver.data.dataset import Sample
from maskconver.data.open import open_dataset
from maskconver.inference.evaluation import Figures
from maskconver.merge import postprocess
from maskconver.metrics.average_precision import pooled_average_precision
from maskconver.models.checkpoint import load
from maskconver.models.maskconver import MaskConver
from maskconver.models.maskconver.semantic import with_stuff
from maskconver.training.targets import TargetConfig, assign_targets

ROWS = ("model", "true centres", "true masks", "both")


def unsorted(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Ranks nothing: proposals stay in their order, those of the semantic head last."""
    return torch.arange(count).expand(len(scores), -1)


def proposals_at(
    model: MaskConver,
    maps: Any,
    cells: torch.Tensor,
    labels: torch.Tensor,
    scores: torch.Tensor,
    *,
    agreement: float = 0.0,
) -> Proposals:
    """The model's masks at k cells (k×3: level, y, x) of one image, and those of its semantic head."""
    image = torch.zeros(len(cells), dtype=torch.long)
    embeddings = model.mask_embeddings(maps.embedding_map, image, cells, labels=labels)
    logits = torch.einsum("kd,dhw->khw", embeddings, model.mask_basis(maps.mask_features)[0])
    things = Proposals(scores[None], labels[None], logits[None])
    stuff = model.stuff_classes
    return with_stuff(things, maps.semantic_logits, stuff, agreement=agreement, topk=unsorted).numpy()


def true_masks(
    sample: Sample, peaks: list[tuple[int, int, int]], size: tuple[float, float], given: tuple[int, ...]
) -> tuple[Any, ...]:
    """Ids and labels: each annotated segment that a peak of its class lies on, and a pixel for each other.

    Args:
        sample: the image with its annotation.
        peaks: class, y and x of each that counts, in cells.
        size: of the map of cells that the image covers.
        given: classes whose segments are taken as they are.
    """
    categories_of = dict(zip(sample.segments.ids.tolist(), sample.segments.labels.tolist()))
    ids = np.zeros_like(sample.ids)
    labels = {segment: label for segment, label in categories_of.items() if label in given}
    strays = []
    height, width = sample.ids.shape
    for label, y, x in peaks:
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
    categories, config, stride = model.categories, model.postprocess, model.stride
    maps = model(torch.from_numpy(canvas)[None])
    peaks = model.peaks(maps.heatmap_logits)
    # The annotation on the canvas, from which centres are taken as in training.
    scaled = tuple(round(n * s) for n, s in zip(geometry.image_size, geometry.scale))
    on_canvas = np.zeros(geometry.canvas_size, np.int32)
    on_canvas[: scaled[0], : scaled[1]] = resize_nearest(sample.ids, (scaled[0], scaled[1]))
    targets = assign_targets(
        on_canvas,
        sample.segments,
        categories.is_thing,
        config=TargetConfig(max_segments=1 << 30),
        inside=on_canvas > 0,
    )
    h, w = maps.heatmap_logits[0].shape[-2:]
    cells = torch.from_numpy(targets.centers / stride).long()
    cells = torch.minimum(cells, torch.tensor([h, w]) - 1)
    cells = torch.cat([torch.zeros_like(cells[:, :1]), cells], 1)
    labels = torch.from_numpy(targets.labels)
    ones = torch.ones(len(labels))
    of_things = torch.tensor([int(label) not in model.stuff_classes for label in labels], dtype=torch.bool)
    own, at = peaks.labels[0], peaks.cells[0]
    found = {
        "model": proposals_at(model, maps, at, own, peaks.scores[0], agreement=model.config.agreement),
        "true centres": proposals_at(model, maps, cells[of_things], labels[of_things], ones[of_things]),
    }
    counts = found["model"].scores[0][: len(own)] > config.score_threshold
    small = torch.from_numpy(targets.regions[stride // 2 :: stride, stride // 2 :: stride].copy())
    region = torch.from_numpy(targets.region)
    masks = torch.where(small[None] == region[:, None, None], 10.0, -10.0)
    found["both"] = Proposals(ones[None], labels[None], masks[None]).numpy()
    answers: dict[str, Any] = {}
    for row, proposals in found.items():
        proposals.geometry = (geometry,)
        answers[row] = postprocess(proposals, config, categories)[0]
    size = (scaled[0] / stride, scaled[1] / stride)
    kept = [(label, y, x) for label, (_, y, x), c in zip(own.tolist(), at.tolist(), counts) if c]
    ids, found_labels, numbers = true_masks(sample, kept, size, model.stuff_classes)
    answers["true masks"] = Segmentation.from_ids(ids, categories, labels=found_labels, segment_ids=numbers)
    return answers


def main() -> None:
    """Prints the table."""
    parser = arguments(__doc__)
    parser.add_argument("model", help="a bundled name or a model file (single-scale MaskConver)")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--split", default="val", help="which split of it")
    parser.add_argument("--by", help="a key of images[] to group by, e.g. image_type")
    parser.add_argument("--count", type=int, help="only the first so many images")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch")
    parser.add_argument("--score-threshold", type=float, help="the model's own if left out")
    parser.add_argument("--overlap-threshold", type=float, help="the model's own if left out")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = load(args.model).eval()
    if not isinstance(model, MaskConver) or len(model.levels) > 1:
        parser.error(f"{args.model}: this script knows MaskConver of one level")
    for name in ("score_threshold", "overlap_threshold"):
        if getattr(args, name) is not None:
            setattr(model.postprocess, name, getattr(args, name))
    data = open_dataset(args.data, args.split, channels=model.input.channels)
    figures: dict[str, dict[str, Figures]] = defaultdict(
        lambda: {row: Figures(data.categories) for row in ROWS}
    )
    with torch.no_grad():
        for index in range(min(args.count or len(data), len(data))):
            sample = data[index]
            canvas, geometry = prepare(sample.image, model.input)
            answers = measure(model, sample, geometry, canvas)
            for row, answer in answers.items():
                for group in groups_of(sample, args.by):
                    figures[group][row].add_image(
                        answer, sample.ids, data.segments(index), image_id=sample.image_id
                    )
    things = bool(data.categories.is_thing.any())
    heads = [head for row in ROWS for head in ((f"{row}: PQ", "AP@0.5") if things else (row,))]
    line = table("images of", "number", *heads)
    for group, rows in sorted(figures.items(), key=lambda item: -item[1]["model"].images):
        values = []
        for found in rows.values():
            result = found.pq.compute()
            values.append(f"{100 * (result.things if things else result.all).pq:.1f}")
            if things:
                values.append(f"{100 * pooled_average_precision(found.pq.state, data.categories).ap:.1f}")
        line(group, rows["model"].images, *values)


if __name__ == "__main__":
    main()
