"""The merge rule, against a slow version of its definition and in what it promises, computed both ways."""

import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskconver.core.categories import Categories, Category
from maskconver.core.config import CHOICES, PostprocessConfig
from maskconver.core.preprocess import resize_bilinear
from maskconver.core.proposals import Geometry, Proposals
from maskconver.errors import ConfigError, MaskconverError
from maskconver.merge import RULES, postprocess, reference
from maskconver.merge.maskconver import merge_masks, output_taps, with_maskness

IS_THING = np.array([True, True, False, False])
CATEGORIES = Categories(
    Category(10 * (i + 1), name, thing, (60 * i, 90, 200))
    for i, (name, thing) in enumerate(zip(("cat", "dog", "sky", "grass"), IS_THING.tolist()))
)
OPEN = PostprocessConfig(score_threshold=0.0, overlap_threshold=0.0, min_area=0.0)


def run(scores, labels, masks, config=OPEN, size=None, geometry=None, non_finite="error"):
    masks = np.asarray(masks, np.float32)
    taps = output_taps(masks.shape[1:], geometry, size)
    arguments = np.float32(scores), np.array(labels, np.int64), masks
    options = {"is_thing": IS_THING, "taps": taps, "config": config, "non_finite": non_finite}
    plain = merge_masks(*arguments, **options, algorithm="reference")
    fast = merge_masks(*arguments, **options)
    np.testing.assert_array_equal(fast[0], plain[0])
    np.testing.assert_array_equal(fast[1], plain[1])
    return fast


def naive(scores, labels, masks, config, size):
    """The definition, pixel by pixel and proposal by proposal: the one that gives each its label, or -1."""
    logits = np.stack([resize_bilinear(mask, size) for mask in masks])
    if config.hard_sigmoid:
        m = np.clip(logits + np.float32(3), 0, 6) * np.float32(0.16667)
    else:
        m = 1 / (1 + np.exp(-logits))
    ranked = sorted(range(len(scores)), key=lambda n: -scores[n])
    valid = [n for n in ranked if scores[n] > np.float32(config.score_threshold)]
    pixels = [(y, x) for y in range(size[0]) for x in range(size[1])]
    winner = {}
    for y, x in pixels:
        best, best_value = None, None
        for n in valid:
            value = m[n, y, x] * scores[n]
            if best_value is None or value > best_value:
                best, best_value = n, value
        winner[y, x] = best
    kept = set()
    for n in valid:
        own = sum(m[n, y, x] > 0.5 for y, x in pixels)
        visible = sum(winner[p] == n for p in pixels)
        big_enough = visible > round(config.min_area * max(size) ** 2, 6)
        if big_enough and own > 0 and visible > np.float32(config.overlap_threshold) * np.float32(own):
            kept.add(n)
    best_of_class = {labels[n]: n for n in reversed(valid) if n in kept}
    answer = np.full(size, -1)
    for p in pixels:
        n = winner[p]
        if n in kept and labels[n] >= 0:
            answer[p] = n if IS_THING[labels[n]] else best_of_class[labels[n]]
    return answer


@st.composite
def proposals(draw):
    n, h, w = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Few distinct values, so that ties and values on a threshold are common.
    masks = rng.integers(-4, 5, (n, h, w)).astype(np.float32)
    scores = rng.choice(np.array([0, 0.01, 0.2, 0.5, 0.9], np.float32), n)
    labels = rng.integers(-1, len(IS_THING), n)
    config = PostprocessConfig(
        score_threshold=draw(st.sampled_from([0.0, 0.01, 0.2])),
        overlap_threshold=draw(st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])),
        min_area=draw(st.sampled_from([0.0, 1 / 36, 4 / 36])),
        hard_sigmoid=draw(st.booleans()),
    )
    return scores, labels, masks, config, draw(st.sampled_from([(h, w), (6, 6), (1, 1), (3, 7)]))


