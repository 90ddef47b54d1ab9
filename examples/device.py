"""Segments one image with an exported file, its runtime, NumPy and Pillow: all that a small device needs.

The file: maskconver export MODEL --output panoptic --uint8 --to onnx (or litert)
Run: python device.py model.onnx image.jpg ids.png
Needs: pip install onnxruntime numpy pillow (or ai-edge-litert instead of onnxruntime)
"""

import json
import sys

import numpy as np
from PIL import Image


def open_onnx(path):
    """What the file says about itself, and a function from its input to its three outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    about = json.loads(session.get_modelmeta().custom_metadata_map["maskconver"])
    return about, lambda pixels: session.run(["ids", "segments", "scores"], {"images": pixels})


def open_tflite(path):
    """The same for LiteRT."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.schema_py_generated import Model

    with open(path, "rb") as file:  # noqa: PTH123
        model = Model.GetRootAs(file.read(), 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (own,) = (entry for entry in entries if entry.Name() == b"maskconver")
    about = json.loads(bytes(model.Buffers(own.Buffer()).DataAsNumpy()))
    run = Interpreter(path).get_signature_runner()
    return about, lambda pixels: [run(images=pixels)[name] for name in ("ids", "segments", "scores")]


def read_taps(length, target):
    """For each of `target` places of a resized axis: two neighbours in the source and the second's share."""
    at = np.clip((np.arange(target) + 0.5) * length / target - 0.5, 0, length - 1)
    low = at.astype(int)
    return low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32)


def to_canvas(image, about):
    """H×W×3 bytes, scaled to fit the input and padded right and below; and its size without padding."""
    height, width = about["size"]
    scale = min(height / image.shape[0], width / image.shape[1])
    h, w = (max(round(n * scale), 1) for n in image.shape[:2])
    pixels = image.astype(np.float32)
    if about["input"]["stretch"] == "percentile":  # models for microscopes
        low, high = np.percentile(image, about["input"]["percentiles"])
        pixels = np.clip((pixels - low) * (255 / max(high - low, 1)), 0, 255)
    top, bottom, share = read_taps(image.shape[0], h)
    pixels = pixels[top] + (pixels[bottom] - pixels[top]) * share[:, None, None]
    left, right, share = read_taps(image.shape[1], w)
    pixels = pixels[:, left] + (pixels[:, right] - pixels[:, left]) * share[:, None]
    canvas = np.empty((1, height, width, 3), np.uint8)
    canvas[:] = np.round(255 * np.array(about["input"]["mean"]))
    canvas[0, :h, :w] = np.round(pixels)
    return canvas, (h, w)


def segment(path, image):
    """The ids of an image, H×W int32 with 0 for void, and its segments (id, name, score, pixels)."""
    about, run = (open_onnx if path.endswith(".onnx") else open_tflite)(path)
    if about["output"] != "panoptic" or not about["uint8"]:
        sys.exit(f"{path} was exported without --output panoptic or without --uint8")
    canvas, (h, w) = to_canvas(image, about)
    ids, segments, scores = (output[0] for output in run(canvas))
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(image.shape, (h, w)))
    ids = ids[rows][:, columns]  # each pixel of the image from the nearest of the canvas
    names = [category["name"] for category in about["categories"]]
    table = [(i, names[label], float(s)) for (i, label, _), s in zip(segments.tolist(), scores) if i]
    return ids, [(*row, int((ids == row[0]).sum())) for row in table]


if __name__ == "__main__":
    source = np.asarray(Image.open(sys.argv[2]).convert("RGB"))
    found, rows = segment(sys.argv[1], source)
    for number, name, score, pixels in rows:
        print(f"{number:4} {name:20} {score:.2f} {pixels} px")
    Image.fromarray(found.astype(np.uint16)).save(sys.argv[3])
