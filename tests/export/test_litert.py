"""LiteRT files say what they are, run without PyTorch, and are refused in one line where they cannot."""

from __future__ import annotations

import json
import runpy
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("litert_torch", reason='needs litert-torch, of the extra "export"')

import maskconver as mc
from maskconver.cli.main import main
from maskconver.core.config import RGB_MEAN, RGB_STD, InputConfig, PostprocessConfig
from maskconver.core.preprocess import prepare
from maskconver.core.proposals import Proposals
from maskconver.data.synth.write import synthesize
from maskconver.errors import CheckpointError, ConfigError, ExportError, MissingExtraError
from maskconver.export.driver import trace
from maskconver.export.litert import LiteRt, described
from maskconver.export.litert_quantize import quantize_litert
from maskconver.export.mediapipe import segmenter_metadata
from maskconver.export.panoptic import PanopticMerge, PanopticNetwork, SemanticNetwork
from maskconver.inference.exported import KEY, Exported
from maskconver.inference.litert import LiteRtRuntime
from maskconver.merge import postprocess
from tests.export.conftest import SCRIPT
from tests.fakes import CATEGORIES

SIZE = (32, 48)
RGB = torch.tensor([RGB_MEAN, RGB_STD]).view(2, 3, 1, 1)


class Small(nn.Module):
    """As quick to convert as it can be: a convolution, one cell spread over the map, five masks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8)
        self.mask_head = nn.Conv2d(16, 5, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.bn(self.conv(images)).relu()
        spread = x.mean((2, 3), keepdim=True).expand(-1, -1, *x.shape[-2:])
        masks = self.mask_head(torch.cat([x, spread], 1))
        best = masks.flatten(2).amax(2).sigmoid().topk(5)
        return best.values, best.indices % 2, masks


def description(**changes: object) -> Exported:
    given = {
        "quantize": "none",
        "uint8": False,
        "input": InputConfig(size=SIZE),
        "postprocess": PostprocessConfig(),
    }
    about = {"name": "small", "version": "0", "size": SIZE, "multiple": 1, "proposals": 5}
    return Exported(**(about | given | {"categories": CATEGORIES} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def content() -> bytes:
    return LiteRt().trace(Small().eval(), description())


@pytest.fixture(scope="module")
def file(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("litert") / "small.tflite"
    path.write_bytes(described(content, {KEY: description().to_json()}))
    return path


def test_any_network_becomes_a_file_with_channels_last_and_named_answers(file):
    runtime = LiteRtRuntime(file)
    (given,) = runtime._run_signature.get_input_details().values()
    assert given["shape"].tolist() == [1, *SIZE, 3]
    canvases = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    scores, labels, masks = Small().eval()(canvases)
    answer = runtime(canvases.numpy())
    np.testing.assert_allclose(answer.scores, scores.detach(), atol=1e-6)
    np.testing.assert_array_equal(answer.labels, labels)
    assert answer.labels.dtype == np.int64
    np.testing.assert_allclose(answer.mask_logits, masks.detach(), atol=1e-5)


def test_the_file_says_what_it_is_and_nothing_of_this_machine(file):
    runtime = mc.Predictor(file).runtime
    assert (runtime.input, runtime.postprocess, runtime.categories) == (
        InputConfig(size=SIZE), PostprocessConfig(), CATEGORIES,
    )  # fmt: skip
    assert repr(runtime) == "small in small.tflite"
    assert b"maskconver.models" not in file.read_bytes() and b"/tests/" not in file.read_bytes()


class Bytes(nn.Module):
    """`Small` with its merge inside, of 1×h×w×3 bytes."""

    def __init__(self, config: PostprocessConfig) -> None:
        super().__init__()
        masks = SIZE[0] // 4, SIZE[1] // 4
        self.network = PanopticNetwork(Small(), PanopticMerge(config, CATEGORIES, masks, SIZE))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        canvas = (images.permute(0, 3, 1, 2).float() / 255 - RGB[0]) / RGB[1]
        return self.network(canvas)


@pytest.fixture(scope="module")
def panoptic_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("panoptic") / "small.tflite"
    merge = PostprocessConfig(overlap_threshold=0.1, min_area=0.0)
    about = description(output="panoptic", uint8=True, postprocess=merge)
    LiteRt().write(LiteRt().trace(Bytes(merge).eval(), about), about, path)
    return path


def test_a_file_with_the_merge_inside_gives_the_plain_merge_s_map(panoptic_file):
    runtime = LiteRtRuntime(panoptic_file)
    canvas, _ = prepare(synthesize("scenes", SIZE, 3).image, runtime.input, dtype=np.uint8)
    fed = torch.from_numpy(canvas[None]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        scores, labels, masks = Small().eval()((fed - RGB[0]) / RGB[1])
    proposals, config = Proposals(scores, labels, masks).numpy(), runtime.postprocess
    (expected,) = postprocess(proposals, config, CATEGORIES, output_size=SIZE, algorithm="reference")
    (found,) = runtime(canvas[None])
    np.testing.assert_array_equal(found.ids, expected.ids)
    rows = [(s.id, s.label, s.area) for s in expected]
    assert rows and [tuple(row) for row in found.segments.tolist()][: len(rows)] == rows


def test_the_script_for_devices_runs_the_file(panoptic_file):
    pixels = synthesize("scenes", (60, 70), 3).image
    ids, rows = runpy.run_path(str(SCRIPT))["segment"](str(panoptic_file), pixels)
    own = mc.Predictor(panoptic_file)(pixels)
    assert (ids == own.ids).mean() > 0.995  # bytes round differently
    assert [name for _, name, _, area in rows if area] == [s.category for s in own]


@pytest.mark.parametrize("quantize", ["fp16", "int8-weights", "int8"])
def test_fewer_bits_change_the_answer_a_little(content, tmp_path, quantize):
    about = description(quantize=quantize)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(4)]
    small = quantize_litert(content, about, images if quantize == "int8" else None)
    path = tmp_path / "small.tflite"
    path.write_bytes(described(small, {KEY: about.to_json()}))
    canvas = rng.normal(size=(1, 3, *SIZE)).astype(np.float32)
    expected = Small().eval()(torch.from_numpy(canvas))[2].detach().numpy()
    difference = np.abs(LiteRtRuntime(path)(canvas).mask_logits - expected).max()
    assert 0 < difference < 0.1 * np.abs(expected).max()


def test_fewer_proposals_are_the_best_ones(file):
    canvas = np.random.default_rng(0).normal(size=(1, 3, *SIZE)).astype(np.float32)
    few, all_of_them = LiteRtRuntime(file, proposals=2)(canvas), LiteRtRuntime(file)(canvas)
    np.testing.assert_array_equal(few.mask_logits, all_of_them.mask_logits[:, :2])
    with pytest.raises(ConfigError, match="gives 5 proposals, not 6"):
        LiteRtRuntime(file, proposals=6)


# What must not pass


def test_files_that_are_not_ours_are_refused_in_one_line(content, file, tmp_path, capfd):
    told = json.loads(description().to_json())
    whole = file.read_bytes()
    cases = [
        (content, "not written by maskconver export"),
        (described(content, {KEY: json.dumps(told | {"format": 9})}), "in another format"),
        (described(content, {KEY: json.dumps(told | {"categories": []})}), "damaged description"),
        (described(content, {KEY: json.dumps(told | {"uint8": True})}), "export the model again"),
        (described(content, {KEY: json.dumps(told | {"output": "panoptic"})}), "export the model again"),
        (whole[: len(whole) // 2], "again|cannot be|can be run"),
        (b"no model", "not a LiteRT file that can be run"),
        (b"", "not a LiteRT file that can be run"),
    ]
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(image)
    for number, (data, why) in enumerate(cases):
        path = tmp_path / f"{number}.tflite"
        path.write_bytes(data)
        assert main(["predict", str(path), str(image), "--out", str(tmp_path / "out")]) == 2
        said = capfd.readouterr().err
        assert any(part in said for part in why.split("|")), said
        assert said.count("\n") == 1
    with pytest.raises(CheckpointError, match="no model file"):
        LiteRtRuntime(tmp_path / "none.tflite")


@pytest.mark.parametrize(
    "canvas",
    [np.zeros((1, 3, *SIZE)), np.zeros((1, 4, *SIZE), np.float32), np.zeros((1, 3, 32, 32), np.float32)],
    ids=lambda a: f"{a.dtype} {a.shape}",
)
def test_canvases_the_file_does_not_take_are_refused(file, canvas):
    with pytest.raises(ConfigError, match="not "):
        LiteRtRuntime(file)(canvas)


def test_a_device_that_is_not_there_is_refused(file):
    with pytest.raises(ConfigError, match='device "cuda" cannot run LiteRT files here; there is cpu'):
        mc.Predictor(file, device="cuda")


def test_missing_packages_name_the_extra(file, models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtraError, match=r"maskconver\[litert\]"):
        mc.Predictor(file)
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingExtraError, match=r"maskconver\[export\]"):
        mc.export_model(models["nuclei"], tmp_path / "model.tflite")


def test_options_that_do_not_fit_are_refused_before_any_work(models, tmp_path, capsys):
    model = models["nuclei"]
    for name, options, message in [
        ("model.onnx", {}, r'does not end in "\.tflite"'),
        ("model.tflite", {"size": (0, 64)}, "size 0×64 is not possible"),
        ("model.tflite", {"quantize": "int8"}, "give `calibrate`"),
        ("model.tflite", {"calibrate": [np.zeros((9, 9, 3), np.uint8)]}, "leave out `calibrate`"),
    ]:
        with pytest.raises(ConfigError, match=message):
            mc.export_model(model, tmp_path / name, "litert", **options)
    (tmp_path / "empty").mkdir()
    for words, message in [
        (["--dynamic"], "takes one image of one size; leave out --dynamic"),
        (["--quantize", "int8"], "give --calibrate"),
        (
            ["--size", "64", "64", "--quantize", "int8", "--calibrate", str(tmp_path / "empty")],
            "no image in this folder",
        ),
        ([], "give a --size"),
    ]:
        out = ["--out", str(tmp_path / "model.tflite")]
        assert main(["export", "nuclei", "--to", "litert", *words, *out]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_network_that_cannot_be_converted_is_refused_in_one_line():
    class Strange(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (torch.linalg.svdvals(images),)

    with pytest.raises(ExportError, match="strange cannot be exported to LiteRT: ") as caught:
        trace(LiteRt(), Strange().eval(), description(size=(8, 8)), opset=18, name="strange")
    assert "\n" not in str(caught.value)


class Tables:
    """A flatbuffer read without its schema: fields by number."""

    def __init__(self, data, at=None):
        from flatbuffers.table import Table

        first = int.from_bytes(data[:4], "little") if at is None else at
        self.data, self.table = data, Table(data, first)

    def __getitem__(self, field):
        """A table, or the first one of a vector of tables."""
        place = self.table.Offset(4 + 2 * field)
        return Tables(self.data, self.table.Indirect(self.table.Pos + place))

    def first(self, field):
        start = self.table.Vector(self.table.Offset(4 + 2 * field))
        return Tables(self.data, self.table.Indirect(start))

    def text(self, field):
        return self.table.String(self.table.Pos + self.table.Offset(4 + 2 * field)).decode()

    def small(self, field):
        return self.data[self.table.Pos + self.table.Offset(4 + 2 * field)]


def test_media_pipe_finds_kind_and_names_of_a_semantic_file(tmp_path):
    """By the numbers of the fields in its schema; MediaPipe itself reads the file where it is installed."""
    network = SemanticNetwork(_Bytes(Small().eval()), len(CATEGORIES))
    about = description(uint8=True, output="semantic", categories=CATEGORIES.as_stuff())
    path = tmp_path / "m.tflite"
    LiteRt().write(LiteRt().trace(network, about), about, path)
    image = np.random.default_rng(0).integers(0, 255, (1, *SIZE, 3), np.uint8)
    (scores,) = (found.class_scores for found in LiteRtRuntime(path)(image))
    assert scores.shape == (2, SIZE[0] // 4, SIZE[1] // 4)

    with zipfile.ZipFile(path) as archive:
        (entry,) = archive.infolist()
        assert archive.read(entry).decode().split() == list(CATEGORIES.names)
        assert entry.filename == "labels.txt" and entry.compress_type == zipfile.ZIP_STORED
    data = segmenter_metadata(about)
    graph = Tables(data).first(3)
    assert data[4:8] == b"M001"
    assert graph.first(2)[3][0].small(0) == 2 and graph.first(2)[3][0][1].small(0) == 1  # an image, RGB
    labels = graph.first(3).first(6)
    assert labels.text(0) == "labels.txt" and labels.small(2) == 2
    assert graph.first(9).text(0) == "SEGMENTER_METADATA"

    vision = pytest.importorskip("mediapipe.tasks.python.vision", reason="pip install mediapipe")
    import mediapipe
    from mediapipe.tasks.python import BaseOptions

    options = vision.ImageSegmenterOptions(base_options=BaseOptions(model_asset_path=str(path)))
    with vision.ImageSegmenter.create_from_options(options) as segmenter:
        assert segmenter.labels == list(CATEGORIES.names)
        result = segmenter.segment(
            mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image[0]))
        )
    assert len(result.confidence_masks) == 2


class _Bytes(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.network(images.permute(0, 3, 1, 2).float() / 255)