@settings(max_examples=150, deadline=None)
@given(proposals())
def test_equals_the_definition_pixel_by_pixel(case):
    scores, labels, masks, config, size = case
    ids, first = run(scores, labels, masks, config, size)
    np.testing.assert_array_equal(np.append(-1, first)[ids], naive(*case))
    assert sorted(set(ids.ravel()) - {0}) == list(range(1, len(first) + 1))
    assert (np.diff(scores[first]) <= 0).all()


@settings(max_examples=30, deadline=None)
@given(proposals())
def test_the_band_size_does_not_change_the_answer(case):
    scores, labels, masks, config, size = case
    expected = run(scores, labels, masks, config, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "BAND_VALUES", 1)
        for got, want in zip(run(scores, labels, masks, config, size), expected):
            np.testing.assert_array_equal(got, want)


def test_no_proposal_gives_void_everywhere():
    ids, first = run([], [], np.zeros((0, 4, 5)))
    assert ids.shape == (4, 5) and not ids.any() and len(first) == 0


def test_no_proposal_above_the_threshold_gives_void_everywhere():
    ids, _ = run([0.5], [0], np.full((1, 4, 5), 9.0), PostprocessConfig(score_threshold=0.5))
    assert not ids.any()


def test_one_output_pixel_is_fine():
    ids, first = run([0.9], [0], np.full((1, 8, 8), 5.0), size=(1, 1))
    assert ids.tolist() == [[1]] and first.tolist() == [0]


def test_stuff_of_one_class_is_one_segment_with_the_best_score_and_things_stay_apart():
    masks = np.full((4, 1, 4), -9.0)
    masks[range(4), 0, range(4)] = 9.0
    ids, first = run([0.3, 0.9, 0.8, 0.7], [2, 0, 2, 0], masks)
    assert ids.tolist() == [[2, 1, 2, 3]]
    assert first.tolist() == [1, 2, 3]


def test_a_void_proposal_wins_pixels_and_leaves_them_void():
    masks = np.full((2, 1, 2), 9.0)
    masks[1, 0, 0] = -9.0
    ids, _ = run([0.9, 0.8], [-1, 0], masks)
    assert ids.tolist() == [[0, 0]]


def test_pixels_of_a_rejected_proposal_are_void_and_not_the_runner_ups():
    masks = np.full((2, 1, 4), 5.0)
    masks[1, 0, 0] = 50.0  # the second wins one pixel of its four
    ids, _ = run([0.5, 0.4999], [0, 1], masks, PostprocessConfig(overlap_threshold=0.5, min_area=0))
    assert ids.tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize("side", [640, 1280, 500])
def test_the_smallest_area_is_a_fraction_of_the_square_of_the_longer_side(side):
    pixels = 256 * side * side // 640**2
    config = PostprocessConfig(score_threshold=0, overlap_threshold=0)

    def won_by_the_first(area):
        masks = np.zeros((2, 64, side))
        masks[0].reshape(-1)[:area] = 9.0
        masks[0].reshape(-1)[area:] = -9.0
        ids, first = run([0.9, 0.1], [0, 2], masks, config)
        return int((np.append(-1, first)[ids] == 0).sum())

    assert won_by_the_first(pixels) == 0
    assert won_by_the_first(pixels + 1) == pixels + 1


def test_masks_are_brought_back_to_the_original_image():
    # A 300×100 image on a 64×64 canvas; the masks are a plane that is 0 at row 200 of the image.
    rows = (np.arange(16) + 0.5) * 4 / (64 / 300)
    masks = np.repeat((200.0 - rows)[:, None], 16, 1)[None]
    geometry = Geometry((300, 100), (64, 64), (64 / 300, 21 / 100))
    ids, _ = run([0.9, 0.1], [0, 2], np.concatenate([masks, np.full_like(masks, 3.0)]), geometry=geometry)
    assert ids.shape == (300, 100)
    assert abs((ids[:, 50] == 1).sum() - 200) <= 3


