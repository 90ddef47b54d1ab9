"""What the server says about itself: the model, counters, and the interface as an OpenAPI document."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .. import __version__
from ..inference.predictor import Predictor
from .session import Session, adjustable

FORMATS = ("json", "coco", "png", "overlay", "csv", "geojson", "labelme")
OUTLINES = ("geojson", "labelme")
THRESHOLDS = {"score_threshold": 1.0, "overlap_threshold": 1.0, "min_area": 1.0}


def formats(predictor: Predictor) -> list[str]:
    """The formats of an answer; with `output_side` no outlines, which belong on the image itself."""
    return [form for form in FORMATS if predictor.output_side is None or form not in OUTLINES]


def model_content(predictor: Predictor, name: str) -> dict[str, Any]:
    """The answer of `/v1/model`."""
    thresholds = {key: getattr(predictor.postprocess, key) for key in THRESHOLDS}
    return {
        "name": name,
        "version": __version__,
        "runtime": repr(predictor.runtime),
        "categories": predictor.categories.to_json(),
        "thresholds": thresholds if adjustable(predictor) else {},
        "max_pixels": predictor.max_pixels,
        "formats": formats(predictor),
    }


def metrics_text(session: Session, statuses: Counter[int]) -> str:
    """The answer of `/metrics`, in Prometheus' text format."""
    lines = ["# TYPE maskconver_requests_total counter"]
    lines += [f'maskconver_requests_total{{status="{code}"}} {n}' for code, n in sorted(statuses.items())]
    lines += ["# TYPE maskconver_images_total counter", f"maskconver_images_total {session.images}"]
    lines += ["# TYPE maskconver_waiting gauge", f"maskconver_waiting {session.waiting}"]
    lines.append("# TYPE maskconver_seconds_total counter")
    lines += [f'maskconver_seconds_total{{stage="{s}"}} {v:.6f}' for s, v in sorted(session.seconds.items())]
    return "\n".join(lines) + "\n"


def openapi_content(predictor: Predictor, max_bytes: int) -> dict[str, Any]:
    """The answer of `/openapi.json`."""
    number = {"type": "number", "minimum": 0, "maximum": 1}
    about = {
        "score_threshold": "discard proposals with a score at or below this value",
        "overlap_threshold": "discard a segment that wins no more than this share of its own mask",
        "min_area": "minimum segment area, as a fraction of (longer image side)²",
    }
    parameters = [
        {"name": n, "in": "query", "schema": number, "description": text} for n, text in about.items()
    ]
    parameters += [
        {
            "name": "format",
            "in": "query",
            "schema": {"type": "string", "enum": formats(predictor), "default": "json"},
        },
        {
            "name": "token",
            "in": "query",
            "schema": {"type": "string"},
            "description": "an earlier answer's token: post-process that image again, without a body",
        },
        {
            "name": "name",
            "in": "query",
            "schema": {"type": "string", "default": "image.png"},
            "description": "what the format labelme calls the image file",
        },
    ]
    binary = {"schema": {"type": "string", "format": "binary"}}
    errors = {
        "400": "a parameter or the body is wrong",
        "410": "the image of the token is no longer kept",
        "413": f"more than {max_bytes >> 20} MB, or too many pixels",
        "422": "not an image that can be read",
        "429": "too many requests of one address",
        "503": "too many requests wait",
        "504": "it took too long",
    }
    post = {
        "summary": "Segment an image",
        "parameters": parameters,
        "requestBody": {
            "content": {
                "application/octet-stream": binary,
                "image/*": binary,
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": binary["schema"]}},
                },
            }
        },
        "responses": {
            "200": {"description": "the segments, in the format asked for"},
            **{code: {"description": text} for code, text in errors.items()},
        },
    }

    def get(summary: str) -> dict[str, Any]:
        return {"get": {"summary": summary, "responses": {"200": {"description": summary}}}}

    return {
        "openapi": "3.1.0",
        "info": {"title": "maskconver", "version": __version__},
        "paths": {
            "/v1/segment": {"post": post},
            "/v1/model": get("The model's name, categories and thresholds"),
            "/healthz": get("Whether the server is up"),
            "/metrics": get("Counters for Prometheus"),
        },
    }
