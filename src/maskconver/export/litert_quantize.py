"""A LiteRT file with its weights in 16 or 8 bits, or calculating in 8 bits, by ai-edge-quantizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.exported import INPUT, Exported
from ..inference.silence import quiet
from .network import calibration_feeds

SIGNATURE = "serving_default"
# What calculates in 8 bits: backbone, decoder and heads, but for the last convolution of each head; see
# `FLOAT_LAYER`, which names it in ONNX.
PARTS = r"(backbone|decoder|_head)"
FLOAT = r"_head/[^;]*Conv2d_out[;_]"
OPERATIONS = (
    "CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MUL", "CONCATENATION", "MEAN", "AVERAGE_POOL_2D", "MAX_POOL_2D",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "PAD", "RESHAPE", "TRANSPOSE", "LOGISTIC", "SLICE",
)  # fmt: skip


def quantize_litert(
    content: bytes, file: Exported, calibration: Sequence[NDArray[np.uint8]] | None = None
) -> bytes:
    """A float file in the precision that its description says.

    Args:
        content: of the float file, with the names of the modules at its tensors.
        file: the description; `quantize` counts.
        calibration: H×W×3 uint8 images, for `int8`.
    """
    if file.quantize == "none":
        return content
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    names, everything = qtyping.TFLOperationName, qtyping.TFLOperationName.ALL_SUPPORTED
    work = quantizer.Quantizer(bytearray(content))
    measured = None
    with quiet():
        if file.quantize == "fp16":
            config = qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(
                    num_bits=16, dtype=qtyping.TensorDataType.FLOAT
                ),
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            )
            cast = algorithm_manager.AlgorithmName.FLOAT_CASTING
            work.update_quantization_recipe(".*", everything, config, cast)
        elif file.quantize == "int8-weights":
            work.add_weight_only_config(".*", everything, num_bits=8)
        else:
            for name in OPERATIONS:
                work.add_static_config(PARTS, names[name], activation_num_bits=8, weight_num_bits=8)
            keep = algorithm_manager.AlgorithmName.NO_QUANTIZE
            work.update_quantization_recipe(FLOAT, everything, algorithm_key=keep)
            measured = _ranges(work, file, calibration or ())
        done = work.quantize(measured, enable_progress_bar=False, enable_progress_report=False)
    return bytes(done.quantized_model)


def _ranges(work: Any, file: Exported, images: Sequence[NDArray[np.uint8]]) -> Any:
    """Least and greatest value of every tensor on the images."""

    class Feeds:  # gone through twice, the first time to count
        def __len__(self) -> int:
            return len(images)

        def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
            return ({INPUT: fed} for fed in calibration_feeds(images, file, channels_last=True))

    return work.calibrate({SIGNATURE: Feeds()}, num_threads=1)
