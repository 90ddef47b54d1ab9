"""Exported files for the tools of others: plain metadata keys, TensorRT, Core ML."""

from __future__ import annotations

import ast
import zipfile

import onnx
import pytest
import torch

from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.files import WEIGHTS
from maskconver.export.onnx import Onnx
from maskconver.export.torch_export import TorchExport
from maskconver.inference.exported import KEY, Exported
from maskconver.models.base import SegmentationModel
from maskconver.models.topk import operator_topk
from tests.fakes import CATEGORIES

# "Y" in docs/operators.md of onnx-tensorrt for TensorRT 8.5, of those that our models may use, and what its
# changelog adds for 8.6: LayerNormalization, and TopK of a number that is computed.
TENSORRT = """
Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape
Conv ConvTranspose CumSum Div Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gemm
GlobalAveragePool Greater GreaterOrEqual HardSigmoid HardSwish Identity If LayerNormalization Less
LessOrEqual Log MatMul Max MaxPool Min Mod Mul Neg NonZero Not OneHot Or Pad Pow Range Reciprocal
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize
ScatterElements ScatterND Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Tile TopK
Transpose Unsqueeze Where
"""


def description(size: tuple[int, int] | None = (96, 128)) -> Exported:
    own = InputConfig("native", (640, 512), multiple=32)
    return Exported("m", "1", size, 64, 5, False, "none", own, PostprocessConfig(), CATEGORIES)


PLAIN = {"names": {0: "cell", 1: "ground"}, "stride": 64, "imgsz": [96, 128]}


def test_other_viewers_find_plain_keys_in_onnx_files(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    path = tmp_path / "m.onnx"
    Onnx().write(onnx.helper.make_model(graph), description(), path)
    told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert told.pop("task") == "panoptic" and Exported.from_json(told.pop(KEY), path) == description()
    assert {key: ast.literal_eval(text) for key, text in told.items()} == PLAIN
    assert description(None).plain()["imgsz"] == "[640, 512]"  # of a file that takes any size


@pytest.mark.parametrize("name", ["nuclei", "facade"])
def test_the_bundled_files_have_plain_keys(name):
    """Read with the package onnx alone, as other viewers do."""
    model = onnx.load(WEIGHTS / f"{name}.onnx")
    told = {entry.key: entry.value for entry in model.metadata_props}
    names = ast.literal_eval(told["names"])
    assert {"nuclei": "nucleus", "facade": "window"}[name] in names.values()
    assert list(names) == list(range(len(names)))
    assert told["task"] == "panoptic"
    sides, stride = ast.literal_eval(told["imgsz"]), int(told["stride"])
    assert len(sides) == 2 and stride > 0 and all(side > 0 and side % stride == 0 for side in sides)


def test_other_viewers_find_plain_keys_in_pt2_files(tmp_path):
    path = tmp_path / "m.pt2"
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    TorchExport().write(program, description(), path)
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/names")]
        assert ast.literal_eval(archive.read(name).decode()) == PLAIN["names"]


@pytest.mark.parametrize("name", ["nuclei", "facade"])
def test_tensorrt_has_all_operators_of_the_bundled_files(name):
    model = onnx.load(WEIGHTS / f"{name}.onnx")
    assert not {node.op_type for node in model.graph.node} - set(TENSORRT.split())
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)] and not model.functions
    modes = [
        {a.name: a.s.decode() for a in node.attribute if a.s}
        for node in model.graph.node
        if node.op_type == "Resize"
    ]
    assert all(m["mode"] in ("nearest", "linear") for m in modes)


class Network(torch.nn.Module):
    def __init__(self, model: SegmentationModel, proposals: int) -> None:
        super().__init__()
        self.model, self.proposals = model.optimized(topk=operator_topk), proposals

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model.predict(images, self.proposals)
        return found.scores, found.labels, found.mask_logits


@pytest.mark.slow
def test_core_ml_takes_the_network(models, tmp_path):
    """As docs/tasks/ship.md says; Core ML itself runs on Apple's systems only."""
    coremltools = pytest.importorskip("coremltools", reason="pip install coremltools")
    network = Network(models["mobile"], 50).eval()
    program = torch.export.export(network, (torch.zeros(1, 3, 96, 128),)).run_decompositions()
    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
        if node.target in (torch.ops.aten.alias.default, torch.ops.aten._assert_tensor_metadata.default):
            program.graph.erase_node(node)
    converted = coremltools.convert(program, minimum_deployment_target=coremltools.target.iOS17)
    converted.save(str(tmp_path / "m.mlpackage"))
    spec = coremltools.utils.load_spec(str(tmp_path / "m.mlpackage"))
    assert [i.name for i in spec.description.input] == ["images"]
    shapes = [tuple(o.type.multiArrayType.shape) for o in spec.description.output]
    assert len(shapes) == 3 and all(shape[:2] == (1, 50) for shape in shapes if shape)
