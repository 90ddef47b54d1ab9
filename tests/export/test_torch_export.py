"""`.pt2` files answer as the models they were made from, and loading one runs nothing but its graph."""

from __future__ import annotations

import copy
import json
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

import maskconver as mc
from maskconver.cli.main import main
from maskconver.data.synth.write import synthesize
from maskconver.errors import CheckpointError, ConfigError
from tests.fakes import CATEGORIES
from tests.networks import trained_looking


@pytest.fixture(scope="module")
def file(models, tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "mobile.pt2"
    return path, mc.export_model(models["mobile"], path)


def test_the_file_gives_the_models_answer(file, models):
    path, result = file
    assert (result.unpaired, result.differing) == (0, 0) and result.masks < 1e-5
    pixels = synthesize("scenes", (90, 160), 5).image
    ours, own = mc.Predictor(path)(pixels), mc.Predictor(models["mobile"])(pixels)
    np.testing.assert_array_equal(ours.ids, own.ids)
    with pytest.raises(ConfigError, match="gives 50 proposals, not 51"):
        mc.Predictor(path, proposals=51)


@pytest.mark.slow
def test_remax_gives_its_answer_too(tmp_path):
    model = trained_looking("remax_t", num_classes=None, categories=CATEGORIES, proposals=32)
    result = mc.export_model(model, tmp_path / "remax.pt2", size=(97, 129))
    assert result.unpaired == 0 and result.proposals == 2 * 32
    assert mc.Predictor(tmp_path / "remax.pt2")(np.zeros((90, 120, 3), np.uint8)).ids.shape == (90, 120)


def test_the_command_writes_one_and_predict_runs_it(tmp_path, models, monkeypatch, capsys):
    monkeypatch.setattr("maskconver.models.checkpoint.load", lambda _: copy.deepcopy(models["mobile"]))
    out = tmp_path / "model.pt2"
    args = ["export", "mobile", "--to", "torch-export", "--output", "panoptic", "--out", str(out)]
    assert main([*args, "--quantize", "fp16"]) == 2 and not out.exists()
    assert main([*args, "--json", "--hard-sigmoid"]) == 0
    assert mc.Predictor(out).postprocess.hard_sigmoid
    figures = json.loads(capsys.readouterr().out)
    assert figures["differing"] == 0 and figures["bytes"] == out.stat().st_size
    Image.fromarray(synthesize("scenes", (90, 160), 5).image).save(tmp_path / "image.png")
    assert main(["predict", str(out), str(tmp_path / "image.png"), "--out", str(tmp_path / "out")]) == 0
    assert "1 images" in capsys.readouterr().out


def test_files_that_are_not_ours_are_refused_in_one_line(file, tmp_path, capsys):
    path, _ = file
    (tmp_path / "text.pt2").write_text("no model")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "object.pt2", "w") as spoilt:
        for name in source.namelist():
            spoilt.writestr(name, source.read(name))
        spoilt.writestr("mobile/data/constants/custom_obj_0", pickle.dumps(print))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "silent.pt2", "w") as spoilt:
        for name in source.namelist():
            if not name.endswith("extra/maskconver"):
                spoilt.writestr(name, source.read(name))
    cases = {"text": "not a file of torch.export", "object": "pickled objects", "none": "no model file"}
    cases["silent"] = "not written by maskconver export"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "image.png")
    for name, why in cases.items():
        args = ["predict", str(tmp_path / f"{name}.pt2"), str(tmp_path / "image.png")]
        assert main([*args, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert why in said and said.count("\n") == 1
    with pytest.raises(ConfigError, match='device "mars" cannot be used'):
        mc.Predictor(path, device="mars")


def test_a_path_of_another_suffix_is_refused_before_any_work(models, tmp_path):
    with pytest.raises(ConfigError, match=r'does not end in "\.pt2"'):
        mc.export_model(models["mobile"], tmp_path / "model.onnx", "torch-export")
    with pytest.raises(CheckpointError, match="no model file"):
        mc.Predictor(tmp_path / "model.pt2")
