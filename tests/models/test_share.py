"""Sharing models: a folder or a repository holds one file and a card; what cannot be reached is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

torch = pytest.importorskip("torch")
huggingface_hub = pytest.importorskip("huggingface_hub")
from huggingface_hub import errors  # noqa: E402

import maskconver as mc  # noqa: E402
from maskconver.cli.main import main  # noqa: E402
from maskconver.errors import CheckpointError, ConfigError  # noqa: E402
from maskconver.models import hub  # noqa: E402
from maskconver.models.checkpoint import find, read_metadata  # noqa: E402
from tests.fakes import CATEGORIES  # noqa: E402


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mc.create_model(
        "maskconver_mobile_256", categories=CATEGORIES, filters=16, low_level_filters=16, embedding_dim=16
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("model:\n  name: maskconver_mobile_256\n")
    rows = [{"step": 100 * i, "val/pq": i / 40} for i in range(1, 31)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_saved_folder_is_loaded_and_its_card_tells_the_run(model, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mc.save_pretrained(model, "shared/cells", run)
    again = mc.load("shared/cells")
    assert again.categories == CATEGORIES and again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(value.float(), again.state_dict()[key].float()), key
    assert mc.Predictor("shared/cells").categories == CATEGORIES
    extra = read_metadata(find("shared/cells"))["extra"]
    assert extra["metrics"] == {"step": 3000, "val/pq": 0.75} and "maskconver_mobile_256" in extra["recipe"]
    card = Path("shared/cells/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: maskconver\n")
    assert "| 3000 | 75.0 |" in card and "| 3 | cell | thing |" in card and "model:\n  name:" in card
    assert 'mc.Predictor("shared/cells")' in card
    assert card.count("\n| ") < 30, "long curves are thinned"


def test_figures_that_do_not_exist_stay_empty_in_the_card(model, run, tmp_path):
    rows = [{"step": step, "val/pq": None, "val/miou": 0.5} for step in (1, 2)]
    (run / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mc.save_pretrained(model, tmp_path / "shared", run)
    assert "| 2 |  | 50.0 |" in (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")


def test_a_model_is_pushed_as_one_folder_and_loaded_by_its_name(model, run, tmp_path, monkeypatch):
    stored = tmp_path / "hub"

    class Api:
        def __init__(self, **options):
            assert options["token"] == "secret"

        def create_repo(self, name, private, exist_ok):
            assert (name, private, exist_ok) == ("user/cells", True, True)
            return f"https://hub/{name}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            stored.mkdir()
            for file in Path(folder_path).iterdir():
                (stored / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = mc.push_to_hub(model, "user/cells", run=run, private=True, token="secret")
    assert address == "https://hub/user/cells"
    assert sorted(file.name for file in stored.iterdir()) == ["README.md", "model.safetensors"]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(stored / file))
    monkeypatch.chdir(tmp_path)
    assert mc.load("user/cells").config == model.config
    assert mc.Predictor("user/cells").categories == CATEGORIES


def test_paths_are_no_repositories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert hub.is_repository("user/cells-2.0")
    for name in ("nuclei", "runs/typo", "/user/cells", "a/b/c", "user/best.safetensors", "./cells", "user/"):
        assert not hub.is_repository(name), name
    with pytest.raises(CheckpointError, match="no model file"):
        mc.load("runs/typo")


def failing(error):
    def raise_it(*_, **__):
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.LocalEntryNotFoundError("offline"), "no connection"),
        (OSError("[Errno -2] Name or service not known\nmore"), "Name or service not known"),
        (errors.HFValidationError("bad name"), "bad name"),
    ],
)
def test_what_cannot_be_reached_is_one_line(error, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(error))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("image.png")
    assert main(["predict", "user/cells", "image.png"]) == 2
    line = capsys.readouterr().err
    assert said in line and '"user/cells" is not a file here' in line and line.count("\n") == 1


def test_a_folder_without_a_recipe_is_no_run(model, tmp_path):
    with pytest.raises(ConfigError, match="not the folder of a training"):
        mc.save_pretrained(model, tmp_path / "shared", run=tmp_path)
    assert not (tmp_path / "shared").exists()
