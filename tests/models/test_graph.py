"""The tree of a model's modules."""

from __future__ import annotations

from maskconver.models import create_model
from maskconver.models.inspect import count_parameters, graph, stages


def test_stages_have_the_shapes_of_their_outputs_and_their_parameters() -> None:
    model = create_model("maskconver_mobile_256", num_classes=7)
    rows = {row.name: row for row in stages(model)}
    assert rows["backbone"].shapes == ["2: 32×64×64", "3: 64×32×32", "4: 448×16×16"]
    assert rows["decoder"].shapes == ["4: 256×16×16"] and rows["class_head"].shapes == ["7×32×32"]
    assert rows["backbone"].parameters == 1_661_280
    assert sum(row.parameters for row in rows.values() if row.depth == 1) == count_parameters(model)
    assert model.mlp.fc1.weight.device.type == "cpu"


def test_shared_heads_show_the_shape_of_every_level() -> None:
    model = create_model("maskconver_r50_640", num_classes=7, backbone="mobilenetv3_small_100", unet_dim=8)
    rows = {row.name: row for row in stages(model, (64, 128), depth=1)}
    assert rows["class_head"].shapes == ["7×8×16", "7×4×8", "7×2×4", "7×1×2", "7×1×1"]
    assert all(row.depth == 1 for row in rows.values())


def test_text_has_a_line_a_module_and_the_total_first() -> None:
    model = create_model("maskconver_mobile_256", num_classes=7)
    lines = graph(model, depth=1).splitlines()
    assert lines[0].startswith(
        f"maskconver_mobile_256: {count_parameters(model):,} parameters, image 3×256×256"
    )
    assert len(lines) == 1 + len(list(model.named_children()))
