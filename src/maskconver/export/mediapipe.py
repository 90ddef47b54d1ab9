"""What MediaPipe's `ImageSegmenter` reads of a `.tflite` file: kind of input and output, names of classes.

The tables are those of TFLite's `metadata_schema.fbs` and MediaPipe's `image_segmenter_metadata_schema.fbs`.
Their fields are known by number only, so the numbers below are the order of the fields there.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from ..inference.exported import Exported

KEY = "TFLITE_METADATA"
LABELS = "labels.txt"
IMAGE, AXIS_LABELS = 2, 2  # of ContentProperties, AssociatedFileType
RGB, GRAYSCALE = 1, 2


def segmenter_metadata(description: Exported) -> bytes:
    """The buffer `TFLITE_METADATA` of a file with `output="semantic"`.

    Args:
        description: of the file, which takes bytes: MediaPipe knows but one mean and deviation for all
            channels, so nothing is said about normalisation.
    """
    import flatbuffers

    b = flatbuffers.Builder(1024)
    image = _table(b, 2, {}, {0: RGB if description.input.channels == 3 else GRAYSCALE})
    content = _table(b, 2, {0: _table(b, 2, {1: image}, {0: IMAGE})})
    given = _table(b, 7, {0: b.CreateString("image"), 3: content})
    labels = _table(b, 5, {0: b.CreateString(LABELS)}, {2: AXIS_LABELS})
    result = _table(b, 7, {0: b.CreateString("segmentation_masks"), 6: _vector(b, [labels])})
    custom = _table(b, 2, {0: b.CreateString("SEGMENTER_METADATA"), 1: _segmenter_options(b)})
    graph = _table(b, 10, {2: _vector(b, [given]), 3: _vector(b, [result]), 9: _vector(b, [custom])})
    names = b.CreateString(description.name or "model"), b.CreateString(description.version)
    b.Finish(_table(b, 8, {0: names[0], 2: names[1], 3: _vector(b, [graph])}), b"M001")
    return bytes(b.Output())


def with_labels(content: bytes, names: Sequence[str]) -> bytes:
    """A file with the names of its classes behind it, a line each, as a ZIP archive without compression."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        lines = "".join(" ".join(name.split()) + "\n" for name in names)
        archive.writestr(zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0)), lines)
    return file.getvalue()


def _segmenter_options(b: Any) -> int:
    """`ImageSegmenterOptions` in a buffer of its own: no activation, which is its default."""
    import flatbuffers

    own = flatbuffers.Builder(64)
    own.Finish(_table(own, 2, {}), b"V001")
    data = bytes(own.Output())
    b.StartVector(1, len(data), 16)
    for value in reversed(data):
        b.PrependByte(value)
    return int(b.EndVector())


def _table(b: Any, length: int, offsets: Mapping[int, int], small: Mapping[int, int] = {}) -> int:
    """A table of so many fields: those that lie elsewhere, and enumerations of a byte."""
    b.StartObject(length)
    for field, value in offsets.items():
        b.PrependUOffsetTRelativeSlot(field, value, 0)
    for field, value in small.items():
        b.PrependUint8Slot(field, value, 0)
    return int(b.EndObject())


def _vector(b: Any, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())
