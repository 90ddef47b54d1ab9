"""ONNX files answer as the models they were made from, or are not kept."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import maskconver as mc
from maskconver.cli.main import main
from maskconver.core.preprocess import normalize, prepare
from maskconver.core.segmentation import Segmentation
from maskconver.data.synth.write import synthesize
from maskconver.errors import CheckpointError, ConfigError, ExportError, MissingExtraError
from maskconver.export import driver
from maskconver.export.compare import Comparison, differing_pixels, require_equal
from maskconver.export.driver import ExportWarning
from maskconver.export.onnx import Onnx
from maskconver.inference.exported import KEY, Exported
from maskconver.inference.onnx import OnnxRuntime
from tests.fakes import CATEGORIES
from tests.networks import trained_looking

SIZES = {"nuclei": (128, 160), "mobile": (96, 128)}
BYTES = {"none": 4.2, "fp16": 2.2, "int8-weights": 1.4, "int8": 1.5}  # a weight, with the graph around it


@pytest.mark.parametrize("quantize", [*BYTES])
@pytest.mark.parametrize("name", ["nuclei", "mobile"])
def test_the_file_answers_as_the_model_in_every_precision(exported, models, name, quantize):
    path, result = exported(name, size=SIZES[name], quantize=quantize)
    weights = sum(p.numel() for p in models[name].parameters())
    assert path.stat().st_size < BYTES[quantize] * weights
    assert not list(path.parent.glob("*.data"))
    assert result.images == (8 if quantize == "int8" else 2)  # ranges are judged on more images
    assert result.proposals == result.images * models[name].config.proposals
    if quantize == "none":
        assert (result.unpaired, result.differing) == (0, 0)
        assert result.scores < 1e-5 and result.masks < 1e-4


@pytest.mark.parametrize("output", [pytest.param("proposals", marks=pytest.mark.slow), "panoptic"])
def test_the_file_of_a_model_with_a_semantic_head_answers_as_the_model(exported, output):
    _, result = exported("mobile semantic", output=output)
    assert result.images == 2 and result.differing <= result.pixels * 1e-4


def test_panoptic_maps_of_real_images_are_equal_but_for_a_rounded_edge(exported, models, shared):
    path, _ = exported("nuclei", size=SIZES["nuclei"])
    images = sorted((shared / "data").glob("dsb2018-nuclei/**/*.png"))[:8]
    model = models["nuclei"]
    own = mc.load("nuclei")
    own.config.input = replace(model.input, mode="fit", size=SIZES["nuclei"])
    # Both fused, as a model file is run. Rounding may move a pixel whose mask probability is the threshold,
    # so each pixel is that of ours at this threshold or at one a thousandth away.
    fused, given = own.optimized(), own.config.postprocess.mask_threshold
    near = [mc.Predictor(fused, mask_threshold=given + step)(images) for step in (0, -0.001, 0.001)]
    assert sum(len(ours) > 1 for ours in near[0]) >= 3  # the others show no nucleus at this size
    for ours, lower, higher, theirs in zip(*near, mc.Predictor(path)(images)):
        same = theirs.ids == ours.ids
        assert (same | (theirs.ids == lower.ids) | (theirs.ids == higher.ids)).all()
        assert np.count_nonzero(~same) <= 2
        assert [s.label for s in theirs] == [s.label for s in ours]


def test_bytes_go_in_where_the_file_normalises_itself(exported, models):
    path, result = exported("mobile", uint8=True)
    assert result.differing == 0
    runtime = OnnxRuntime(path)
    (given,) = runtime._session.get_inputs()
    assert (given.name, given.shape, given.type) == ("images", [1, 96, 128, 3], "tensor(uint8)")
    pixels = synthesize("scenes", (96, 128), 3).image[None]
    fed, _ = prepare(pixels[0], runtime.input, dtype=runtime.dtype)
    np.testing.assert_array_equal(fed, pixels[0])
    direct = runtime._session.run(["scores"], {"images": pixels})[0]
    np.testing.assert_array_equal(direct, runtime(fed[None]).scores)
    canvas = np.ascontiguousarray(normalize(pixels, runtime.input).transpose(0, 3, 1, 2))
    expected = models["mobile"].predict(torch.from_numpy(canvas)).scores.numpy()
    np.testing.assert_allclose(direct, expected, atol=1e-5)


def test_padding_of_a_file_that_takes_bytes_is_the_mean_colour(exported):
    runtime = OnnxRuntime(exported("mobile", uint8=True)[0])
    canvas, _ = prepare(np.zeros((60, 10, 3), np.uint8), runtime.input, dtype=runtime.dtype)
    assert canvas[95, 127].tolist() == [124, 116, 104]
    with pytest.raises(ConfigError, match="B×h×w×3 uint8, not 1×3×96×128 float32"):
        runtime(np.zeros((1, 3, 96, 128), np.float32))


@pytest.mark.parametrize("dynamic", [True, "batch,size"])
def test_a_dynamic_file_takes_any_size_also_where_there_are_fewer_cells_than_proposals(
    exported, models, dynamic
):
    path, result = exported("mobile", dynamic=dynamic, proposals=600)
    assert result.images == 3 and result.differing == 0
    runtime = OnnxRuntime(path)
    assert runtime.file.batch == (dynamic is not True)
    for size in ((32, 32), (64, 96)):
        canvas = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        expected = models["mobile"].predict(canvas, 600).numpy()
        answer = runtime(canvas.numpy())
        assert answer.mask_logits.shape == expected.mask_logits.shape
        np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-4)


def test_images_of_one_size_go_through_a_file_together_if_it_takes_a_batch(exported, tmp_path, monkeypatch):
    path, _ = exported("mobile", dynamic="batch,size", proposals=600)
    images = [np.random.default_rng(k).integers(0, 255, (60, 80, 3)).astype(np.uint8) for k in range(3)]
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    expected = [mc.Predictor(path)(image) for image in images]
    given = []
    answer = OnnxRuntime._answer
    monkeypatch.setattr(
        OnnxRuntime, "_answer", lambda self, canvas: given.append(len(canvas)) or answer(self, canvas)
    )
    together = mc.Predictor(path, batch_size=2)(images)
    assert given == [2, 1]
    assert [len(s) for s in together] == [len(s) for s in expected]
    assert sum(differing_pixels(a, b) for a, b in zip(together, expected)) < 10
    given.clear()
    out = ["--out", str(tmp_path / "out")]
    assert main(["predict", str(path), f"{tmp_path}/*.png", *out, "--batch-size", "3"]) == 0
    assert given == [3]


def test_what_a_file_leaves_open_is_named(models, tmp_path, capsys):
    for dynamic, message in (
        ("width", "there is size, batch and batch,size"),
        ("batch,width", "is not known"),
    ):
        with pytest.raises(ConfigError, match=message):
            mc.export_model(models["mobile"], tmp_path / "model.onnx", dynamic=dynamic)
    with pytest.raises(ConfigError, match="takes one image of one size: leave out `dynamic`"):
        mc.export_model(models["mobile"], tmp_path / "model.onnx", output="panoptic", dynamic="batch")
    words = [
        "export",
        "nuclei",
        "--dynamic",
        "batch",
        "--to",
        "litert",
        "--out",
        str(tmp_path / "model.tflite"),
    ]
    assert main(words) == 2
    assert "takes one image of one size; leave out --dynamic" in capsys.readouterr().err


@pytest.mark.slow
def test_kmax_files_take_a_batch_of_one_size(tmp_path):
    torch.manual_seed(0)
    model = mc.create_model("kmax_r50", categories=CATEGORIES, input={"size": (65, 97)}).eval()
    assert mc.export_model(model, tmp_path / "model.onnx", dynamic="batch").unpaired == 0


def test_equal_scores_come_in_the_models_order(models, tmp_path):
    """A class head without weights gives every cell and class the same score: everything is a tie."""
    model = mc.create_model(
        "maskconver_mobile_256", num_classes=2, categories=CATEGORIES, filters=16, low_level_filters=16,
        embedding_dim=16, input={"size": (64, 64)},
    ).eval()  # fmt: skip
    torch.nn.init.zeros_(model.class_head.out.weight)
    path = tmp_path / "ties.onnx"
    mc.export_model(model, path, proposals=30)
    canvas = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    answer, expected = OnnxRuntime(path)(canvas.numpy()), model.predict(canvas, 30)
    assert len(set(answer.scores.ravel().tolist())) == 1
    np.testing.assert_array_equal(answer.labels, expected.labels.numpy())
    np.testing.assert_allclose(answer.mask_logits, expected.mask_logits.numpy(), atol=1e-5)


def test_the_file_says_what_it_is(exported, models):
    path, _ = exported("nuclei", size=SIZES["nuclei"])
    proto = onnx.load(path)
    plain = {p.key: p.value for p in proto.metadata_props[1:]}
    assert plain == {
        "names": "{0: 'nucleus', 1: 'background'}",
        "task": "panoptic",
        "stride": str(models["nuclei"].input.multiple),
        "imgsz": str(list(SIZES["nuclei"])),
    }
    assert proto.metadata_props[0].key == KEY
    told = Exported.from_json(proto.metadata_props[0].value, path)
    assert told.version == mc.__version__ and told.name == models["nuclei"].name
    assert told.input == replace(models["nuclei"].input, mode="fit", size=SIZES["nuclei"])
    assert (told.postprocess, told.categories) == (models["nuclei"].postprocess, models["nuclei"].categories)
    assert str(Path(driver.__file__).parent).encode() not in path.read_bytes()


def test_predict_and_evaluate_take_the_file(exported, tmp_path, capsys):
    path, _ = exported("nuclei", size=SIZES["nuclei"])
    data = tmp_path / "data"
    assert main(["data", "synth", str(data), "--style", "cells", "--count", "2", "--size", "96", "120"]) == 0
    out = str(tmp_path / "out")
    assert main(["predict", str(path), str(data / "images"), "--out", out, "--proposals", "50"]) == 0
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]) == 2
    capsys.readouterr()
    assert main(["evaluate", str(path), "--data", str(data), "--split", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["headline"]["value"] > 0.2


def test_fewer_proposals_are_the_best_ones(exported):
    path, _ = exported("mobile", size=SIZES["mobile"])
    canvas = np.random.default_rng(0).normal(size=(1, 3, 96, 128)).astype(np.float32)
    few, all_of_them = OnnxRuntime(path, proposals=5)(canvas), OnnxRuntime(path)(canvas)
    np.testing.assert_array_equal(few.mask_logits, all_of_them.mask_logits[:, :5])
    with pytest.raises(ConfigError, match="gives 50 proposals, not 51"):
        OnnxRuntime(path, proposals=51)


# What must not pass


def test_a_file_that_differs_is_refused_with_the_figures_and_nothing_is_left(models, tmp_path, monkeypatch):
    def spoil(form, proto, description, path):
        (tensor, *_) = (t for t in proto.graph.initializer if t.name.endswith("mlp.fc2.weight"))
        values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        write(form, proto, description, path)

    write = Onnx.write
    monkeypatch.setattr(Onnx, "write", spoil)
    with pytest.raises(ExportError, match=r"gives other results than the model.*have no counterpart"):
        mc.export_model(models["mobile"], tmp_path / "spoilt.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["scores", "masks"])
def test_nan_is_a_difference(field, exported):
    file = OnnxRuntime(exported("mobile", size=SIZES["mobile"])[0]).file
    with pytest.raises(ExportError):
        require_equal(Comparison(**{field: float("nan")}), replace(file, quantize="int8-weights"))


def test_pixels_differ_by_segment_and_not_by_its_number():
    ids = np.array([[1, 1, 1, 2, 2], [0, 0, 3, 3, 3]], np.int32)

    def seg(ids, labels):
        return Segmentation.from_ids(ids, CATEGORIES, labels=np.array(labels), scores=np.ones(len(labels)))

    first = seg(ids, [0, 0, 1])
    assert differing_pixels(first, seg(np.array([0, 2, 1, 3], np.int32)[ids], [0, 0, 1])) == 0
    assert differing_pixels(first, seg(ids, [0, 1, 1])) == 2
    moved = ids.copy()
    moved[0, 2] = 2
    assert differing_pixels(first, seg(moved, [0, 0, 1])) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (64, 64), "dynamic": True}, "`size` fixes the input"),
        ({"size": (0, 64)}, "size 0×64 is not possible"),
        ({"proposals": 0}, "0 proposals are not possible"),
        ({"quantise": "fp16"}, "no export option quantise; there are size, dynamic"),
        ({"to": "coreml"}, 'no format "coreml"; there is onnx, litert, torch-export'),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_work(models, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        mc.export_model(models["nuclei"], tmp_path / "model.onnx", **options)


def test_models_that_cannot_be_exported_are_refused_before_any_work(tmp_path):
    small = {"filters": 16, "low_level_filters": 16, "embedding_dim": 16}
    for changes, message in [
        ({"num_classes": 2}, "no categories"),
        ({"categories": CATEGORIES, "input": {"mode": "native"}}, "give a `size`"),
    ]:
        model = mc.create_model("maskconver_mobile_256", **small, **changes)
        with pytest.raises(ConfigError, match=message):
            mc.export_model(model, tmp_path / "model.onnx", output="panoptic")
    for options, why in [
        ({}, r"must end in \.onnx or \.tflite"),
        ({"to": "onnx"}, r'does not end in "\.onnx"'),
    ]:
        with pytest.raises(ConfigError, match=why):
            mc.export_model(model, tmp_path / "model", **options)


def described(path: Path, text: str | None, out: Path) -> Path:
    """A copy of a file with another description."""
    proto = onnx.load(path)
    del proto.metadata_props[:]
    if text is not None:
        proto.metadata_props.add(key=KEY, value=text)
    out.write_bytes(proto.SerializeToString())
    return out


def test_files_that_are_not_ours_are_refused_in_one_line(exported, tmp_path, capsys):
    path, _ = exported("mobile", size=SIZES["mobile"])
    told = json.loads(onnx.load(path).metadata_props[0].value)
    cases = [
        (None, "not written by maskconver export"),
        (json.dumps(told | {"format": 9, "version": "7.0"}), "exported by maskconver 7.0 in another format"),
        (json.dumps(told | {"categories": []}), "damaged description"),
        (json.dumps(told | {"input": {"mode": "sideways"}}), "damaged description"),
        ("{", "damaged description"),
        (json.dumps(told | {"uint8": True}), "export the model again"),
    ]
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(image)
    files = [(described(path, text, tmp_path / f"{i}.onnx"), why) for i, (text, why) in enumerate(cases)]
    (tmp_path / "text.onnx").write_text("no model")
    files += [(tmp_path / "text.onnx", "not an ONNX file that can be run")]
    files += [(tmp_path / "none.onnx", "no model file")]
    for file, why in files:
        assert main(["predict", str(file), str(image), "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert why in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "canvas",
    [
        np.zeros((1, 3, 96, 128), np.uint8),
        np.zeros((1, 3, 96, 128)),
        np.zeros((1, 4, 96, 128), np.float32),
        np.zeros((1, 3, 96, 96), np.float32),
        np.zeros((3, 96, 128), np.float32),
    ],
    ids=lambda a: f"{a.dtype} {a.shape}",
)
def test_canvases_the_file_does_not_take_are_refused(exported, canvas):
    with pytest.raises(ConfigError, match="not "):
        OnnxRuntime(exported("mobile", size=SIZES["mobile"])[0])(canvas)


def test_a_device_that_is_not_there_is_refused(exported):
    with pytest.raises(ConfigError, match='device "mps" cannot run ONNX files here; there is cpu'):
        mc.Predictor(exported("mobile", size=SIZES["mobile"])[0], device="mps")


def test_missing_packages_name_the_extra(exported, models, tmp_path, monkeypatch):
    path, _ = exported("mobile", size=SIZES["mobile"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"maskconver\[onnx\]"):
        mc.Predictor(path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"maskconver\[export\]"):
        mc.export_model(models["mobile"], tmp_path / "model.onnx")


def test_evaluate_tunes_models_only(exported, tmp_path, capsys):
    path, _ = exported("mobile", size=SIZES["mobile"])
    assert main(["evaluate", str(path), "--data", str(tmp_path), "--tune", str(tmp_path / "t.onnx")]) == 2
    assert "tune the model it was exported from" in capsys.readouterr().err


@pytest.mark.slow
def test_multi_scale_models_are_exported(tmp_path):
    torch.manual_seed(0)
    model = mc.create_model("maskconver_r50_640", unet_depths=(1, 1, 1)).eval()
    assert mc.export_model(model, tmp_path / "model.onnx", size=(128, 160)).unpaired == 0
    with pytest.raises(CheckpointError, match="no model file"):
        OnnxRuntime(tmp_path / "other.onnx")


def test_what_kmax_models_are_not_exported_to_is_said_before_any_work(tmp_path):
    model = mc.create_model("kmax_r50", categories=CATEGORIES)
    for options, why in [
        ({"output": "panoptic"}, "cannot be exported with post-processing"),
        ({"dynamic": True}, "for one size"),
        ({"proposals": 10}, "leave out `proposals=10`"),
        ({"hard_sigmoid": True}, "has no hard sigmoid"),
    ]:
        with pytest.raises(ConfigError, match=why):
            mc.export_model(model, tmp_path / "model.onnx", **options)
    with pytest.raises(ConfigError, match="cannot be exported to litert; choose onnx or torch-export"):
        mc.export_model(model, tmp_path / "model.tflite")


def test_an_export_that_will_take_minutes_says_so_first(models, tmp_path, monkeypatch):
    def begun(*_):
        raise ExportError("has begun")

    monkeypatch.setattr(driver, "traced", begun)
    for options in ({"proposals": 400, "output": "panoptic"}, {"proposals": 2000}):
        with pytest.warns(ExportWarning, match="take minutes.*set `proposals`"), pytest.raises(ExportError):
            mc.export_model(models["mobile"], tmp_path / "model.onnx", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["remax_t", "remax_s"])
def test_remax_is_exported(tmp_path, name):
    model = trained_looking(name, num_classes=None, categories=CATEGORIES, proposals=32)
    path = tmp_path / "model.onnx"
    result = mc.export_model(model, path, size=(129, 161))
    assert result.unpaired == 0 and result.proposals == 2 * model.config.proposals
    assert mc.Predictor(path)(np.zeros((90, 120, 3), np.uint8)).ids.shape == (90, 120)
    if name == "remax_t":
        size = path.stat().st_size
        mc.export_model(model, path, size=(129, 161), quantize="fp16")
        assert path.stat().st_size < 0.6 * size
