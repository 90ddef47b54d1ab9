"""What an exported file says about itself, whatever its format: how pictures go in, and what comes out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ..core.categories import Categories
from ..core.config import InputConfig, MergeConfig
from ..errors import CheckpointError, DataError

FORMAT = 1  # raised when files of an older package can no longer be read as they are
KEY = "maskconver"  # under which the description stands in a file's own metadata

INPUT = "images"
OUTPUTS = {"proposals": ("scores", "labels", "mask_logits"), "panoptic": ("ids", "segments", "scores")}

Output = Literal["proposals", "panoptic"]
Precision = Literal["none", "fp16", "int8-weights", "int8"]


@dataclass
class Exported:
    """The description inside an exported file, as JSON.

    Attributes:
        name: of the model it was made from.
        version: of the package that wrote it.
        size: (height, width) of the canvas the file takes; None where it takes any.
        multiple: sides of a file that takes any size are multiples of this many pixels.
        proposals: masks an image.
        uint8: the file takes 1×h×w×3 uint8 RGB, not 1×3×h×w float32 normalised.
        quantize: how its weights are stored.
        input: how an image is brought to the canvas.
        merge: the thresholds of the model's answer.
        categories: the label set.
        output: `proposals`, the fields of `Proposals`; or `panoptic`, those of `CanvasMap`: then the merge,
            with the thresholds of `merge`, is in the file.
    """

    name: str
    version: str
    size: tuple[int, int] | None
    multiple: int
    proposals: int
    uint8: bool
    quantize: Precision
    input: InputConfig
    merge: MergeConfig
    categories: Categories
    output: Output = "proposals"

    def to_json(self) -> str:
        """The description as JSON."""
        rows = {name: getattr(self, name) for name in self.__dataclass_fields__}
        text: bytes = msgspec.json.encode({"format": FORMAT, **rows}, enc_hook=Categories.to_json)
        return text.decode()

    @classmethod
    def from_json(cls, text: str | None, path: str | os.PathLike[str]) -> Exported:
        """The description that the file `path` carries.

        Raises:
            CheckpointError: there is none, it is damaged, or of another version.
        """
        if not text:
            raise CheckpointError(
                f"{path} says nothing about its input and categories; it was not written by maskconver export"
            )
        try:
            rows = msgspec.json.decode(text, type=dict[str, Any])
            if rows.pop("format", None) != FORMAT:
                raise CheckpointError(
                    f"{path} was exported by maskconver {rows.get('version')} in another format than this "
                    f"version reads ({FORMAT}); export the model again"
                )
            return msgspec.convert(rows, cls, dec_hook=lambda _, rows: Categories.from_json(rows))
        except (msgspec.MsgspecError, TypeError, KeyError, DataError) as error:
            raise CheckpointError(f"{path} has a damaged description: {error}; export it again") from error
