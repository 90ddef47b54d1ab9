"""Runs exported ONNX files with ONNX Runtime and NumPy, without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import CheckpointError, ConfigError, MissingExtraError, one_line
from .exported import INPUT, KEY, OUTPUTS, Exported, FileRuntime, operator_threads, require_file

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(FileRuntime):
    """A file written by `maskconver export --to onnx`; see `Runtime` for the attributes.

    Args:
        path: the file.
        device: `cpu` or `cuda`; the CPU if left out.
        proposals: number of masks per image, at most as many as the file gives; all of them if left out.
        threads: of one operator; if left out, `OMP_NUM_THREADS` or, where the process may not use all cores,
            the number of those it may use.

    Raises:
        CheckpointError: no such file, or not one that `maskconver export` wrote.
        ConfigError: a device that is not there, or more proposals than the file gives.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str | None = None,
        proposals: int | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        require_file(path)
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError(f'running "{os.fspath(path)}"', "onnx") from error
        provider = _provider(onnxruntime, device)
        self._session = _session(onnxruntime, path, provider, threads)
        file = Exported.from_json(self._session.get_modelmeta().custom_metadata_map.get(KEY), path)
        if file.quantize == "int8":  # as is known only now
            self._session = _session(onnxruntime, path, provider, threads, integers=True)
        super().__init__(path, file, proposals)
        given = [(i.name, i.type) for i in self._session.get_inputs()]
        expected = (INPUT, "tensor(uint8)" if file.uint8 else "tensor(float)")
        self._require(given, expected, [o.name for o in self._session.get_outputs()])

    def _answer(self, canvas: NDArray[Any]) -> list[NDArray[Any]]:
        answer: list[NDArray[Any]] = self._session.run(OUTPUTS[self.file.output], {INPUT: canvas})
        return answer


def _provider(onnxruntime: Any, device: str | None) -> str:
    kind = (device or "cpu").partition(":")[0]
    there = [k for k, name in PROVIDERS.items() if name in onnxruntime.get_available_providers()]
    if kind not in there:
        raise ConfigError(f'device "{device}" cannot run ONNX files here; there is {", ".join(there)}')
    return PROVIDERS[kind]


def _session(
    onnxruntime: Any,
    path: str | os.PathLike[str],
    provider: str,
    threads: int | None,
    integers: bool = False,
) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = operator_threads() if threads is None else threads
    options.log_severity_level = 3  # errors only; they are raised as well
    if integers and not _has_dot_products():  # no saturation of 16-bit sums, at twice the time
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not integers:  # weights of 8 bits are made floating point once, when the file is opened
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's errors have no common class but this one
        reason = one_line(error)
        raise CheckpointError(f"{path} is not an ONNX file that can be run ({reason})") from error


def _has_dot_products() -> bool:
    """Whether the processor is known to multiply and add bytes into 32 bits; only Linux tells."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
