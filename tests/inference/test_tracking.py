"""Ids that stay from frame to frame, on generated moving scenes in which the truth is known."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest

from maskconver.core.categories import Categories
from maskconver.core.segmentation import Segmentation
from maskconver.errors import ConfigError
from maskconver.inference.tracking import Tracker

CATEGORIES = Categories.from_json(
    [
        {"id": i + 1, "name": name, "isthing": int(name in ("ball", "box"))}
        for i, name in enumerate(("ball", "box", "floor", "sky"))
    ]
)
Disc = tuple[str, float, float, float, int]  # name, x, y, radius, label


def frame(
    discs: Iterable[Disc], shuffle: int = 0, size: tuple[int, int] = (80, 120)
) -> tuple[Segmentation, dict[int, str]]:
    """The segmentation of discs on a floor below a sky, later ones in front; and the name of each id."""
    y, x = np.mgrid[: size[0], : size[1]]
    ids = np.where(y < size[0] // 2, 1, 2).astype(np.int32)
    rows = [(1, 3), (2, 2)]
    names = {1: "sky", 2: "floor"}
    for number, (name, cx, cy, radius, label) in enumerate(discs, 3):
        ids[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = number
        rows.append((number, label))
        names[number] = name
    rows = [row for row in rows if (ids == row[0]).any()]
    order = np.random.default_rng(shuffle).permutation(len(rows))  # scores change from frame to frame
    new = {rows[o][0]: i + 1 for i, o in enumerate(order)}
    renamed = np.zeros(max(new) + 1, np.int32)
    renamed[list(new)] = list(new.values())
    segmentation = Segmentation.from_ids(renamed[ids], CATEGORIES, labels=[rows[o][1] for o in order])
    return segmentation, {new[old]: names[old] for old in new}


def followed(scene: list[list[Disc]], tracker: Tracker | None = None) -> dict[str, list[int]]:
    """The ids that each thing and stuff of a scene gets, frame by frame."""
    tracker = tracker or Tracker()
    ids: dict[str, list[int]] = {}
    for number, discs in enumerate(scene):
        given, names = frame(discs, number)
        result = tracker.update(given)
        assert [s.category for s in result] == [s.category for s in given]
        for before, after in zip(given, result):
            np.testing.assert_array_equal(result.ids == after.id, given.ids == before.id)
            ids.setdefault(names[before.id], []).append(after.id)
    return ids


def switches(ids: dict[str, list[int]]) -> int:
    """How often something gets another id than in the frame before."""
    return sum(a != b for seen in ids.values() for a, b in pairwise(seen))


def test_things_and_stuff_keep_their_ids_while_they_move() -> None:
    scene = [
        [("a", 20 + 2 * t, 30, 8, 0), ("b", 90 - 2 * t, 60, 6, 0), ("c", 60, 20 + t, 7, 1)] for t in range(25)
    ]
    ids = followed(scene)
    assert switches(ids) == 0
    assert len({seen[0] for seen in ids.values()}) == 5


def test_two_touching_things_of_one_class_are_not_exchanged() -> None:
    scene = [[("a", 40 + t, 30, 8, 0), ("b", 55 + t, 30, 8, 0)] for t in range(30)]
    assert switches(followed(scene)) == 0


def test_things_of_one_class_that_pass_each_other_keep_their_ids() -> None:
    scene = [[("a", 15 + 3 * t, 30, 7, 0), ("b", 105 - 3 * t, 36, 7, 0)] for t in range(30)]
    assert switches(followed(scene)) == 0


def test_a_thing_behind_another_one_comes_back_with_its_id() -> None:
    scene = [[("a", 15 + 3 * t, 30, 6, 0), ("post", 60, 30, 12, 1)] for t in range(30)]
    ids = followed(scene)
    assert len(ids["a"]) < 30  # it was hidden
    assert switches(ids) == 0


def test_a_thing_that_stays_away_too_long_is_a_new_one() -> None:
    ball: list[Disc] = [("a", 30, 30, 8, 0)]
    for away, same in ((4, True), (5, False)):
        ids = followed([ball, *[[]] * away, ball], Tracker(memory=4))["a"]
        assert (ids[0] == ids[1]) == same


def test_an_id_is_never_given_to_another_thing() -> None:
    scene: list[list[Disc]] = [[(f"a{t}", 10 + 25 * (t % 4), 60, 6, 0)] for t in range(12)]
    ids = followed(scene, Tracker(memory=0))
    assert len({i for seen in ids.values() for i in seen}) == 12 + 2


def test_another_class_at_the_same_place_is_another_thing() -> None:
    ids = followed([[("a", 30, 30, 8, 0)], [("b", 30, 30, 8, 1)]])
    assert ids["a"] != ids["b"]


def test_things_at_the_border_and_frames_without_any_are_followed() -> None:
    scene = [[("a", -4 + 2 * t, 5, 8, 0)] for t in range(68)]  # in at the left, out at the right
    assert switches(followed(scene)) == 0
    empty = Segmentation(np.zeros((8, 8), np.int32), [], CATEGORIES)
    assert len(Tracker().update(empty)) == 0


def test_a_frame_of_another_size_begins_anew() -> None:
    tracker = Tracker()
    first = tracker.update(frame([("a", 30, 30, 8, 0)])[0])
    second = tracker.update(frame([("a", 30, 30, 8, 0)], size=(60, 90))[0])
    assert {s.id for s in first if s.is_thing}.isdisjoint(s.id for s in second if s.is_thing)
    assert {s.id for s in first if not s.is_thing} == {s.id for s in second if not s.is_thing}


@pytest.mark.parametrize("settings", [{"min_iou": 0.0}, {"min_iou": 1.5}, {"memory": -1}])
def test_values_that_mean_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Tracker(**settings)  # type: ignore[arg-type]
