"""The core works where PyTorch and its company are not installed."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from maskconver.core.files import WEIGHTS
from maskconver.data.synth.write import write_dataset

BLOCK = """
import importlib, sys

BLOCKED = {"torch", "torchvision", "timm", "lightning", "pytorch_lightning", "scipy", "tensorboard"}
BLOCKED |= {"onnx", "onnxscript"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)


sys.meta_path.insert(0, Refuse())
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a fresh process in which importing PyTorch and its company fails."""
    code = BLOCK + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


def test_public_names_of_the_core_are_there() -> None:
    names = "Categories Category MaskconverError PanopticQuality Predictor Proposals Segmentation"
    names += " postprocess data"
    done = run(
        """
        import maskconver
        for name in sys.argv[1:]:
            getattr(maskconver, name)
        maskconver.data.CocoPanoptic, maskconver.data.check_dataset, maskconver.data.open_dataset
        """,
        *names.split(),
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = run(
        """
        import maskconver
        heavy = {"numpy", "PIL", "torch", "rich", "jsonargparse", "msgspec", "safetensors", "huggingface_hub"}
        print(*sorted(heavy & set(sys.modules)))
        """
    )
    assert done.stdout.split() == [], done.stderr


def test_commands_work() -> None:
    lines = [
        "--help",
        "--version",
        *(f"{name} --help" for name in ("predict", "pq", "data check", "data synth")),
    ]
    done = run(
        """
        from maskconver.cli.main import main
        for line in sys.argv[1:]:
            assert main(line.split()) == 0, line
        """,
        *lines,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("maskconver") >= len(lines)


def test_commands_that_need_an_extra_name_it_in_one_line(tmp_path: Path) -> None:
    write_dataset(tmp_path, "cells", 1, size=(32, 32))
    image = next((tmp_path / "images").rglob("*.png"))
    lines = [f"train --data {tmp_path}", f"evaluate {tmp_path} --data {tmp_path}"]
    lines += [f"predict my.safetensors {image}", "models"]
    done = run(
        """
        from maskconver.cli.main import main
        for line in sys.argv[1:]:
            assert main(line.split()) == 2, line
        """,
        *lines,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('pip install "maskconver[train]"') == done.stderr.count("\n") == len(lines)


def test_generated_data_can_be_written_and_checked(tmp_path: Path) -> None:
    done = run(
        """
        from maskconver.cli.main import main
        folder = sys.argv[1]
        code = main(["data", "synth", folder, "--style", "cells", "--count", "2", "--size", "48", "64"])
        sys.exit(code or main(["data", "check", folder]))
        """,
        str(tmp_path / "cells"),
    )
    assert done.returncode == 0, done.stderr
    assert "no defects" in done.stdout


@pytest.mark.parametrize(
    "model", ["nuclei", str(WEIGHTS / "nuclei.onnx"), "litert"], ids=["name", "file", "litert"]
)
def test_the_bundled_model_predicts_and_is_evaluated(model: str, tmp_path: Path) -> None:
    if model == "litert":
        pytest.importorskip("ai_edge_litert", reason='running LiteRT files needs the extra "litert"')
        model = os.environ.get("MASKCONVER_TFLITE", "")
        if not model:
            pytest.skip(
                "MASKCONVER_TFLITE names no LiteRT file; make test-core makes one where there is torch"
            )
    else:
        pytest.importorskip("onnxruntime", reason='running ONNX files needs the extra "onnx"')
    write_dataset(tmp_path, "cells", 2, size=(96, 120))
    done = run(
        """
        from maskconver.cli.main import main
        model, folder = sys.argv[1:]
        code = main(["predict", model, f"{folder}/images", "--out", f"{folder}/out", "--overlay"])
        sys.exit(code or main(["evaluate", model, "--data", folder, "--json"]))
        """,
        model,
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "2 images" in done.stdout
    assert len(list((tmp_path / "out" / "overlays").glob("*.png"))) == 2


def test_the_bundled_model_becomes_a_page(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason='running ONNX files needs the extra "onnx"')
    from maskconver.serve.site import RUNTIME_FILES

    dist = tmp_path / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in RUNTIME_FILES.values():
        (dist / name).write_bytes(b"")
    code = """
        from maskconver.cli.main import main
        sys.exit(main(["export", "nuclei", "--to", "web", *sys.argv[1:]]))
        """
    words = "--out", str(tmp_path / "site"), "--runtime", str(dist.parent)
    done = run(code, *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/model.onnx").read_bytes() == (WEIGHTS / "nuclei.onnx").read_bytes()
    done = run(code, *words, "--size", "256", "256")
    assert done.returncode == 2 and "train" in done.stderr


def test_the_bundled_model_without_onnx_runtime_names_the_extra(tmp_path: Path) -> None:
    write_dataset(tmp_path, "cells", 1, size=(32, 32))
    done = run(
        """
        BLOCKED.add("onnxruntime")
        from maskconver.cli.main import main
        sys.exit(main(["predict", "nuclei", sys.argv[1]]))
        """,
        str(tmp_path / "images"),
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert 'pip install "maskconver[onnx]"' in done.stderr


def test_the_package_stays_small() -> None:
    assert (WEIGHTS / "nuclei.onnx").stat().st_size <= 5e6
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) <= 30e6
