"""The browser's JavaScript modules, run by node."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import maskconver

NODE = shutil.which("node")
MODULES = Path(maskconver.__file__).parent / "serve" / "browser"
RUN = Path(__file__).with_name("serve") / "run.mjs"
KINDS = {"f": ("Float32Array", np.float32), "i": ("Int32Array", np.int32), "u": ("Uint8Array", np.uint8)}


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        name, dtype = KINDS[value.dtype.kind]
        data = np.ascontiguousarray(value, dtype).tobytes()
        return {"type": name, "data": base64.b64encode(data).decode()}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value))


def _decoded(value: dict[str, Any]) -> Any:
    dtypes = dict(KINDS.values())
    if value.get("type") in dtypes:
        return np.frombuffer(base64.b64decode(value["data"]), dtypes[value["type"]])
    return value


def call_all(module: str, name: str, cases: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """One function of a module on each case, in one process: its `answer`, and the `ms` it took."""
    lines = [json.dumps({"module": module, "name": name, "given": c}, default=_encoded) for c in cases]
    done = subprocess.run(
        [NODE or "node", str(RUN), str(MODULES)], input="\n".join(lines), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line, object_hook=_decoded) for line in done.stdout.splitlines()]
