"""The label set of a data set or model: labels 0…C-1 and the ids, names and colours behind them."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, one_line

VOID_LABEL = -1


@dataclass(frozen=True, slots=True)
class Category:
    """One class: its id in the data set (any integer ≥ 0), name, kind and RGB colour (0…255)."""

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]


def made_up_color(index: int) -> tuple[int, int, int]:
    """A colour for the class at position `index`, always the same, spread in hue (golden-ratio steps)."""
    hue = (0.11 + index * 0.618033988749895) % 1.0
    r, g, b = colorsys.hsv_to_rgb(hue, (0.9, 0.6, 0.75)[index % 3], (0.95, 0.8)[index % 2])
    return round(r * 255), round(g * 255), round(b * 255)


class Categories(Sequence[Category]):
    """An ordered, immutable set of categories; the position of a category is its label.

    Example:
        >>> import maskconver as mc
        >>> pets = mc.Categories.from_json([{"id": 7, "name": "cat", "isthing": 1}])
        >>> pets[0].name, pets.label(7)
        ('cat', 0)

    Args:
        categories: the categories in label order; ids must be unique and ≥ 0.

    Raises:
        DataError: no category at all, an id twice or negative.
    """

    def __init__(self, categories: Iterable[Category]) -> None:
        self._categories = tuple(categories)
        if not self._categories:
            raise DataError("no categories: a data set needs at least one")
        self._label_of = {c.id: label for label, c in enumerate(self._categories)}
        if len(self._label_of) != len(self._categories):
            ids = [c.id for c in self._categories]
            twice = next(i for i in ids if ids.count(i) > 1)
            raise DataError(f"category id {twice} occurs twice in the categories; ids must be unique")
        if min(self._label_of) < 0:
            raise DataError(f"category id {min(self._label_of)} is negative; ids must be 0 or more")

    @overload
    def __getitem__(self, label: int) -> Category: ...
    @overload
    def __getitem__(self, label: slice) -> Sequence[Category]: ...
    def __getitem__(self, label: int | slice) -> Category | Sequence[Category]:
        return self._categories[label]

    def __len__(self) -> int:
        return len(self._categories)

    def __iter__(self) -> Iterator[Category]:
        return iter(self._categories)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Categories) and self._categories == other._categories

    def __hash__(self) -> int:
        return hash(self._categories)

    def __repr__(self) -> str:
        names = ", ".join(c.name for c in self._categories[:4]) + (", …" if len(self) > 4 else "")
        things = int(self.is_thing.sum())
        return f"Categories({len(self)}: {things} things, {len(self) - things} stuff; {names})"

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Category ids in label order, (C,) int64."""
        return np.array([c.id for c in self._categories], np.int64)

    @cached_property
    def is_thing(self) -> NDArray[np.bool_]:
        """True where a label is a thing, (C,) bool."""
        return np.array([c.is_thing for c in self._categories], bool)

    @cached_property
    def colors(self) -> NDArray[np.uint8]:
        """RGB in label order, (C, 3) uint8."""
        return np.array([c.color for c in self._categories], np.uint8)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in label order."""
        return tuple(c.name for c in self._categories)

    def as_stuff(self) -> Categories:
        """The same categories without things, as semantic segmentation has them."""
        return Categories(replace(c, is_thing=False) for c in self)

    def label(self, category_id: int) -> int:
        """The label of a category id.

        Raises:
            DataError: the id is not one of these categories.
        """
        try:
            return self._label_of[category_id]
        except KeyError:
            raise DataError(
                f"category {category_id} is not one of the {len(self)} categories (ids {_short(self.ids)})"
            ) from None

    def labels_of(self, other: Categories) -> NDArray[np.int64]:
        """(C,) int64: the label here of each label of another set with the same ids."""
        return np.array([self.label(c.id) for c in other], np.int64)

    def __contains__(self, category_id: object) -> bool:
        """Whether a category *id* (or a `Category`) belongs to the set."""
        return category_id in self._label_of or category_id in self._categories

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> Categories:
        """From the `categories` list of a COCO panoptic file; colours are made up where there are none.

        Raises:
            DataError: a row that is no category.
        """
        try:
            return cls(_category(i, row) for i, row in enumerate(rows))
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"not a list of categories ({one_line(error)})") from None

    def to_json(self) -> list[dict[str, Any]]:
        """The `categories` list of a COCO panoptic file."""
        return [
            {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)} for c in self
        ]

    @classmethod
    def coco(cls) -> Categories:
        """The 133 categories of COCO panoptic (80 things, 53 stuff; ids 1…200 with gaps)."""
        import json
        from importlib.resources import files

        text = files("maskconver.core").joinpath("coco_categories.json").read_text(encoding="utf-8")
        return cls.from_json(json.loads(text))


def _category(position: int, row: Mapping[str, Any]) -> Category:
    color = tuple(int(v) for v in row["color"]) if row.get("color") else made_up_color(position)
    if len(color) != 3 or not all(0 <= v <= 255 for v in color):
        raise ValueError(f"the colour {color} is not three numbers from 0 to 255")
    flag: Any = {"0": 0, "1": 1}.get(row["isthing"]) if isinstance(row["isthing"], str) else row["isthing"]
    if flag not in (0, 1):
        raise ValueError(f"isthing is {row['isthing']!r}, not 0 or 1")
    return Category(int(row["id"]), str(row.get("name", row["id"])), bool(flag), color)


def differences(
    first: Categories, second: Categories, first_name: str, second_name: str
) -> list[tuple[str, str]]:
    """Where two label sets mean something else: by id, name and kind; neither order nor colours matter.

    Args:
        first, second: the label sets.
        first_name, second_name: what the texts call them.

    Returns:
        (kind, one line) of each difference, by category id; `categories-differ` or `isthing-disagrees`.
    """
    found = []
    for number in sorted({*first.ids.tolist(), *second.ids.tolist()}):
        one = first[first.label(number)] if number in first else None
        two = second[second.label(number)] if number in second else None
        if one is None or two is None:
            only, name = (one, first_name) if two is None else (two, second_name)
            assert only is not None
            found.append(("categories-differ", f'category {number} "{only.name}" is only in {name}'))
        elif one.is_thing != two.is_thing:
            kinds = ["a thing" if c.is_thing else "stuff" for c in (one, two)]
            text = f"category {number} is {kinds[0]} in {first_name} and {kinds[1]} in {second_name}"
            found.append(("isthing-disagrees", text))
        elif one.name != two.name:
            text = f'category {number} is "{one.name}" in {first_name} and "{two.name}" in {second_name}'
            found.append(("categories-differ", text))
    return found


def _short(ids: NDArray[np.int64]) -> str:
    shown = ", ".join(str(i) for i in ids[:6])
    return shown + (f", … {ids[-1]}" if len(ids) > 6 else "")
