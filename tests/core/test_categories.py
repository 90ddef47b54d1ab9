"""Label sets: order, ids, and colours for categories that come without one."""

import numpy as np
import pytest

from maskconver.core.categories import Categories
from maskconver.errors import DataError


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": 3 * i, "name": f"c{i}", "isthing": i % 2} for i in range(count)]


def test_categories_without_a_colour_can_be_told_apart() -> None:
    colors = np.array([c.color for c in Categories.from_json(rows(40))])
    assert len(np.unique(colors, axis=0)) == 40
    assert (np.abs(np.diff(colors, axis=0)).sum(1) > 60).all()  # neighbours in the list above all


def test_labels_follow_the_order_and_ids_may_have_gaps() -> None:
    categories = Categories.from_json(rows(5))
    assert [categories.label(c.id) for c in categories] == list(range(5))
    assert Categories.from_json(categories.to_json()) == categories


def test_an_id_that_occurs_twice_is_refused() -> None:
    with pytest.raises(DataError, match="id 3 occurs twice"):
        Categories.from_json([*rows(2), rows(2)[1]])


@pytest.mark.parametrize(("flag", "expected"), [("0", False), ("1", True), (False, False), (1.0, True)])
def test_flags_of_things_may_be_text_and_anything_else_is_refused(flag: object, expected: bool) -> None:
    assert Categories.from_json([{"id": 1, "isthing": flag}])[0].is_thing is expected
    with pytest.raises(DataError, match="isthing is 'no', not 0 or 1"):
        Categories.from_json([{"id": 1, "isthing": "no"}])
