"""The merge reproduces every case of the reference implementation, pixel for pixel."""

from pathlib import Path

import numpy as np
import pytest

from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry
from maskconver.merge.maskconver import merge_masks, output_taps

pytestmark = pytest.mark.golden

FOLDER = Path(__file__).parent / "cases" / "maskconver"
CASES = sorted(path.stem for path in FOLDER.glob("merge_*.npz"))


def test_all_cases_are_there():
    assert len(CASES) == 12


@pytest.mark.parametrize("algorithm", ["fast", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_category_and_instance_maps_are_the_references(case, algorithm):
    data = np.load(FOLDER / f"{case}.npz")
    size = tuple(data["output_size"].tolist())
    config = PostprocessConfig(
        score_threshold=float(data["object_mask_threshold"]),
        overlap_threshold=float(data["overlap_threshold"]),
        min_area=float(data["small_area_threshold"]) / max(size) ** 2,
        hard_sigmoid=bool(data["hard_sigmoid"]),
    )
    geometry = None
    if "image_info" in data:
        image, canvas, scale, _ = (tuple(row) for row in data["image_info"].tolist())
        geometry = Geometry((int(image[0]), int(image[1])), (int(canvas[0]), int(canvas[1])), scale)
    masks = data["mask_logits"].transpose(2, 0, 1)
    scores, classes, is_thing = data["scores"], data["classes"].astype(np.int64), data["is_thing"]

    ids, first = merge_masks(
        scores,
        classes - 1,
        masks,
        is_thing=is_thing[1:],
        taps=output_taps(masks.shape[1:], geometry, size),
        config=config,
        algorithm=algorithm,
    )

    # The reference's class 0 is our void, and its instance ids are ranks in the order of the scores.
    rank = np.empty(len(scores), int)
    rank[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    category = np.append(0, classes[first])[ids]
    instance = np.append(0, np.where(is_thing[classes[first]], rank[first], 0))[ids]
    np.testing.assert_array_equal(category, data["category"])
    np.testing.assert_array_equal(instance, data["instance"])
