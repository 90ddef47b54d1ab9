"""Any JSON in the place of a description, and any value of an option: an answer, or an error of ours."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskconver.cli.main import main
from maskconver.core import rle
from maskconver.core.categories import Categories
from maskconver.errors import MaskconverError
from maskconver.inference.exported import Exported
from maskconver.io.panoptic_json import read_panoptic_json

numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([2**31, 2**63, 2**64, -1, 0, 1, 10**30]))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8))
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
quick = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize="MASKCONVER_FUZZ_CASES" not in os.environ,  # `make fuzz` tries others each time
)


def row(**fields: Any) -> Any:
    """A mapping whose fields are what they should be, anything, or missing."""
    return st.fixed_dictionaries({}, optional={k: st.one_of(v, anything) for k, v in fields.items()})


ids, name = st.integers(0, 300), st.text(max_size=3)
flag = st.integers(0, 1)
categories = st.lists(row(id=ids, name=name, isthing=flag, color=anything), max_size=3)
segments = st.lists(row(id=ids, category_id=ids, area=ids, bbox=anything, iscrowd=flag), max_size=3)
panoptic = row(
    images=st.lists(row(id=ids, file_name=name, width=ids, height=ids), max_size=3),
    annotations=st.lists(row(image_id=ids, file_name=name, segments_info=segments), max_size=3),
    categories=categories,
)


@quick
@given(panoptic)
def test_a_panoptic_file_is_read_or_refused_and_its_defects_are_those_of_reading(content: Any) -> None:
    data = json.dumps(content).encode()
    found: list[Any] = []
    listed = refused = None
    with contextlib.suppress(MaskconverError):
        listed = read_panoptic_json(data, defects=found)
    try:
        read_panoptic_json(data)
    except MaskconverError as error:
        refused = error
        assert "\n" not in str(error)
    wrong = listed is None or any(d.severity == "error" for d in found)
    assert wrong == (refused is not None), (found, refused)


@quick
@given(st.one_of(categories, anything))
def test_categories_are_read_or_refused(rows: Any) -> None:
    with contextlib.suppress(MaskconverError):
        assert len(Categories.from_json(rows)) == len(rows)


@quick
@given(st.one_of(anything, row(format=st.just(1), size=anything, input=anything, categories=categories)))
def test_the_description_of_an_exported_file_is_read_or_refused(content: Any) -> None:
    with contextlib.suppress(MaskconverError):
        Exported.from_json(json.dumps(content), "a.onnx")


@quick
@given(
    row(size=st.lists(st.integers(-2, 20), max_size=3), counts=st.one_of(st.lists(ids), st.text(max_size=9)))
)
def test_run_lengths_are_decoded_or_refused(content: Any) -> None:
    with contextlib.suppress(MaskconverError):
        mask = rle.decode(content)
        assert mask.dtype == bool and list(mask.shape) == content["size"]


OPTIONS = [
    *("--score-threshold", "--overlap-threshold", "--min-area", "--output-side", "--tile", "--overlap"),
    *("--scale", "--max-pixels", "--white-level", "--threads", "--pixel-size", "--proposals", "--shard"),
]


@settings(quick, max_examples=60)
@given(
    given_options=st.lists(
        st.tuples(st.sampled_from(OPTIONS), st.one_of(numbers, st.text(max_size=4))), max_size=3
    )
)
def test_any_value_of_an_option_ends_in_order(
    given_options: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskconver.inference import predictor
    from tests.fakes import FakeRuntime

    monkeypatch.setattr(predictor, "open_runtime", lambda *args, **options: FakeRuntime())
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    argv = ["predict", "fake", str(path), f"--out={tmp_path / 'out'}", f"--table={tmp_path / 't.csv'}"]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main([*argv, *(f"{name}={value}" for name, value in given_options)])
    assert code in (0, 1, 2)
    assert code != 2 or said.getvalue().count("maskconver: error") == 1
