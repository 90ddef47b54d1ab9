"""Model files: what is refused and in which words, and starting one model from another."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskconver import Categories, Category, Predictor, load, save
from maskconver.errors import CheckpointError
from maskconver.models import create_model
from maskconver.models.checkpoint import find, init_from, read_metadata, read_state
from maskconver.models.maskconver import MaskConver


def categories(*names: str) -> Categories:
    return Categories([Category(i + 1, n, True, (i, i, i)) for i, n in enumerate(names)])


def small(*names: str) -> MaskConver:
    return create_model(
        "maskconver_mobile_256",
        categories=categories(*names),
        filters=16,
        low_level_filters=16,
        embedding_dim=8,
    )


def test_half_precision_files_are_half_as_large_and_load_as_float32(tmp_path: Path) -> None:
    model = small("a", "b")
    save(model, tmp_path / "full.safetensors")
    save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (
        tmp_path / "full.safetensors"
    ).stat().st_size
    again = load(tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 for p in again.parameters())
    torch.testing.assert_close(again.mlp.fc1.weight, model.mlp.fc1.weight, atol=1e-3, rtol=1e-3)


def test_options_of_postprocessing_that_older_files_hold_are_passed_over(tmp_path: Path) -> None:
    model = small("a")
    model.config.postprocess.overlap_threshold = 0.6
    save(model, path := tmp_path / "m.safetensors")
    meta = read_metadata(path)
    meta["config"]["postprocess"] |= {"mode": "compiled", "non_finite": "drop", "output_side": 640}
    save_file(load_file(path), path, metadata={"maskconver": json.dumps(meta)})
    assert load(path).postprocess == model.config.postprocess


def test_a_file_of_another_version_names_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"maskconver": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match=r"format 99, this version reads format 1.*init_from"):
        load(path)


def test_weights_without_a_config_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"no maskconver config"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x80\x04cposix\nsystem\n"])
def test_what_is_not_safetensors_is_refused_and_never_executed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(small("a"), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(path)


def test_a_name_that_is_neither_file_nor_bundled_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r'no model file "nucleii".*bundled'):
        load("nucleii")


def test_a_config_with_an_unknown_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(small("a"), path)
    meta = read_metadata(path)
    meta["config"]["decoder"] = "magic"
    save_file({"x": torch.zeros(1)}, path, metadata={"maskconver": json.dumps(meta)})
    with pytest.raises(CheckpointError, match="does not understand"):
        load(path)


def test_a_full_disk_leaves_the_older_file_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save(small("a"), path)
    before = path.read_bytes()

    def full(tensors: dict, name: Path, metadata: dict) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(name))

    monkeypatch.setattr("maskconver.models.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(small("b"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_init_from_matches_classes_by_name_and_reports_what_it_took(tmp_path: Path) -> None:
    source, target = small("cat", "dog", "cow"), small("cow", "horse", "cat")
    save(source, tmp_path / "source.safetensors")
    fresh = target.class_embedding.weight[1].clone()
    report = init_from(target, tmp_path / "source.safetensors")
    torch.testing.assert_close(target.class_embedding.weight[0], source.class_embedding.weight[2])
    torch.testing.assert_close(target.class_embedding.weight[2], source.class_embedding.weight[0])
    torch.testing.assert_close(target.class_embedding.weight[1], fresh)
    torch.testing.assert_close(target.class_head.out.weight[0], source.class_head.out.weight[2])
    torch.testing.assert_close(target.backbone.block0.conv.weight, source.backbone.block0.conv.weight)
    assert report.adapted == dict.fromkeys(report.adapted, "2 classes by name") and len(report.adapted) == 3
    assert not report.missing and not report.mismatched and not report.unexpected


def test_init_from_only_some_modules(tmp_path: Path) -> None:
    source, target = small("a"), small("a")
    save(source, tmp_path / "source.safetensors")
    before = target.class_head.out.weight.clone()
    report = init_from(target, tmp_path / "source.safetensors", ("backbone", "decoder"))
    torch.testing.assert_close(target.class_head.out.weight, before)
    torch.testing.assert_close(target.decoder.project.conv.weight, source.decoder.project.conv.weight)
    assert {k.split(".")[0] for k in report.loaded} == {"backbone", "decoder"}
    with pytest.raises(CheckpointError, match="no module bakbone"):
        init_from(target, tmp_path / "source.safetensors", ("bakbone",))


def test_init_from_a_model_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save(small("a"), path)
    other = create_model(
        "maskconver_mnv3s_640", categories=categories("a"), filters=24, low_level_filters=24, embedding_dim=12
    )
    with pytest.raises(CheckpointError, match="nothing in"):
        init_from(other, path)


def test_init_from_only_the_embeddings_of_classes(tmp_path: Path) -> None:
    source, target = small("cat", "dog"), small("dog", "cow")
    save(source, tmp_path / "source.safetensors")
    report = init_from(target, tmp_path / "source.safetensors", ("class_embedding",))
    assert report.adapted == {"class_embedding.weight": "1 classes by name"} and not report.loaded
    torch.testing.assert_close(target.class_embedding.weight[0], source.class_embedding.weight[1])
    with pytest.raises(CheckpointError, match="nothing in"):
        init_from(small("horse"), tmp_path / "source.safetensors", ("class_embedding",))


def test_no_class_of_the_same_name_begins_at_random(tmp_path: Path) -> None:
    save(small("cat"), tmp_path / "source.safetensors")
    report = init_from(small("cow"), tmp_path / "source.safetensors")
    assert not report.adapted and "class_embedding.weight" in report.missing


def test_init_from_a_part_of_a_module(tmp_path: Path) -> None:
    source, target = small("a"), small("a")
    save(source, tmp_path / "source.safetensors")
    before = target.decoder.branch0.conv.weight.clone()
    report = init_from(target, tmp_path / "source.safetensors", ("decoder.project",))
    assert {k.rsplit(".", 2)[0] for k in report.loaded} == {"decoder.project"}
    torch.testing.assert_close(target.decoder.project.conv.weight, source.decoder.project.conv.weight)
    torch.testing.assert_close(target.decoder.branch0.conv.weight, before)


def test_a_file_of_another_shape_than_its_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(small("a", "b"), path)
    tensors, metadata = read_state(path), {"maskconver": json.dumps(read_metadata(path))}
    tensors["class_embedding.weight"] = tensors["class_embedding.weight"][:1]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="0 tensors missing, 0 unexpected, 1 of another shape"):
        load(path)


def test_every_kind_of_model_goes_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = create_model(
        "maskconver_r50_640", categories=categories("a", "b"), backbone="mobilenetv3_small_100", unet_dim=8
    )
    save(model, path)
    loaded = load(path)
    assert read_metadata(path)["kind"] == "maskconver_multiscale"
    assert type(loaded) is type(model) and loaded.config == model.config
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert not any(v.is_meta for v in loaded.state_dict().values())


def test_a_loaded_model_outlives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = small("a")
    save(model, path)
    loaded = load(path)
    path.write_bytes(b"x")
    assert torch.equal(loaded.mlp.fc1.weight, model.mlp.fc1.weight)


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "model.tflite", "model.pt2"])
def test_a_pointer_of_git_lfs_is_told_as_such(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        Predictor(path)


def test_a_run_without_a_best_model_is_used_by_its_last_one(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"before its first validation.*--resume auto"):
        load(tmp_path)
    save(small("a"), tmp_path / "last.safetensors")
    assert find(tmp_path).name == "last.safetensors"
    save(small("a"), tmp_path / "best.safetensors")
    assert find(tmp_path).name == "best.safetensors"
