"""`maskconver data export`: what is written, what is not, and where."""

import json

import pytest

from maskconver.cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["data", "synth", "my_data", "--count", "2", "--size", "48", "64"]
    assert main(arguments) == 0
    return tmp_path


def test_the_folder_is_named_after_data_and_format(folder, capsys):
    assert main(["data", "export", "my_data/", "--to", "label-studio"]) == 0
    assert (folder / "my_data_label_studio/train/tasks.json").is_file()
    out = capsys.readouterr().out
    assert "2 images" in out and "stuff regions are written like objects: " in out
    assert main(["data", "export", "my_data", "--to", "label-studio"]) == 2
    assert "is there already; choose another folder" in capsys.readouterr().err


def test_the_current_folder_has_a_name_too(folder, monkeypatch):
    monkeypatch.chdir(folder / "my_data")
    assert main(["data", "export", ".", "--to", "masks"]) == 0
    assert (folder / "my_data_masks/classes.json").is_file()


def test_images_that_fail_are_listed_and_the_exit_code_says_so(folder, capsys):
    (folder / "my_data/images/train/scenes_00001.png").unlink()
    capsys.readouterr()
    assert main(["data", "export", "my_data", "--to", "coco-instances", "--out", "out", "--json"]) == 1
    said = capsys.readouterr()
    figures = json.loads(said.out)
    assert figures["images"] == 1 and figures["failed"][0][0].endswith("scenes_00001.png")
    assert "1 of 2 images failed:" in said.err and "no such file" in said.err
