"""`maskconver import-weights`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from maskconver.checkpoint import load  # noqa: E402
from maskconver.cli.main import main  # noqa: E402
from maskconver.kmax_deeplab import official_name  # noqa: E402
from maskconver.models import create_model  # noqa: E402


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