def test_pixels_beyond_the_image_count_as_undecided_on_a_larger_output():
    geometry = Geometry((4, 4), (8, 8), (1.0, 1.0))
    masks = np.full((2, 8, 8), 5.0)
    masks[0] = -5.0
    ids, _ = run([0.9, 0.8], [0, 1], masks, size=(6, 6), geometry=geometry)
    assert (ids[:4, :4] == 1).all() and not ids[4:].any()  # the first wins outside, and is rejected


def test_memory_is_bounded_however_many_proposals_there_are():
    rng = np.random.default_rng(0)
    masks = rng.normal(0, 3, (100, 64, 48)).astype(np.float32)
    scores = rng.random(100).astype(np.float32)
    tracemalloc.start()
    run(scores, rng.integers(0, 4, 100), masks, size=(1280, 960))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6 < 100 * 1280 * 960 * 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    masks = np.zeros((2, 3, 3), np.float32)
    masks[1, 2, 2] = value
    with pytest.raises(MaskconverError, match="mask logits hold NaN or infinite"):
        run([0.9, 0.1], [0, 1], masks)
    with pytest.raises(MaskconverError, match="scores hold NaN or infinite"):
        run([0.9, value], [0, 1], np.zeros((2, 3, 3)))


def test_proposals_with_values_that_are_not_finite_are_left_out_by_option():
    masks = np.full((4, 3, 3), 5.0)
    masks[0, 1, 1], masks[1, 0, 0] = np.nan, np.inf
    ids, first = run([0.9, 0.8, 0.7, np.inf], [0, 1, 2, 0], masks, non_finite="drop")
    assert (ids == 1).all() and first.tolist() == [2]


def test_proposals_under_the_threshold_may_hold_anything():
    masks = np.full((2, 3, 3), 5.0)
    masks[1] = np.nan
    ids, _ = run([0.9, 0.1], [0, 1], masks, replace(OPEN, score_threshold=0.5))
    assert (ids == 1).all()


@pytest.mark.parametrize("label", [4, -2])
def test_labels_without_a_category_are_refused(label):
    with pytest.raises(ConfigError, match=f"label {label}"):
        run([0.9], [label], np.zeros((1, 3, 3)))


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ConfigError, match="scores"):
        run([0.9, 0.8], [0], np.zeros((1, 3, 3)))


def batch(**changes):
    masks = np.full((2, 1, 4, 4), 5.0, np.float32)
    values = {
        "scores": np.full((2, 1), 0.9, np.float32),
        "labels": np.array([[1], [2]]),
        "mask_logits": masks,
    }
    return Proposals(**(values | changes))


def test_a_batch_gives_one_segmentation_an_image():
    first, second = postprocess(batch(), OPEN, CATEGORIES)
    assert [(s.id, s.label, s.category_id, s.category, s.is_thing) for s in first] == [
        (1, 1, 20, "dog", True)
    ]
    assert [(s.area, s.bbox) for s in second] == [(16, (0, 0, 4, 4))]
    assert second.segments[0].score == pytest.approx(0.9)


def test_without_geometry_the_answer_has_the_size_of_the_masks_or_the_one_asked_for():
    assert postprocess(batch(), OPEN, CATEGORIES)[0].ids.shape == (4, 4)
    assert postprocess(batch(), OPEN, CATEGORIES, output_size=(9, 5))[0].ids.shape == (9, 5)


def test_with_geometry_every_image_has_its_own_size():
    geometry = (Geometry((9, 3), (16, 16)), Geometry((2, 16), (16, 16)))
    results = postprocess(batch(geometry=geometry), OPEN, CATEGORIES)
    assert [r.ids.shape for r in results] == [(9, 3), (2, 16)]
    with pytest.raises(ConfigError, match="2 images, but 1"):
        postprocess(batch(geometry=geometry[:1]), OPEN, CATEGORIES)


def test_torch_proposals_give_the_same_answer():
    torch = pytest.importorskip("torch")
    arrays = batch()
    tensors = Proposals(*(torch.from_numpy(a) for a in (arrays.scores, arrays.labels, arrays.mask_logits)))
    np.testing.assert_array_equal(
        postprocess(tensors, OPEN, CATEGORIES)[0].ids, postprocess(arrays, OPEN, CATEGORIES)[0].ids
    )


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 4)])
def test_an_answer_without_pixels_is_refused(size):
    with pytest.raises(ConfigError, match="output_size must be height and width in pixels"):
        postprocess(batch(), OPEN, CATEGORIES, output_size=size)


