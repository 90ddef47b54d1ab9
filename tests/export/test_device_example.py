"""What the how-to for devices tells to do gives the package's answer."""

from __future__ import annotations

import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import maskconver as mc
from maskconver.data.synth.write import synthesize
from tests.export.conftest import SCRIPT

BLOCK = "import sys\nfor n in ('torch', 'maskconver', 'scipy'): sys.modules[n] = None\n"


@pytest.mark.parametrize("size", [(96, 128), (70, 300)], ids=["as the canvas", "wider"])
def test_the_script_gives_the_answer_of_predict(exported, size, tmp_path):
    path, _ = exported("mobile", output="panoptic", uint8=True)
    pixels = synthesize("scenes", size, 5).image
    own = mc.Predictor(path)(pixels)
    ids, rows = runpy.run_path(str(SCRIPT))["segment"](str(path), pixels)
    assert (ids == own.ids).mean() > 0.995  # bytes round differently
    listed = [(s.category, pytest.approx(s.score, abs=0.02)) for s in own]
    assert [(name, score) for _, name, score, area in rows if area] == listed


def test_the_script_runs_without_the_package(exported, tmp_path):
    path, _ = exported("mobile", output="panoptic", uint8=True)
    Image.fromarray(synthesize("scenes", (96, 128), 5).image).save(tmp_path / "image.png")
    code = f"{BLOCK}import runpy\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    args = [sys.executable, "-c", code, str(path), str(tmp_path / "image.png"), str(tmp_path / "ids.png")]
    done = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    ids = np.asarray(Image.open(tmp_path / "ids.png"))
    assert ids.shape == (96, 128) and f"{(ids == 1).sum()} px" in done.stdout
    other, _ = exported("mobile", size=(96, 128))
    done = subprocess.run([*args[:3], str(other), *args[4:]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "without --output panoptic" in done.stderr
