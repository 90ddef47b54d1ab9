"""The merge inside a file gives the plain merge's map, and the file is used like any other."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from PIL import Image

import maskconver as mc
from maskconver.cli.main import main
from maskconver.core.categories import Categories, Category
from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.preprocess import prepare
from maskconver.core.proposals import Geometry, Proposals
from maskconver.data.synth.write import synthesize
from maskconver.errors import ConfigError, ExportError, MaskconverError
from maskconver.export.onnx import Onnx
from maskconver.export.onnx_quantize import FLOAT_LAYER
from maskconver.export.panoptic import PanopticMerge, SemanticNetwork
from maskconver.inference.exported import CanvasMap, ClassScores
from maskconver.inference.onnx import OnnxRuntime
from maskconver.merge import postprocess
from maskconver.merge.semantic import semantic_maps, semantic_scores
from tests.fakes import CATEGORIES

FIVE = Categories([Category(i + 1, str(i), i % 2 == 0, (i, 0, 0)) for i in range(5)])


@pytest.mark.parametrize("seed", range(30))
def test_the_merge_of_tensors_is_the_plain_merge(seed):
    """Things and stuff, ties, duplicates, empty answers, every option of the rule."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    n, h, w = (int(v) for v in random.integers(1, (40, 20, 20)))
    size = int(h * random.integers(1, 9)), int(w * random.integers(1, 9))
    masks = torch.randn(1, n, 4, 4, generator=generator) * float(random.choice([1, 5, 30]))
    masks = F.interpolate(masks, size=(h, w), mode="bilinear")
    if seed % 2:
        masks[0, 1::2] = masks[0, : n - 1 : 2][: n // 2] + 0.1  # pairs of duplicates
    scores = torch.from_numpy(np.sort(random.random((1, n), np.float32))[:, ::-1].copy())
    if seed % 5 == 0:
        scores = (4 * scores).round() / 4
    labels = torch.from_numpy(random.integers(0, 5, (1, n)))
    config = PostprocessConfig(
        score_threshold=float(random.choice([0, 0.01, 0.5, 1])),
        overlap_threshold=float(random.choice([0, 0.3, 0.7])),
        min_area=float(random.choice([0, 0.01, 0.1])),
        mask_threshold=float(random.choice([0, 0.5])),
        nms_iou=float(random.choice([1, 0.5])),
        reassign=bool(random.integers(2)),
        hard_sigmoid=bool(random.integers(2)),
        maskness=float(random.choice([0, 1, 2])),
        class_exponent=[1.0, 0.0, 1.0, 2.0][seed % 4],
        fill_label=[None, 1, 3][seed % 3],
        fill_only=seed % 3 > 0 and seed % 4 == 0,
    )
    expected = postprocess(
        Proposals(scores, labels, masks), config, FIVE, output_size=size, algorithm="reference"
    )[0]
    ids, segments, of_segments = PanopticMerge(config, FIVE, (h, w), size)(scores, labels, masks)
    np.testing.assert_array_equal(ids[0], expected.ids)
    n += config.fill_label is not None
    rows = [(s.id, s.label, s.area) for s in expected] + [(0, -1, 0)] * (n - len(expected))
    assert [tuple(row) for row in segments[0].tolist()] == rows
    assert of_segments[0].tolist() == pytest.approx([s.score for s in expected] + [0] * (n - len(expected)))
    assert (ids.dtype, segments.dtype) == (torch.int32, torch.int32)


def test_masks_that_are_all_but_impossible_still_compete_in_onnx_runtime(tmp_path):
    """Its own sigmoid is one number below -18: every such pixel would go to the best score."""
    scores, labels = torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[0, 2, 4]])
    masks = torch.tensor([-40.0, -30.0, -20.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4).contiguous()
    masks[0, :2, :, :2], masks[0, 2, 0, 3] = torch.tensor([30.0, -5.0])[:, None, None], 3.0
    config = PostprocessConfig(min_area=0.0, overlap_threshold=0.3)
    given = Proposals(scores, labels, masks)
    (expected,) = postprocess(given, config, FIVE, output_size=(16, 16), algorithm="reference")
    module, path = PanopticMerge(config, FIVE, (4, 4), (16, 16)).eval(), tmp_path / "merge.onnx"
    names = ["scores", "labels", "mask_logits"]
    torch.onnx.export(
        module, (scores, labels, masks), path, dynamo=True, verbose=False, opset_version=18, input_names=names
    )
    session = onnxruntime.InferenceSession(path)
    fed = {name: value.numpy() for name, value in zip(names, (scores, labels, masks))}
    np.testing.assert_array_equal(session.run(None, fed)[0][0], expected.ids)
    assert len(expected) > 1


@pytest.mark.parametrize("quantize", ["none", "fp16"])
def test_the_file_gives_the_maps_of_the_model_pixel_by_pixel(exported, quantize):
    path, result = exported("mobile", output="panoptic", quantize=quantize)
    assert (result.images, result.pixels) == (2, 2 * 96 * 128)
    assert quantize != "none" or (result.differing == 0 and result.scores < 1e-5)
    assert "pixels of the panoptic maps differ" in str(result)
    runtime = OnnxRuntime(path)
    canvas, _ = prepare(synthesize("scenes", (96, 128), 5).image, runtime.input)
    (found,) = runtime(canvas[None])
    assert found.ids.shape == (96, 128) and found.ids.any()
    assert (found.segments.shape, found.scores.shape) == ((50, 3), (50,))


def test_predict_takes_the_file_and_gives_answers_of_the_images_size(exported, models, tmp_path, capsys):
    path, _ = exported("mobile", output="panoptic")
    pixels = synthesize("scenes", (144, 192), 5).image
    Image.fromarray(pixels).save(tmp_path / "image.png")
    seg = mc.Predictor(path)(tmp_path / "image.png")
    own = mc.Predictor(models["mobile"])(pixels)
    assert seg.ids.shape == own.ids.shape == (144, 192) and seg.image is not None
    # The image fits the canvas without padding, so the two differ only along edges.
    assert [s.label for s in seg] == [s.label for s in own]
    assert (seg.ids == own.ids).mean() > 0.97
    out = tmp_path / "out"
    assert main(["predict", str(path), str(tmp_path / "image.png"), "--out", str(out), "--overlay"]) == 0
    (row,) = json.loads((out / "panoptic.json").read_text())["annotations"]
    assert len(row["segments_info"]) == len(seg)
    capsys.readouterr()


def test_openvino_gives_the_same_map(exported):
    openvino = pytest.importorskip("openvino", reason='needs openvino, of the extra "dev"')
    path, _ = exported("mobile", output="panoptic")
    runtime = OnnxRuntime(path)
    canvas, _ = prepare(synthesize("scenes", (96, 128), 5).image, runtime.input)
    (expected,) = runtime(canvas[None])
    found = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(canvas[None])
    assert expected.ids.any() and (found["ids"][0] != expected.ids).mean() < 1e-4
    np.testing.assert_array_equal(found["segments"][0][:, :2], expected.segments[:, :2])


def test_what_lies_in_the_padding_is_no_segment():
    ids = np.zeros((64, 64), np.int32)
    ids[:30, :20], ids[:30, 20:], ids[40:] = 3, 1, 2
    table = np.array([[1, 0, 1320], [2, 1, 1536], [3, 0, 600], [0, -1, 0]], np.int32)
    found = CanvasMap(ids, table, np.float32([0.9, 0.8, 0.7, 0]))
    config = InputConfig(size=(64, 64))
    seg = found.segmentation(Geometry((60, 120), (64, 64), (32 / 60, 64 / 120)), config, CATEGORIES)
    assert seg.ids.shape == (60, 120)
    assert [(s.id, s.label, round(s.score, 3)) for s in seg] == [(1, 0, 0.9), (2, 0, 0.7)]
    assert [seg.ids[0, 119], seg.ids[0, 0], seg.ids[59, 0]] == [1, 2, 0]
    at = Geometry((60, 120), (64, 64), (32 / 60, 64 / 120))
    assert found.segmentation(at, config, CATEGORIES, side=30).ids.shape == (15, 30)
    with pytest.raises(MaskconverError, match="do not agree"):
        CanvasMap(ids, table[:2], found.scores[:2]).segmentation(
            Geometry((64, 64), (64, 64)), config, CATEGORIES
        )


def test_settings_that_are_inside_the_file_cannot_be_changed(exported, tmp_path, capsys):
    path, _ = exported("mobile", output="panoptic")
    with pytest.raises(ConfigError, match="score_threshold cannot be changed"):
        mc.Predictor(path, score_threshold=0.5)
    with pytest.raises(ConfigError, match="post-processing for a fixed number of proposals"):
        mc.Predictor(path, proposals=5)
    with pytest.raises(ConfigError, match="gives no proposals"):
        mc.Predictor(path).proposals(np.zeros((96, 128, 3), np.uint8))
    with pytest.raises(ConfigError, match="algorithm cannot be changed"):
        mc.Predictor(path, algorithm="reference")
    args = ["predict", str(path), str(tmp_path), "--score-threshold", "0.5"]
    assert main(args) == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_map_of_any_size_is_refused_before_any_work(models, tmp_path):
    with pytest.raises(ConfigError, match="one size"):
        mc.export_model(models["nuclei"], tmp_path / "model.onnx", output="panoptic", dynamic=True)


def test_a_map_that_differs_is_refused(models, tmp_path, monkeypatch):
    def other(answer: CanvasMap, *rest, **options):
        spoilt = np.where(answer.ids > 0, 0, answer.segments[0, 0])
        return whole(CanvasMap(spoilt, answer.segments, answer.scores), *rest, **options)

    whole = CanvasMap.segmentation
    monkeypatch.setattr(CanvasMap, "segmentation", other)
    with pytest.raises(ExportError, match="gives other results than the model"):
        mc.export_model(models["mobile"], tmp_path / "model.onnx", output="panoptic")
    assert list(tmp_path.iterdir()) == []


def test_quantised_maps_that_have_little_to_do_with_the_model_are_refused(models, tmp_path, monkeypatch):
    def spoilt(form, proto, *_):
        for tensor in proto.graph.initializer:
            if FLOAT_LAYER.search(tensor.name):
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
        return proto

    monkeypatch.setattr(Onnx, "quantize", spoilt)
    with pytest.raises(ExportError, match="the quantised file gives other results"):
        mc.export_model(
            models["mobile"],
            tmp_path / "model.onnx",
            output="panoptic",
            quantize="fp16",
            images=[synthesize(style, (96, 128), i).image for i, style in enumerate(("scenes", "cells"))],
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_shipped_model_with_its_own_merge_in_the_file(models, tmp_path, shared):
    """Suppressed duplicates, a pixel threshold and reassigned pixels, on real images."""
    folder = shared / "data" / "dsb2018-nuclei"
    images = [np.array(Image.open(p).convert("RGB")) for p in sorted(folder.glob("**/*.png"))[:3]]
    result = mc.export_model(
        models["nuclei"],
        tmp_path / "n.onnx",
        output="panoptic",
        size=(128, 160),
        proposals=100,
        images=images,
    )
    assert result.images == 3 and result.differing == 0


@pytest.mark.parametrize("exponent", [1.0, 0.0])
def test_scores_of_classes_are_those_of_the_masks(exponent):
    generator = torch.Generator().manual_seed(0)
    masks, labels = torch.randn(2, 7, 6, 8, generator=generator), torch.arange(14).view(2, 7) % 4
    scores = torch.rand(2, 7, generator=generator)
    network = SemanticNetwork(lambda images: (scores, labels, masks), len(FIVE), exponent)
    (found,) = network(masks)
    config = PostprocessConfig(class_exponent=exponent)
    wanted = semantic_scores(Proposals(scores, labels, masks), config, len(FIVE))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("side", [None, 20])
def test_each_class_of_a_semantic_file_is_one_segment(side):
    scores = np.full((3, 4, 4), 0.1, np.float32)
    scores[0, :, 2:], scores[2, :, :2] = 0.9, 0.6
    own = InputConfig(size=(16, 16))
    geometry = prepare(np.zeros((20, 40, 3), np.uint8), own)[1]  # the lower half of the input is padding
    answer = ClassScores(scores).segmentation(geometry, own, FIVE.as_stuff(), side=side)
    assert answer.ids.shape == ((20, 40) if side is None else (10, 20))
    assert [(s.label, s.is_thing) for s in answer] == [(0, False), (2, False)]
    assert (answer.ids[:, 0] == 2).all() and (answer.ids[:, -1] == 1).all()
    assert answer.segments[0].score == pytest.approx(0.9, abs=0.1)


def test_a_semantic_file_is_used_like_any_other(models, exported, tmp_path):
    path, comparison = exported("mobile", output="semantic")
    assert comparison.scores < 1e-4 and not comparison.differing and "classes" in str(comparison)
    image = synthesize("scenes", (96, 128), 5).image
    found = mc.Predictor(path)(image)
    labels = np.array([-1, *(s.label for s in found)])[found.ids]
    proposals = mc.Predictor(models["mobile"]).proposals(image)
    wanted = semantic_maps(proposals, PostprocessConfig(), 133)[0]
    assert (labels == wanted).mean() > 0.9  # masks are enlarged before, not after, their sum
    assert not found.categories.is_thing.any()
    with pytest.raises(ConfigError, match="output=proposals"):
        mc.Predictor(path, score_threshold=0.3)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert main(["predict", str(path), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("m.tflite", {}, "give `uint8`"), ("m.onnx", {"hard_sigmoid": True}, "leave out `hard_sigmoid`")],
)
def test_semantic_files_that_cannot_be_are_refused(models, tmp_path, name, options, words):
    with pytest.raises(ConfigError, match=words):
        mc.export_model(models["mobile"], tmp_path / name, output="semantic", **options)
