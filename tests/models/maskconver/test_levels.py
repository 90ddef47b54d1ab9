"""Which level answers for which segment."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from maskconver.models import list_models, model_config
from maskconver.models.maskconver import MultiScaleConfig
from maskconver.models.maskconver.targets import assign_levels

RANGES = ((0.0, 10.0), (10.0, 20.0), (15.0, 1e7))


def boxes(*sides: tuple[float, float]) -> torch.Tensor:
    return torch.tensor([[3.0, 5.0, 3 + h, 5 + w] for h, w in sides])


def assigned(sides: list[tuple[float, float]], images: list[int] | None = None) -> list[tuple[int, int]]:
    batch = torch.tensor(images or [0] * len(sides))
    rows, levels = assign_levels(boxes(*sides), batch, RANGES)
    return list(zip(rows.tolist(), levels.tolist()))


def test_half_the_diagonal_decides() -> None:
    assert assigned([(6, 8), (0, 26), (60, 80)]) == [(0, 0), (1, 1), (2, 2)]


def test_both_ends_of_a_range_are_inside() -> None:
    assert assigned([(12, 16)]) == [(0, 0), (0, 1)]  # half the diagonal is 10


def test_overlapping_ranges_give_a_segment_to_both_levels() -> None:
    assert assigned([(0, 34)]) == [(0, 1), (0, 2)]


def test_entries_come_by_image_then_level_then_row() -> None:
    sides = [(0, 34), (2, 2), (0, 34), (2, 2)]
    assert assigned(sides, [0, 0, 1, 1]) == [(1, 0), (0, 1), (0, 2), (3, 0), (2, 1), (2, 2)]


def test_a_single_level_takes_everything_in_order() -> None:
    rows, levels = assign_levels(boxes((1, 1), (500, 500)), torch.zeros(2, dtype=torch.long), None)
    assert rows.tolist() == [0, 1] and levels.tolist() == [0, 0]


def test_nothing_to_assign() -> None:
    rows, levels = assign_levels(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), RANGES)
    assert rows.shape == levels.shape == (0,)


@given(h=st.floats(0, 4000), w=st.floats(0, 4000))
def test_the_registered_models_leave_no_segment_out(h: float, w: float) -> None:
    for name in list_models():
        config = model_config(name)
        if isinstance(config, MultiScaleConfig):
            rows, _ = assign_levels(boxes((h, w)), torch.zeros(1, dtype=torch.long), config.level_ranges)
            assert len(rows) >= 1
