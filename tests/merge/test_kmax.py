"""The kMaX-DeepLab merge rule on small hand-made masks."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from maskconver.core.categories import Categories, Category
from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry, Proposals
from maskconver.core.resize import resize_bilinear
from maskconver.core.segmentation import Segmentation
from maskconver.errors import ConfigError, MaskconverError
from maskconver.merge import kmax, postprocess

CATEGORIES = Categories([Category(1, "cat", True, (1, 0, 0)), Category(2, "sky", False, (0, 1, 0))])
CAT, SKY = 0, 1
CONFIG = PostprocessConfig(
    rule="kmax",
    score_threshold=0.7,
    stuff_threshold=0.5,
    overlap_threshold=0.8,
    mask_threshold=0.4,
    min_area=0,
)


def stripes(*columns: range, size: int = 8) -> np.ndarray:
    """One mask a range of columns, certain there and certainly not elsewhere."""
    masks = np.full((len(columns), size, size), -20.0, np.float32)
    for mask, part in zip(masks, columns):
        mask[:, part] = 20
    return masks


def merged(
    scores: list, labels: list, masks: np.ndarray, config: PostprocessConfig = CONFIG, **kw: object
) -> Segmentation:
    geometry = kw.pop("geometry", ())
    proposals = Proposals(
        np.array([scores], np.float32),
        np.array([labels]),
        masks[None],
        geometry=geometry,  # type: ignore[arg-type]
    )
    return postprocess(proposals, config, CATEGORIES, **kw)[0]  # type: ignore[arg-type]


def test_things_are_segments_each_and_stuff_is_one_a_class() -> None:
    found = merged(
        [0.9, 0.9, 0.8, 0.8], [CAT, CAT, SKY, SKY], stripes(range(2), range(2, 4), range(4, 6), range(6, 8))
    )
    assert [s.label for s in found.segments] == [CAT, CAT, SKY]
    assert found.ids[0].tolist() == [1, 1, 2, 2, 3, 3, 3, 3]


def test_things_and_stuff_have_their_own_thresholds() -> None:
    found = merged([0.6, 0.6], [CAT, SKY], stripes(range(4), range(4, 8)))
    assert found.ids[0].tolist() == [0] * 4 + [1] * 4 and found.segments[0].label == SKY


def test_a_mask_of_which_too_little_is_left_is_dropped_and_its_pixels_stay_void() -> None:
    sigmoid = replace(CONFIG, mask_activation="sigmoid")
    found = merged([0.9, 0.8], [CAT, CAT], stripes(range(4), range(2, 6)), sigmoid)
    assert found.ids[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_equal_masks_share_the_softmax_and_a_third_of_it_is_not_enough() -> None:
    found = merged([0.9] * 3, [CAT] * 3, stripes(range(8), range(8), range(8)))
    assert not found.segments and not found.ids.any()


def test_void_proposals_take_nothing_but_compete() -> None:
    found = merged([0.9, 0.9], [-1, CAT], stripes(range(4), range(4, 8)))
    assert found.ids[0].tolist() == [0] * 4 + [1] * 4


def test_small_segments_become_void_and_the_rest_is_numbered_anew() -> None:
    found = merged(
        [0.9, 0.8],
        [CAT, CAT],
        stripes(range(1), range(2, 8)),
        replace(CONFIG, min_area=8 / 64, mask_activation="sigmoid"),
    )
    assert found.ids[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1] and len(found.segments) == 1


def test_padding_is_cut_off_and_the_answer_has_the_image_s_size() -> None:
    geometry = Geometry((8, 16), (32, 32), (2.0, 2.0))  # the image fills the upper half of the canvas
    masks = stripes(range(4), range(4, 8))
    found = merged([0.9, 0.9], [CAT, SKY], masks, geometry=(geometry,))
    assert found.ids.shape == (8, 16)
    assert (found.ids[:, :7] == 1).all() and (found.ids[:, 9:] == 2).all()
    wide = merged([0.9, 0.9], [CAT, SKY], masks, geometry=(geometry,), output_size=(10, 6))
    assert wide.ids.shape == (10, 6) and not wide.ids[8:].any() and len(wide.segments) == 1


def test_nothing_proposed_is_all_void() -> None:
    found = merged([], np.zeros(0, np.int64), np.zeros((0, 4, 4), np.float32))  # type: ignore[arg-type]
    assert found.ids.shape == (4, 4) and not found.segments


def test_values_that_are_not_finite_are_refused_or_dropped() -> None:
    masks = stripes(range(4), range(4, 8))
    masks[0, 0, 0] = np.nan
    with pytest.raises(MaskconverError, match='non_finite="drop"'):
        merged([0.9, 0.9], [CAT, CAT], masks)
    found = merged([0.9, 0.8], [CAT, SKY], masks, non_finite="drop")
    assert [s.label for s in found.segments] == [SKY]


def test_a_label_without_category_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 categories"):
        merged([0.9], [5], stripes(range(4)))


@pytest.mark.slow
def test_memory_at_4k_stays_under_150_mb_and_grows_with_the_masks_by_a_bit_a_pixel() -> None:
    """At a quarter of the sides: there 100 masks of a byte a pixel would take 52 MB, 830 at 4K."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 20, (100, 9, 16)).astype(np.float32)
    masks = np.stack([resize_bilinear(mask, (45, 80)) for mask in coarse])
    geometry = Geometry((540, 960), (180, 320), (1 / 3, 1 / 3))
    labels, scores = np.zeros(100, np.int64), np.full(100, 0.9, np.float32)

    def peak(config: PostprocessConfig, band: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kmax, "BAND_VALUES", band)
            tracemalloc.start()
            kmax.merge_kmax(
                scores, labels, masks, is_thing=np.array([True]), geometry=geometry, config=config
            )
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most

    assert peak(CONFIG, kmax.BAND_VALUES // 16) < 150e6 / 16
    everywhere = replace(CONFIG, mask_activation="sigmoid", mask_threshold=0)
    assert peak(everywhere, kmax.BAND_VALUES // 16) < 100 * 540 * 960 / 8 + 100e6 / 16