def test_masks_on_a_gpu_stay_there_unless_the_reference_is_asked_for(monkeypatch):
    torch = pytest.importorskip("torch")
    tensor = pytest.importorskip("maskconver.merge.tensor")

    class OnGpu(torch.Tensor):
        is_cuda = True

    def proposals():
        arrays = batch()
        masks = torch.from_numpy(arrays.mask_logits).as_subclass(OnGpu)
        return Proposals(torch.from_numpy(arrays.scores), torch.from_numpy(arrays.labels), masks)

    used = []

    def on_gpu(scores, logits, taps, config):
        used.append(1)
        return reference.PlainCompetition(scores, np.array(logits), taps, config)

    monkeypatch.setattr(tensor, "TensorCompetition", on_gpu)
    assert (postprocess(proposals(), OPEN, CATEGORIES, algorithm="reference")[0].ids == 1).all()
    assert not used
    postprocess(proposals(), OPEN, CATEGORIES)
    assert used


def test_every_rule_that_a_config_may_name_is_there_and_says_what_it_does_not_read():
    assert [*RULES] == [*CHOICES["rule"]]
    names = {field.name for field in fields(PostprocessConfig)}
    for name, rule in RULES.items():
        assert rule.name == name and set(rule.unused) < names


def test_a_rule_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="kmax"):
        postprocess(batch(), PostprocessConfig(rule="vote"), CATEGORIES)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"algorithm": "best"}, 'algorithm "best" is not available; there are fast, reference'),
        ({"non_finite": "ignore"}, 'non_finite "ignore" is not available; there are error, drop'),
    ],
)
def test_options_that_do_not_exist_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        postprocess(batch(), OPEN, CATEGORIES, **option)


def test_a_pixel_that_no_mask_claims_goes_to_the_winner_as_published_or_stays_void():
    mask = np.full((1, 4, 4), -3.0)
    mask[0, :2, :2] = 3.0
    ids, _ = run([0.9], [0], mask)
    assert (ids == 1).all()
    config = PostprocessConfig(score_threshold=0.0, overlap_threshold=0.0, min_area=0.0, mask_threshold=0.5)
    ids, first = run([0.9], [0], mask, config)
    np.testing.assert_array_equal(ids, mask[0] > 0)
    np.testing.assert_array_equal(first, [0])


def test_two_peaks_on_one_object_are_one_object_with_nms():
    left, right = np.full((4, 8), 2.0), np.full((4, 8), 2.0)
    left[:, 4:], right[:, :4] = 1.0, 1.0  # alike masks, each the surer on its half
    strict = {"score_threshold": 0.0, "overlap_threshold": 0.7, "min_area": 0.0}
    ids, _ = run([0.8, 0.8], [0, 0], [left, right], PostprocessConfig(**strict))
    assert (ids == 0).all()  # both keep half of what they claim
    ids, _ = run([0.8, 0.8], [0, 0], [left, right], PostprocessConfig(**strict, nms_iou=0.5))
    assert (ids == 1).all()


def test_nms_leaves_another_class_and_neighbours_alone():
    whole = np.full((4, 8), 2.0)
    half, other = whole.copy(), whole.copy()
    half[:, 4:], other[:, :4] = -2.0, -2.0
    config = PostprocessConfig(score_threshold=0.0, overlap_threshold=0.0, min_area=0.0, nms_iou=0.5)
    _, first = run([0.9, 0.8], [0, 0], [half, other], config)
    assert len(first) == 2
    _, first = run([0.8, 0.9], [0, 2], [half * 3, whole], config)
    assert len(first) == 2


