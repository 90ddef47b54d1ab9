"""`maskconver import-weights`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from maskconver.cli.main import main  # noqa: E402
from maskconver.models import create_model  # noqa: E402
from maskconver.models.checkpoint import load  # noqa: E402
from maskconver.models.kmax.import_official import model_of, official_name  # noqa: E402


@pytest.mark.slow
def test_an_official_checkpoint_becomes_a_model_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = create_model(
        "kmax_r50", num_classes=2, proposals=4, fifth_stage="pytorch", semantic="simple"
    ).eval()
    state = {official_name(k): v for k, v in source.state_dict().items()}
    torch.save({"model": state, "iteration": 7}, tmp_path / "net.pth")
    categories = [{"id": i, "name": n, "isthing": 1, "color": [i, 0, 0]} for i, n in ((3, "cat"), (5, "dog"))]
    (tmp_path / "panoptic.json").write_text(json.dumps({"categories": categories}))
    arguments = [
        "import-weights",
        "kmax",
        str(tmp_path / "net.pth"),
        "--out",
        str(tmp_path / "out.safetensors"),
    ]
    assert main([*arguments, "--categories", str(tmp_path / "panoptic.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == 2
    model = load(tmp_path / "out.safetensors")
    assert model.categories is not None and list(model.categories.names) == ["cat", "dog"]
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.predict(image).mask_logits, source.predict(image).mask_logits)


def test_other_files_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "net.pth")
    out = ["--out", str(tmp_path / "out.safetensors")]
    assert main(["import-weights", "kmax", str(tmp_path / "net.pth"), *out]) == 2
    assert "not a checkpoint of the official kMaX-DeepLab" in capsys.readouterr().err
    assert main(["import-weights", "kmax", str(tmp_path / "none.pth"), *out]) == 2
    assert "no file" in capsys.readouterr().err


CENTERS, BIAS = official_name("decoder.centers"), official_name("decoder.predictor.class_head.bias")


@pytest.mark.parametrize(
    ("classes", "size", "thresholds"),
    [
        (133, (1281, 1281), (0.7, 0.5, 0.8, 1.0)),
        (19, (1025, 2049), (0.5, 0.3, 0.9, 0.0)),
        (150, (1281, 1281), (0.4, 0.4, 0.8, 1.0)),
    ],
    ids=["COCO", "Cityscapes", "ADE20K"],
)
def test_canvas_and_thresholds_are_those_of_the_data_set(
    classes: int, size: tuple[int, int], thresholds: tuple[float, ...]
) -> None:
    with torch.device("meta"):
        source = create_model("kmax_r50", num_classes=classes, proposals=4, semantic="none")
        model = model_of({official_name(k): v for k, v in source.state_dict().items()})
    merge = model.postprocess
    assert model.input.size == size and (model.categories is not None) == (classes == 133)
    assert (
        merge.score_threshold,
        merge.stuff_threshold,
        merge.overlap_threshold,
        merge.mask_exponent,
    ) == thresholds


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({BIAS: (20,)}, "19 classes and not their names: give --categories FILE"),
        ({}, f"is incomplete: {BIAS} is missing"),
        (
            {BIAS: (20,), CENTERS: (256,)},
            f"{CENTERS} is missing or does not have 2 dimensions",
        ),
    ],
    ids=["names unknown", "no classes", "no queries"],
)
def test_files_that_say_too_little_are_refused_in_one_line(
    tensors: dict[str, tuple[int, ...]],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes = {CENTERS: (256, 4), "backbone.stem.conv1.weight": (64, 3, 7, 7), **tensors}
    torch.save({"model": {k: torch.zeros(v) for k, v in shapes.items()}}, tmp_path / "net.pth")
    out = tmp_path / "out.safetensors"
    assert main(["import-weights", "kmax", str(tmp_path / "net.pth"), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not out.exists()
