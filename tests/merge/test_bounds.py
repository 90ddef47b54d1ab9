"""The fast competition gives the answer of the plain one, pixel for pixel, and computes far fewer pixels."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from maskconver.core.config import PostprocessConfig
from maskconver.core.proposals import Geometry
from maskconver.core.resize import lerp, resize_bilinear
from maskconver.merge import blocks, maskconver
from maskconver.merge import bounds as fast
from maskconver.merge.maskconver import merge_masks, output_taps
from maskconver.merge.reference import PlainCompetition, probabilities

IS_THING = np.array([True, True, False, False])


def smooth_masks(rng, n, size, cells=6, scale=6.0):
    """Blobs as a trained network gives: large, smooth, steep at their edge."""
    coarse = rng.normal(-0.5, 1, (n, cells, cells)).astype(np.float32)
    return np.stack([resize_bilinear(c, size) for c in coarse]) * np.float32(scale)


def random_case(rng):
    """Proposals, geometry, output size and thresholds of any kind, ties and equal masks among them."""
    n, h, w = rng.integers(1, 12), rng.integers(1, 24), rng.integers(1, 24)
    masks = [
        lambda: rng.normal(0, rng.choice([0.1, 3, 50]), (n, h, w)).astype(np.float32),
        lambda: rng.integers(-3, 4, (n, h, w)).astype(np.float32),
        lambda: smooth_masks(rng, n, (h, w)),
    ][rng.integers(3)]()
    if rng.random() < 0.3:  # exact ties
        masks = masks[rng.integers(0, n, n)]
    scores = rng.choice(np.float32([0.02, 0.3, 0.5, 0.9, 1]), n)
    if rng.random() < 0.5:
        scores = rng.random(n, np.float32)
    config = PostprocessConfig(
        score_threshold=rng.choice([0, 0.3]),
        overlap_threshold=rng.choice([0, 0.5, 0.7]),
        min_area=rng.choice([0, 0.001]),
        mask_threshold=rng.choice([0, 0, 0.3, 0.5, 0.8]),
        nms_iou=rng.choice([1, 1, 0.5]),
        reassign=rng.random() < 0.3,
        hard_sigmoid=rng.random() < 0.4,
        class_exponent=rng.choice([1, 1, 0, 0.5]),
    )
    size, geometry = None, None
    kind = rng.integers(3)
    if kind == 0:
        size = (int(rng.integers(1, 120)), int(rng.integers(1, 120)))
    else:
        canvas, scale = (h * 8, w * 8), (float(rng.uniform(0.2, 1.5)), float(rng.uniform(0.2, 1.5)))
        image = tuple(max(int(c / s * rng.uniform(0.4, 1)), 1) for c, s in zip(canvas, scale))
        geometry = Geometry(image, canvas, scale)
        size = (image[0] + 5, image[1] + 9) if rng.random() < 0.2 else None
    return scores, rng.integers(-1, 4, n), masks, output_taps((h, w), geometry, size), config


def both(scores, labels, masks, taps, config):
    given = {"is_thing": IS_THING, "taps": taps, "config": config}
    return [merge_masks(scores, labels, masks, **given, algorithm=name) for name in ("fast", "reference")]


def check_random_cases(seeds):
    for seed in seeds:
        got, expected = both(*random_case(np.random.default_rng(seed)))
        np.testing.assert_array_equal(got[0], expected[0], f"seed {seed}")
        np.testing.assert_array_equal(got[1], expected[1], f"seed {seed}")


def test_random_cases_equal_the_plain_competition():
    check_random_cases(range(400))


@pytest.mark.slow
def test_ten_thousand_random_cases_equal_the_plain_competition():
    check_random_cases(range(400, 10_400))


def test_logits_beyond_the_sigmoid_and_equal_masks_give_the_plain_answer():
    rng = np.random.default_rng(0)
    masks = np.concatenate([smooth_masks(rng, 6, (12, 12), scale=s) for s in (30, 300, 3e4, 3e-7)])
    masks = np.concatenate([masks, masks[::3]])
    scores = rng.choice(np.float32([0.5, 0.9, 1]), len(masks))
    taps = output_taps((12, 12), None, (97, 90))
    for threshold in (0, 0.5):
        config = PostprocessConfig(min_area=0, overlap_threshold=0, mask_threshold=threshold)
        got, expected = both(scores, rng.integers(0, 4, len(masks)), masks, taps, config)
        np.testing.assert_array_equal(got[0], expected[0])


def test_reassigning_the_pixels_of_rejected_proposals_alone_is_competing_again(monkeypatch):
    """The reference lets those that are kept compete for everything; `fast` decides few pixels alone."""
    looked = []
    original = maskconver.winners_at
    monkeypatch.setattr(
        maskconver,
        "winners_at",
        lambda *given, **more: looked.append(len(given[0])) or original(*given, **more),
    )
    for seed in range(200):
        *given, config = random_case(np.random.default_rng(seed))
        got, expected = both(*given, replace(config, reassign=True, overlap_threshold=0.7, nms_iou=1))
        np.testing.assert_array_equal(got[0], expected[0], f"seed {seed}")
        np.testing.assert_array_equal(got[1], expected[1], f"seed {seed}")
    assert len(looked) > 20


def test_candidates_whose_score_cannot_win_are_not_looked_at():
    rng = np.random.default_rng(0)
    masks, scores = smooth_masks(rng, 150, (32, 32)), np.full(150, 0.001, np.float32)
    masks[0], scores[0] = 5, 0.9  # wins everything
    given = scores, np.zeros(150, np.int64), masks, output_taps((32, 32), None, (128, 128))
    for hard in (False, True):
        got, expected = both(*given, PostprocessConfig(score_threshold=0, hard_sigmoid=hard))
        np.testing.assert_array_equal(got[0], expected[0])
    competition = fast.BoundedCompetition(scores, masks, given[-1], PostprocessConfig())
    assert len(competition._cell_bounds(competition._cell_area())[1]) < 150


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1)])
def test_no_or_one_proposal_on_an_image_of_any_size(n, size):
    masks = np.full((n, 8, 8), 3, np.float32)
    taps = output_taps((8, 8), None, size)
    got, expected = both(np.full(n, 0.9, np.float32), np.zeros(n, np.int64), masks, taps, PostprocessConfig())
    np.testing.assert_array_equal(got[0], expected[0])
    assert (got[0] == n).all() and got[0].shape == size and len(got[1]) == n


@pytest.mark.parametrize("algorithm", ["fast", "reference"])
def test_proposals_that_are_not_finite_are_dropped_before_anybody_competes(algorithm):
    rng = np.random.default_rng(0)
    masks, scores = smooth_masks(rng, 8, (16, 16)), np.linspace(0.9, 0.2, 8, dtype=np.float32)
    masks[2, 3, 4], masks[5, 0, 0], scores[6] = np.nan, np.inf, np.nan
    taps, labels = output_taps((16, 16), None, (64, 64)), np.arange(8) % 4
    whole = np.array([0, 1, 3, 4, 7])
    ids, first = merge_masks(
        scores,
        labels,
        masks,
        is_thing=IS_THING,
        taps=taps,
        config=PostprocessConfig(),
        algorithm=algorithm,
        non_finite="drop",
    )
    expected = merge_masks(
        scores[whole], labels[whole], masks[whole], is_thing=IS_THING, taps=taps, config=PostprocessConfig()
    )
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(first, whole[expected[1]])


def test_the_way_blocks_are_cut_does_not_change_the_answer(monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK", 5)
    monkeypatch.setattr(fast, "TILE", 2)
    monkeypatch.setattr(fast, "SMALL", 3)
    monkeypatch.setattr(fast, "CROWDED", 2.0)
    check_random_cases(range(60))


def test_areas_and_winners_are_the_plain_ones_even_where_bounds_are_useless(monkeypatch):
    monkeypatch.setattr(fast, "CROWDED", 2.0)
    rng = np.random.default_rng(0)
    for config in (
        PostprocessConfig(),
        PostprocessConfig(hard_sigmoid=True),
        PostprocessConfig(mask_threshold=0.5),
    ):
        scores = np.sort(rng.random(9).astype(np.float32))[::-1]
        masks = rng.normal(0, 5, (9, 20, 30)).astype(np.float32)
        taps = output_taps((20, 30), None, (171, 300))
        competition = fast.compete(scores, masks, taps, config)
        plain = PlainCompetition(scores, masks, taps, config)
        assert isinstance(competition, fast.BoundedCompetition)
        np.testing.assert_array_equal(competition.visible, plain.visible)
        numbers = np.arange(10, dtype=np.int32)
        np.testing.assert_array_equal(competition.paint(numbers), plain.winner)
        everybody = np.ones(9, bool)
        for share in np.linspace(0, 1, 21):
            np.testing.assert_array_equal(
                competition.covers(share, everybody), plain.covers(share, everybody)
            )


def test_most_pixels_of_a_usual_image_are_never_computed(monkeypatch):
    rng = np.random.default_rng(0)
    masks, scores = smooth_masks(rng, 50, (80, 80)), rng.random(50, np.float32)
    computed = []
    original = fast.BoundedCompetition._probabilities

    def counting(self, part, y, x):
        computed.append(len(y) * len(x) * len(part.candidate))
        return original(self, part, y, x)

    monkeypatch.setattr(fast.BoundedCompetition, "_probabilities", counting)
    taps = output_taps((80, 80), None, (640, 640))
    merge_masks(
        scores, np.zeros(50, np.int64), masks, is_thing=IS_THING, taps=taps, config=PostprocessConfig()
    )
    assert 0 < sum(computed) < 0.05 * 50 * 640 * 640


def test_crowded_images_are_left_to_the_plain_competition():
    rng = np.random.default_rng(0)
    masks, scores = rng.normal(0, 0.1, (20, 10, 10)).astype(np.float32), np.full(20, 0.5, np.float32)
    taps = output_taps((10, 10), None, (80, 80))
    assert isinstance(fast.compete(scores, masks, taps, PostprocessConfig()), PlainCompetition)


def test_answers_smaller_than_the_masks_are_left_to_the_plain_competition():
    taps = output_taps((10, 10), None, (7, 40))
    scores, masks = np.ones(1, np.float32), np.ones((1, 10, 10), np.float32)
    assert isinstance(fast.compete(scores, masks, taps, PostprocessConfig()), PlainCompetition)


def test_more_than_a_thousand_proposals():
    rng = np.random.default_rng(0)
    masks = np.full((1200, 40, 40), -6, np.float32)
    masks[range(1200), rng.integers(0, 40, 1200), rng.integers(0, 40, 1200)] = 6
    taps = output_taps((40, 40), None, (160, 160))
    got, expected = both(
        rng.random(1200, np.float32), rng.integers(0, 4, 1200), masks, taps, PostprocessConfig(min_area=0)
    )
    np.testing.assert_array_equal(got[0], expected[0])
    assert len(got[1]) > 100


def test_memory_at_4k_stays_near_that_of_the_answer():
    rng = np.random.default_rng(0)
    masks, scores = smooth_masks(rng, 100, (45, 80), cells=9), rng.random(100, np.float32)
    taps = output_taps((45, 80), Geometry((2160, 3840), (360, 640), (1 / 6, 1 / 6)), None)
    tracemalloc.start()
    merge_masks(
        scores, rng.integers(0, 4, 100), masks, is_thing=IS_THING, taps=taps, config=PostprocessConfig()
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


def test_tensors_give_the_plain_answer_but_where_bids_differ_by_rounding():
    torch = pytest.importorskip("torch")
    from maskconver.merge.tensor import TensorCompetition

    for seed in range(150):
        scores, labels, masks, taps, config = random_case(np.random.default_rng(seed))
        plain = merge_masks(
            scores, labels, masks, is_thing=IS_THING, taps=taps, config=config, algorithm="reference"
        )
        _, first = merge_masks(
            scores, labels, torch.from_numpy(masks), is_thing=IS_THING, taps=taps, config=config
        )
        np.testing.assert_array_equal(first, plain[1], f"seed {seed}")
        order = np.argsort(-scores, kind="stable")
        scores, masks = scores[order], masks[order]
        expected = PlainCompetition(scores, masks, taps, config).winner
        winner = TensorCompetition(scores, torch.from_numpy(masks), taps, config).winner.numpy()
        # The exponential may be rounded otherwise: bids so alike, and claims so near the threshold.
        bids, doubtful = all_bids(scores, masks, taps, config)
        best = np.sort(bids, 0)[-2:]
        close = doubtful | (len(scores) > 1) & (best[-1] - best[0] <= 1e-6 * best[-1])
        assert close[winner != expected].all(), seed


def all_bids(scores, masks, taps, config):
    """(n, H, W) bids of the plain competition, and where a probability is as good as the pixel threshold."""
    rows, columns = taps
    logits = lerp(lerp(masks, rows, 1), columns, 2)
    logits[:, ~(rows.inside[:, None] & columns.inside)] = 0
    p = probabilities(logits, config.hard_sigmoid)
    threshold = np.float32(config.mask_threshold)
    near = (abs(p - threshold) <= 1e-6 * threshold).any(0) if threshold else np.zeros(p.shape[1:], bool)
    return np.where(p > threshold, p, 0) * scores[:, None, None], near


@pytest.mark.parametrize(
    "config", [PostprocessConfig(), PostprocessConfig(mask_threshold=0.3, hard_sigmoid=True)]
)
def test_tensors_take_three_bands_of_memory_and_the_answer_twice(monkeypatch, config):
    torch = pytest.importorskip("torch")
    from maskconver.merge import tensor

    assert 3 * 4 * tensor.BAND_VALUES + 4 * 3840 * 2160 < 150e6
    monkeypatch.setattr(tensor, "BAND_VALUES", 1 << 18)
    rng = np.random.default_rng(0)
    scores, masks = np.full(50, 0.5, np.float32), torch.from_numpy(rng.normal(0, 3, (50, 9, 16)))
    taps, numbers = output_taps((9, 16), None, (216, 384)), np.arange(51, dtype=np.int32)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        tensor.TensorCompetition(scores, masks.float(), taps, config).paint(numbers)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    assert 4 * (1 << 18) < held.max() < 3 * 4 * (1 << 18) + 2 * 4 * 216 * 384
