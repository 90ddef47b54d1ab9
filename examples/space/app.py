"""A Hugging Face Space: segments of an image, with thresholds to play with.

Run on your own machine: pip install gradio "maskconver[onnx]" && python app.py

MODEL can name any bundled model, or an exported .onnx file that lies beside this one.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

import maskconver as mc

MODEL = os.environ.get("MODEL", "nuclei")
MAX_PIXELS = 4_000_000  # of an image; larger ones are refused
COLUMNS = ["class", "segments", "mean score", "area, pixels"]


@lru_cache(maxsize=1)
def load() -> mc.Predictor:
    """The model, loaded when it is first needed."""
    return mc.Predictor(MODEL, tile=None)


def segment(
    image: np.ndarray | None, score: float = 0.4, overlap: float = 0.5
) -> tuple[np.ndarray | None, list[list[Any]]]:
    """An overlay H×W×3 and a row for each class.

    Args:
        image: H×W×3 uint8, or None where there is none yet.
        score, overlap: thresholds from 0 to 1.
    """
    if image is None:
        return None, []
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ValueError(f"the image has more than {MAX_PIXELS:,} pixels")
    predictor = load()
    proposals = predictor.proposals(image)
    config = replace(predictor.postprocess, score_threshold=score, overlap_threshold=overlap)
    result = predictor.segmentations(proposals, config)[0]
    rows = []
    for name in dict.fromkeys(s.category for s in result):
        own = [s for s in result if s.category == name]
        mean = sum(s.score for s in own) / len(own)
        rows.append([name, len(own), round(mean, 2), sum(s.area for s in own)])
    return np.asarray(result.draw(image)), rows


def interface() -> Any:
    """The page."""
    import gradio as gr

    def told(
        image: np.ndarray | None, score: float, overlap: float
    ) -> tuple[np.ndarray | None, list[list[Any]]]:
        try:
            return segment(image, score, overlap)
        except (ValueError, mc.MaskconverError) as error:  # the page shows it
            raise gr.Error(str(error), print_exception=False) from None

    return gr.Interface(
        told,
        [
            gr.Image(type="numpy", label="Image"),
            gr.Slider(0, 1, value=0.4, step=0.01, label="Score threshold"),
            gr.Slider(0, 1, value=0.5, step=0.01, label="Overlap threshold"),
        ],
        [gr.Image(label="Segments", format="png"), gr.Dataframe(headers=COLUMNS, label="Classes")],
        title="maskconver",
        description="Panoptic segmentation of an image.",
        api_name="segment",
    )


if __name__ == "__main__":
    interface().launch()
