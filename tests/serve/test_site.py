"""The folder that `maskconver export --to web` writes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from maskconver.cli.main import main
from maskconver.core.files import WEIGHTS
from maskconver.errors import MaskconverError
from maskconver.serve.site import RUNTIME_FILES, runtime_files, write_site

pytest.importorskip("onnxruntime")
NUCLEI = WEIGHTS / "nuclei.onnx"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder such as npm's, with other content."""
    dist = tmp_path / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in RUNTIME_FILES.values():
        (dist / name).write_bytes(name.encode())
    return dist.parent


def test_a_site_holds_what_its_files_ask_for(package: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert main(["export", str(NUCLEI), "--to", "web", "--out", str(site), "--runtime", str(package)]) == 0
    names = {path.name for path in site.iterdir()}
    assert names > {"index.html", "app.js", "backend.js", "worker.js", "sw.js", "model.onnx", *RUNTIME_FILES}
    assert (site / "model.onnx").read_bytes() == NUCLEI.read_bytes()
    assert json.loads((site / "model.json").read_text())["name"] == "nuclei"
    assert gzip.decompress((site / "ort.wasm.wasm.gz").read_bytes()) == b"ort-wasm-simd-threaded.wasm"
    text = "".join(path.read_text() for path in site.iterdir() if path.suffix in (".js", ".html"))
    assert "https://" not in text and "http://" not in text


def test_another_model_is_another_version(package: Path, tmp_path: Path) -> None:
    runtime = runtime_files(str(package))
    for name, model in (("a", NUCLEI), ("b", WEIGHTS / "facade.onnx"), ("c", NUCLEI)):
        write_site(model, tmp_path / name, runtime=runtime)
    a, b, c = ((tmp_path / name / "sw.js").read_text() for name in "abc")
    assert a == c != b and "of the files" not in a


def test_what_is_missing_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MaskconverError, match=r"has no ort.wasm.bundle.min.mjs; `runtime=fetch` downloads"):
        runtime_files(str(tmp_path))
    words = [
        "export",
        str(NUCLEI),
        "--to",
        "web",
        "--out",
        str(tmp_path / "site"),
        "--runtime",
        str(tmp_path),
    ]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "--runtime fetch" in error and error.count("\n") == 0
    assert not (tmp_path / "site").exists()
    assert main(["export", "nuclei", "--runtime", "x", "--out", str(tmp_path / "a.onnx")]) == 2
