"""Options of `maskconver train`: those of the chosen model, each explained."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")

from jsonargparse import ArgumentParser

from maskconver.cli import train
from maskconver.cli.main import main
from maskconver.models import list_models, model_config
from maskconver.models.registry import families, kind_of

# One registered model of every kind.
MODELS = sorted({kind_of(model_config(name)): name for name in list_models()}.values())


def resolved(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert main(["train", *words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def parser_of(name: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    train.configure(parser)
    train.prepare(parser, [f"--model.name={name}"])
    return parser


def test_every_family_has_a_model_among_these() -> None:
    assert {kind_of(model_config(name)) for name in MODELS} == {k for f in families() for k in f.kinds}


@pytest.mark.parametrize("name", MODELS)
def test_every_option_has_help(name: str) -> None:
    actions = [a for a in parser_of(name)._actions if a.option_strings]
    assert [a.option_strings[0] for a in actions if not (a.help or "").strip()] == []


@pytest.mark.parametrize("name", MODELS)
def test_only_fields_of_the_chosen_model_are_options(name: str) -> None:
    options = {o.split(".")[1] for o in parser_of(name)._option_string_actions if o.startswith("--model.")}
    assert options == {"name", "backbone_weights", *vars(model_config(name))}


def test_the_registered_config_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = resolved(capsys, "--model.name=maskconver_mobile_dense_512")
    assert list(recipe["model"])[:2] == ["name", "backbone_weights"]
    assert recipe["model"]["position"] is True and recipe["model"]["proposals"] == 400


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--model.level=3", "unrecognized arguments: --model.level=3"),
        ("--loss.dice=none", "unrecognized arguments: --loss.dice=none"),
        ("--model.prop=3", "did you mean --model.proposals"),
        ("--model.name=remax", 'no model "remax"; did you mean remax_t'),
        ("--loss.instance_samples=0", "loss.instance_samples is 0; it must be 1 or more"),
    ],
)
def test_what_the_model_does_not_have_is_refused_in_one_line(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--model.name=remax_t", word]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_recipe_of_an_earlier_version_still_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(
        "model: {name: remax_t, merge: {object_threshold: 0.4}, mask_start: [1, -3], drop_path: 0.1, "
        "remax: {eta: 0.2, remask_at_test: false}}\n"
        "kmax_loss: {instance_samples: 64}\npictures: 1\n"
    )
    recipe = resolved(
        capsys,
        f"--config={path}",
        "--kmax_loss.class_weight=2",
        "--model.remax.aspp=separable",
        "--model.drop-path=0",
    )
    assert recipe["training"] == {"drop_path": 0.0, "backbone_drop_path": 0.0, "mask_start": [1.0, -3.0]}
    assert not recipe["training"].keys() & recipe["model"].keys()
    assert recipe["log_images"] == 1
    assert recipe["model"]["postprocess"]["score_threshold"] == 0.4
    assert recipe["loss"]["instance_samples"] == 64 and recipe["loss"]["class_weight"] == 2
    remax = recipe["loss"]["remax"]
    assert (remax["eta"], remax["aspp"], remax["remask_layers"]) == (0.2, "separable", 4)


def test_where_embeddings_are_read_has_a_new_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("loss: {centers: predicted}\nmodel: {name: maskconver_mobile_256}\n")
    assert resolved(capsys, f"--config={path}")["loss"]["embedding_at"] == "surest"
    assert main(["train", "--loss.centers", "random"]) == 2
    error = capsys.readouterr().err
    assert "--loss.embedding_at" in error and error.count("\n") == 1
