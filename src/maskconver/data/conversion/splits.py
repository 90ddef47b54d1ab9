"""Which split an image goes to: names made alike, shares dealt out by chance, groups kept together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import ConfigError

_SAME = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}


def split_name(text: str) -> str:
    """The name that a split has here: `val` for `valid`, `Validation` or `val2017`."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    plain = re.sub(r"(?<=[a-z])-?(19|20)\d\d$", "", plain)
    return _SAME.get(plain, plain)


def folder_split(name: str) -> str:
    """`train`, `val` or `test` where a folder of a path is called so in one of the usual ways, else ""."""
    return next((s for p in name.split("/")[:-1] if (s := split_name(p)) in ("train", "val", "test")), "")


def split_shares(text: str | Mapping[str, float]) -> dict[str, float]:
    """Shares by split from `train=0.8,val=0.2`; one bare name takes all.

    Raises:
        ConfigError: not of that form, a share that is not above 0, or the sum is not 1.
    """
    if isinstance(text, str):
        pairs = [part.partition("=") for part in text.split(",")]
        if len(pairs) == 1 and not pairs[0][1]:
            pairs = [(text, "=", "1")]
        try:
            rows = [(name.strip(), float(share)) for name, _, share in pairs]
        except ValueError:
            fix = "write shares as `split=train=0.8,val=0.2`"
            raise ConfigError(f'"{text}" does not say how to split', fix=fix) from None
    else:
        rows = [(name, float(share)) for name, share in text.items()]
    for name, share in rows:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ConfigError(f'"{name}" cannot be the name of a split; use letters and digits')
        if not share > 0 or not math.isfinite(share):
            raise ConfigError(f'the share of split "{name}" must be above 0')
    shares = dict(rows)
    if len(shares) < len(rows):
        raise ConfigError("a split is named twice")
    if abs(sum(shares.values()) - 1) > 1e-3:
        raise ConfigError(f"the shares of the splits add up to {sum(shares.values()):g}, not to 1")
    return shares


def group_pattern(text: str | None) -> re.Pattern[str] | None:
    """The compiled expression that finds the group in an image's name.

    Raises:
        ConfigError: it is not a regular expression.
    """
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise ConfigError(f"`group` is not a regular expression: {error}") from None


def group_of(name: str, pattern: re.Pattern[str]) -> str | None:
    """The first group of the match, or the match; None where the name has none."""
    found = pattern.search(name)
    return None if found is None else (found[1] if pattern.groups and found[1] is not None else found[0])


def deal(groups: list[Any], shares: dict[str, float], seed: int) -> list[str]:
    """A split for each image, so that images of one group share it and each split has its share of images.

    Groups are dealt out in an order of chance, large ones first, each to the split that lacks most. Every
    split gets one as long as there are enough.

    Args:
        groups: the group of each image, anything hashable.
        shares: by split; they add up to 1.
        seed: of the order.
    """
    members: dict[Any, int] = {}
    for group in groups:
        members[group] = members.get(group, 0) + 1
    names = list(members)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=lambda group: -members[group])
    lack = {name: share * len(groups) for name, share in shares.items()}
    empty, where = set(shares), {}
    for left, group in zip(range(len(order), 0, -1), order):
        among = sorted(empty, key=list(shares).index) if left <= len(empty) else shares
        chosen = max(among, key=lambda name: lack[name])
        lack[chosen] -= members[group]
        empty.discard(chosen)
        where[group] = chosen
    return [where[group] for group in groups]
