"""From an annotation to targets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maskconver.core.segments import SegmentTable
from maskconver.training.targets import ImageTargets, TargetConfig, assign_targets
from tests.batches import IS_THING, squares, table


def assign(ids: NDArray[np.int32], segments: SegmentTable, **choices: object) -> ImageTargets:
    return assign_targets(ids, segments, IS_THING, config=TargetConfig(**choices))  # type: ignore[arg-type]


def bent(size: int = 40) -> NDArray[np.int32]:
    """One thing in the shape of an L; the centre of its box is not the mean of its pixels."""
    ids = np.zeros((size, size), np.int32)
    ids[4:30, 4:8] = 5
    ids[26:30, 4:24] = 5
    return ids


class TestCenters:
    def test_of_a_box(self) -> None:
        targets = assign(bent(), table((5, 0)), center="box")
        np.testing.assert_array_equal(targets.centers, [[(4 + 29) / 2, (4 + 23) / 2]])
        np.testing.assert_array_equal(targets.boxes, [[4, 4, 29, 23]])

    def test_of_a_mask(self) -> None:
        targets = assign(bent(), table((5, 0)), center="mask")
        np.testing.assert_allclose(targets.centers[0], np.mean(np.nonzero(bent() == 5), 1), rtol=1e-6)

    def test_of_the_image(self) -> None:
        targets = assign(bent(40), table((5, 0)), center="image")
        np.testing.assert_array_equal(targets.centers, [[19.5, 19.5]])
        inside = np.zeros((40, 40), bool)
        inside[:20, :30] = True
        targets = assign_targets(
            np.where(inside, bent(), 0).astype(np.int32),
            table((5, 0)),
            IS_THING,
            config=TargetConfig(center="image"),
            inside=inside,
        )
        np.testing.assert_array_equal(targets.centers, [[9.5, 14.5]])


class TestStuff:
    @staticmethod
    def ground() -> tuple[NDArray[np.int32], SegmentTable]:
        """Grass in two far pieces with a road between."""
        ids = np.full((60, 200), 2, np.int32)
        ids[:, :40] = 1
        ids[:30, 180:] = 1
        return ids, table((1, 3), (2, 4))

    def test_every_island_has_a_centre_and_the_mask_of_its_class(self) -> None:
        ids, segments = self.ground()
        targets = assign(ids, segments)
        assert targets.labels.tolist() == [3, 3, 4]
        assert targets.region[0] == targets.region[1] != targets.region[2]
        np.testing.assert_array_equal(targets.regions == targets.region[0], ids == 1)
        np.testing.assert_array_equal(targets.boxes[:2], [[0, 0, 59, 39], [0, 180, 29, 199]])

    def test_or_the_mask_of_the_island_alone(self) -> None:
        ids, segments = self.ground()
        targets = assign(ids, segments, island_mask="island")
        assert len(set(targets.region.tolist())) == 3
        for row, columns in ((0, slice(0, 40)), (1, slice(180, 200))):
            expected = np.zeros(ids.shape, bool)
            expected[:, columns] = ids[:, columns] == 1
            np.testing.assert_array_equal(targets.regions == targets.region[row], expected)

    def test_with_island_masks_an_island_beyond_k_belongs_to_none_but_counts(self) -> None:
        ids, segments = self.ground()
        targets = assign(ids, segments, island_mask="island", islands=1)
        assert targets.labels.tolist() == [3, 4]
        assert (targets.regions[:30, 180:] == 0).all() and targets.valid.all()

    def test_with_island_masks_and_all_islands_too_small_the_class_has_no_region(self) -> None:
        ids, segments = self.ground()
        targets = assign(ids, segments, island_mask="island", islands_min_area=5000)
        assert targets.labels.tolist() == [4]
        assert set(np.unique(targets.regions)) == {0, int(targets.region[0])}

    def test_one_centre_a_class_with_global(self) -> None:
        ids, segments = self.ground()
        targets = assign(ids, segments, stuff="global")
        assert targets.labels.tolist() == [3, 4]
        np.testing.assert_array_equal(targets.boxes[0], [0, 0, 59, 199])
        np.testing.assert_array_equal(targets.centers[0], [29.5, 99.5])

    def test_one_centre_in_the_middle_of_the_image(self) -> None:
        ids, segments = self.ground()
        targets = assign(ids, segments, stuff="image")
        np.testing.assert_array_equal(targets.centers, [[29.5, 99.5]] * 2)

    def test_in_several_segments_is_merged(self) -> None:
        ids, segments = self.ground()
        split = ids.copy()
        split[:, 20:40] = np.where(split[:, 20:40] == 1, 7, split[:, 20:40])
        merged, plain = assign(split, table((1, 3), (7, 3), (2, 4))), assign(ids, segments)
        np.testing.assert_array_equal(merged.regions > 0, plain.regions > 0)
        np.testing.assert_array_equal(merged.boxes, plain.boxes)
        np.testing.assert_array_equal(merged.labels, plain.labels)


class TestCap:
    @staticmethod
    def row(*areas: int) -> tuple[NDArray[np.int32], SegmentTable]:
        """Things of one row each, of these areas."""
        ids = np.zeros((len(areas), max(areas)), np.int32)
        for number, area in enumerate(areas):
            ids[number, :area] = number + 1
        return ids, table(*((n + 1, 0) for n in range(len(areas))))

    def test_the_largest_are_kept_and_all_stay_for_the_heatmap(self) -> None:
        ids, segments = self.row(3, 9, 5, 7, 1)
        targets = assign(ids, segments, max_segments=3)
        assert targets.keep.tolist() == [False, True, True, True, False]
        assert len(targets.labels) == 5

    def test_or_the_first_as_in_the_reference(self) -> None:
        ids, segments = self.row(3, 9, 5, 7, 1)
        assert (
            assign(ids, segments, max_segments=2, order="reference").keep.tolist()
            == [True, True] + [False] * 3
        )

    def test_of_equal_areas_the_first_are_kept(self) -> None:
        ids, segments = self.row(4, 4, 4)
        assert assign(ids, segments, max_segments=2).keep.tolist() == [True, True, False]

    def test_islands_count_with_what_they_must_predict(self) -> None:
        ids = np.zeros((60, 200), np.int32)
        ids[:, :40], ids[:10, 180:], ids[20:40, 80:100] = 1, 1, 3
        targets = assign(ids, table((1, 3), (3, 0)), island_mask="island", max_segments=2)
        assert targets.labels.tolist() == [0, 3, 3] and targets.keep.tolist() == [True, True, False]


class TestVoidAndCrowd:
    def test_are_left_out_of_the_losses(self) -> None:
        ids, segments = squares()
        targets = assign(ids, segments)
        np.testing.assert_array_equal(targets.valid, (ids != 0) & (ids != 9))
        assert 1 not in targets.labels  # the crowd's

    def test_or_are_background_as_in_the_reference(self) -> None:
        ids, segments = squares()
        targets = assign(ids, segments, ignore_void=False)
        assert targets.valid.all() and (targets.regions[(ids == 0) | (ids == 9)] == 0).all()

    def test_padding_is_always_left_out(self) -> None:
        inside = np.zeros((64, 64), bool)
        inside[:50] = True
        ids, segments = squares()
        ids = np.where(inside, ids, 0).astype(np.int32)
        targets = assign_targets(
            ids, segments, IS_THING, config=TargetConfig(ignore_void=False), inside=inside
        )
        np.testing.assert_array_equal(targets.valid, inside)

    def test_an_id_without_a_row_is_void(self) -> None:
        targets = assign(np.full((8, 8), 77, np.int32), table((1, 0)))
        assert not targets.valid.any() and len(targets.labels) == 0

    def test_the_given_mask_is_not_changed(self) -> None:
        inside = np.ones((64, 64), bool)
        assign_targets(*squares(), IS_THING, config=TargetConfig(), inside=inside)
        assert inside.all()


def test_a_segment_without_pixels_is_left_out() -> None:
    ids = np.full((8, 8), 3, np.int32)
    assert assign(ids, table((3, 0), (4, 1), (5, 3))).labels.tolist() == [0]


def test_a_one_pixel_segment_has_a_box_of_one_pixel() -> None:
    ids = np.full((8, 8), 3, np.int32)
    ids[2, 5] = 4
    targets = assign(ids, table((3, 3), (4, 0)))
    assert targets.labels.tolist() == [0, 3]
    np.testing.assert_array_equal(targets.boxes[0], [2, 5, 2, 5])
    np.testing.assert_array_equal(targets.centers[0], [2, 5])


def test_ids_up_to_two_to_the_24_do_not_matter() -> None:
    ids, segments = squares()
    large = np.where(ids == 70000, 2**24 - 1, ids).astype(np.int32)
    rows = table((1, 0), (2**24 - 1, 2), (11, 3), (12, 4), (9, 1, True))
    one, other = assign(ids, segments), assign(large, rows)
    np.testing.assert_array_equal(one.regions, other.regions)
    np.testing.assert_array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize("stuff", ["islands", "global", "image"])
@pytest.mark.parametrize("center", ["box", "mask", "image"])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_targets_of_any_annotation_hold_together(center: str, stuff: str, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    ids = rng.integers(0, 7, (height, width)).astype(np.int32)
    rows = [(i, int(rng.integers(0, 5)), bool(rng.random() < 0.2)) for i in range(1, 9) if rng.random() < 0.8]
    island_mask = data.draw(st.sampled_from(["class", "island"]))
    cap = data.draw(st.integers(1, 10))
    segments = table(*rows)
    targets = assign(
        ids,
        segments,
        center=center,
        stuff=stuff,
        island_mask=island_mask,
        max_segments=cap,
        islands_dilation="none",
    )
    n = len(targets.labels)
    assert targets.keep.sum() == min(n, cap)
    assert [len(v) for v in (targets.region, targets.boxes, targets.centers)] == [n] * 3
    things = IS_THING[targets.labels]
    assert (np.diff(things.astype(int)) <= 0).all()  # things before stuff
    present = {(i, c) for i, c, crowd in rows if not crowd and (ids == i).any()}
    assert sorted(targets.labels[things]) == sorted(c for _, c in present if IS_THING[c])
    assert {c for _, c in present} == set(targets.labels.tolist())
    for row in range(n):
        mask = targets.regions == targets.region[row]
        assert mask.any() and (targets.valid | ~mask).all()
        ymin, xmin, ymax, xmax = targets.boxes[row]
        y, x = np.nonzero(mask)
        assert y.min() <= ymin <= ymax <= y.max() and x.min() <= xmin <= xmax <= x.max()
        assert (targets.centers[row] >= 0).all() and (targets.centers[row] <= [height - 1, width - 1]).all()
