"""A folder of static files that segments in the browser: the page, a model, and what runs it there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from urllib.request import urlopen

from ..core.files import atomic_path
from ..errors import ConfigError, MaskconverError, one_line
from ..inference.onnx import OnnxRuntime
from ..inference.tiles import tiles_of

VERSION = "1.30.0"  # of onnxruntime-web, and what npm says of its archive:
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
ARCHIVE = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
RUNTIME = Path(__file__).with_name("onnxruntime")
"""Where `make web` puts the runtime's files, which wheels hold."""
RUNTIME_FILES = {
    "ort.wasm.js": "ort.wasm.bundle.min.mjs",
    "ort.wasm.wasm.gz": "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.js": "ort.webgpu.bundle.min.mjs",
    "ort.webgpu.wasm.gz": "ort-wasm-simd-threaded.asyncify.wasm",
}
"""Their names in a site, and in the folder `dist` of the package."""
PAGE = ("index.html", "app.css", "app.js", "paint.js")


def write_site(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    runtime: Mapping[str, bytes] | None = None,
) -> int:
    """Write the page that runs a model in the browser; any web server for static files can then give it away.

    Args:
        model: an ONNX file of `maskconver export`, of the kind that gives proposals of float32 images.
        folder: is made; files of an older site are replaced.
        name: what the page calls the model; the name in the file if left out.
        runtime: of `runtime_files`; the installed ones if left out.

    Returns:
        Bytes of the site without the model.

    Raises:
        CheckpointError: not such a file.
        ConfigError: a file that the page cannot run.
        MaskconverError: the runtime is not installed.
        OSError: the folder cannot be written.
    """
    own = OnnxRuntime(model, "cpu")
    file = own.file
    channels = file.input.channels
    for wrong, what in (
        (file.output != "proposals", "has its post-processing inside; export it with `output=proposals`"),
        (file.uint8, "takes bytes; export it without `uint8`"),
        (channels not in (1, 3), f"takes {channels} channels; browsers read colour and grey"),
        (file.input.bits != 8, "takes 16 bits; browsers read 8"),
    ):
        if wrong:
            raise ConfigError(f"{os.fspath(model)} {what}")
    content = dict(runtime or runtime_files())
    for path in files("maskconver.serve").joinpath("browser").iterdir():
        content["backend.js" if path.name == "local.js" else path.name] = path.read_bytes()
    for one in PAGE:
        content[one] = files("maskconver.serve").joinpath("page", one).read_bytes()
    about = json.loads(file.to_json()) | ({"name": name} if name else {})
    if (tiles := tiles_of(own, "auto", None)) is not None:
        named = ("tile", "overlap", "align", "canvas", "fixed", "side")
        about["tiles"] = {key: getattr(tiles, key) for key in named} | {"multiple": tiles.input.multiple}
    content["model.json"] = json.dumps(about, ensure_ascii=False).encode()
    size = sum(map(len, content.values()))
    content["model.onnx"] = Path(model).read_bytes()
    digest = hashlib.sha256()
    for key in sorted(content):
        digest.update(key.encode() + hashlib.sha256(content[key]).digest())
    content["sw.js"] = content["sw.js"].replace(b"of the files", digest.hexdigest()[:16].encode())
    for key, data in content.items():
        with atomic_path(Path(folder) / key) as temporary:
            temporary.write_bytes(data)
    return size


def runtime_files(source: str | None = None) -> dict[str, bytes]:
    """What a site needs of onnxruntime-web, by the names there; WebAssembly compressed.

    Args:
        source: a folder with such files, or with those of the npm package; `fetch` downloads the package of
            `VERSION` from npm (33 MB). The installed ones if left out; nothing is then downloaded.

    Raises:
        MaskconverError: they are not there, cannot be fetched, or are not what npm should have sent.
    """
    if source == "fetch":
        return _fetched()
    folder = RUNTIME if source is None else Path(source)
    found = {}
    for key, own in RUNTIME_FILES.items():
        places = (folder / key, folder / own, folder / "dist" / own)
        if (path := next((p for p in places if p.is_file()), None)) is None:
            where = "this installation has no onnxruntime-web" if source is None else f"{source} has no {own}"
            raise MaskconverError(
                where,
                fix=f"`runtime=fetch` downloads version {VERSION} from npm (33 MB), "
                "`runtime=DIR` takes it from a folder",
            )
        found[key] = _packed(key, path.read_bytes()) if path.name != key else path.read_bytes()
    return found


def fetch_runtime(folder: str | os.PathLike[str] = RUNTIME) -> None:
    """Download the runtime's files to a folder (`make web`), unless those of this version are there.

    Raises:
        MaskconverError: they cannot be fetched.
    """
    folder, mark = Path(folder), f"{VERSION} {SHA512}\n"
    note = folder / "version.txt"
    if note.is_file() and note.read_text() == mark and all((folder / key).is_file() for key in RUNTIME_FILES):
        return
    content = _fetched()
    shutil.rmtree(folder, ignore_errors=True)
    for key, data in {**content, note.name: mark.encode()}.items():
        with atomic_path(folder / key) as temporary:
            temporary.write_bytes(data)


def _fetched() -> dict[str, bytes]:
    try:
        with urlopen(ARCHIVE, timeout=60) as answer:
            data = answer.read()
    except OSError as error:
        raise MaskconverError(
            f"{ARCHIVE} cannot be downloaded ({one_line(error)})",
            fix="download it elsewhere, unpack it and give `runtime=DIR`",
        ) from None
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != SHA512:
        raise MaskconverError(f"{ARCHIVE} is not the file that it should be (its checksum differs)")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for key, own in RUNTIME_FILES.items():
            member = archive.extractfile(f"package/dist/{own}")
            assert member is not None  # the checksum says so
            found[key] = _packed(key, member.read())
    return found


def _packed(key: str, data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0) if key.endswith(".gz") else data