def test_a_mask_dropped_by_nms_drops_no_other():
    x = np.arange(8)
    spans = ((0, 4), (1, 6), (3, 8))
    masks = [np.where((x >= s) & (x < e), 2.0, -2.0)[None].repeat(2, 0) for s, e in spans]
    config = PostprocessConfig(score_threshold=0.0, overlap_threshold=0.0, min_area=0.0, nms_iou=0.35)
    _, first = run([0.9, 0.8, 0.7], [0, 0, 0], masks, config)
    np.testing.assert_array_equal(np.sort(first), [0, 2])


def test_pixels_of_a_rejected_proposal_become_void_as_published_or_go_to_the_best_kept_one():
    whole = np.full((2, 8), 1.0)
    intruder = np.full((2, 8), 0.5)
    intruder[:, :2] = 4.0  # claims everything, wins a quarter
    strict = {"score_threshold": 0.0, "overlap_threshold": 0.5, "min_area": 0.0}
    ids, _ = run([0.8, 0.8], [0, 0], [whole, intruder], PostprocessConfig(**strict))
    np.testing.assert_array_equal(ids[0], [0, 0, 1, 1, 1, 1, 1, 1])
    ids, first = run([0.8, 0.8], [0, 0], [whole, intruder], PostprocessConfig(**strict, reassign=True))
    assert (ids == 1).all()
    np.testing.assert_array_equal(first, [0])


def blurred_and_sharp():
    """Two proposals side by side: the better scored one has a mask of probability 0.6."""
    masks = np.full((1, 2, 1, 4), -9.0, np.float32)
    masks[0, 0, 0, :2], masks[0, 1, 0, 2:] = np.log(0.6 / 0.4), 9.0
    return Proposals(np.float32([[0.8, 0.7]]), np.array([[0, 0]]), masks)


def test_maskness_ranks_sharp_masks_before_blurred_ones():
    plain = postprocess(blurred_and_sharp(), OPEN, CATEGORIES)[0]
    assert [s.score for s in plain.segments] == pytest.approx([0.8, 0.7])
    found = postprocess(blurred_and_sharp(), replace(OPEN, maskness=1.0), CATEGORIES)[0]
    assert [s.score for s in found.segments] == pytest.approx([0.7, 0.48], abs=1e-3)
    assert found.ids.tolist() == [[2, 2, 1, 1]]


def test_the_score_threshold_is_of_the_score_times_maskness():
    config = replace(OPEN, maskness=1.0, score_threshold=0.5)
    assert len(postprocess(blurred_and_sharp(), config, CATEGORIES)[0].segments) == 1
    assert len(postprocess(blurred_and_sharp(), replace(config, maskness=0.0), CATEGORIES)[0].segments) == 2


def test_tensors_get_the_scores_of_arrays():
    torch = pytest.importorskip("torch")
    proposals, config = blurred_and_sharp(), replace(OPEN, maskness=2.0)
    masks = torch.from_numpy(proposals.mask_logits[0])
    np.testing.assert_array_equal(
        with_maskness(proposals.scores[0], masks, config),
        with_maskness(proposals.scores[0], proposals.mask_logits[0], config),
    )


@pytest.mark.parametrize("name", ["maskness", "class_exponent", "mask_exponent"])
def test_an_exponent_below_0_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        postprocess(blurred_and_sharp(), replace(OPEN, **{name: -1.0}), CATEGORIES)


@pytest.mark.parametrize(("exponent", "winner"), [(1.0, 0), (0.5, 1), (0.0, 1)])
@pytest.mark.parametrize("algorithm", ["fast", "reference"])
def test_scores_count_in_the_competition_as_far_as_their_exponent_says(exponent, winner, algorithm):
    masks = np.log(np.float32([0.6, 0.8]) / np.float32([0.4, 0.2])).reshape(1, 2, 1, 1)
    proposals = Proposals(np.float32([[0.9, 0.6]]), np.array([[0, 1]]), masks)
    found = postprocess(proposals, replace(OPEN, class_exponent=exponent), CATEGORIES, algorithm=algorithm)[0]
    assert [s.label for s in found] == [winner]
    assert found.segments[0].score == pytest.approx([0.9, 0.6][winner])  # as the network says
