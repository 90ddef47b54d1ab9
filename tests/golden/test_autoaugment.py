"""The AutoAugment operations and policy against the reference's."""

from __future__ import annotations

import re

import numpy as np
import pytest

from maskconver.training.augment.autoaugment import OPERATIONS, PANOPTIC, auto_augment, enhancement

from .reference import case

pytestmark = pytest.mark.golden

ARRAYS = case("augment/autoaugment_ops")
OPS = [k for k in ARRAYS if re.fullmatch(r"[A-Z]\w+_[\d.]+", k)]


def compare(made: np.ndarray, expected: np.ndarray) -> None:
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("name", OPS)
def test_operations(name: str) -> None:
    operation, level = name.rsplit("_", 1)
    operation = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).lower()
    made = OPERATIONS[operation](ARRAYS["image"], float(level))
    compare(made, ARRAYS[name])


@pytest.mark.parametrize("name", [k for k in OPS if k.startswith(("Sharp", "Bright", "Contrast", "Color"))])
def test_levels_map_to_factors(name: str) -> None:
    np.testing.assert_allclose(
        enhancement(float(name.rsplit("_", 1)[1])), ARRAYS[f"{name}_arg"][0], rtol=1e-6
    )


class Draws:
    """A generator that draws a given sub-policy and applies what it is told to."""

    def __init__(self, policy: int, apply: tuple[bool, bool]) -> None:
        self.policy, self.apply = policy, list(apply)

    def integers(self, high: int) -> int:
        return self.policy

    def random(self) -> float:
        return 0.0 if self.apply.pop(0) else 1.0


@pytest.mark.parametrize(("which", "apply"), [("both", (1, 1)), ("first", (1, 0)), ("second", (0, 1))])
@pytest.mark.parametrize("number", range(5))
def test_policy(number: int, which: str, apply: tuple[bool, bool]) -> None:
    made = auto_augment(ARRAYS["image"], PANOPTIC, Draws(number, apply))  # type: ignore[arg-type]
    compare(made, ARRAYS[f"policy{number}_{which}"])
