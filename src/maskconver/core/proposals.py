"""`Proposals`: N scored masks per image, from any network; what everything after the network works on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ConfigError, MaskconverError
from .files import MAX_PIXELS

NOTHING = 80.0  # a logit that leaves nothing to others, in float32


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the network input lies on the original image.

    The image was resized by `scale` and lies top left; pixels of the network input beyond it are padding.

    Attributes:
        image_size: (height, width) of the original image in pixels; the size of the result.
        canvas_size: (height, width) of the network input in pixels.
        scale: (y, x) scaled size / original size.
    """

    image_size: tuple[int, int]
    canvas_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)

    def of_side(self, side: int | None) -> Geometry:
        """The geometry for a result with that longer side in pixels; None keeps the image's own size.

        Raises:
            ConfigError: the side is not positive, or the result would have more than `MAX_PIXELS`.
        """
        if side is None:
            return self
        if side < 1:
            raise ConfigError(f"output_side must be a number of pixels, at least 1, not {side}")
        longer = max(self.image_size)
        height, width = (max(round(n * side / longer), 1) for n in self.image_size)
        if side > longer and height * width > MAX_PIXELS:
            raise ConfigError(
                f"`output_side={side}` gives more than {MAX_PIXELS:,} pixels; choose a smaller one"
            )
        scale = (
            self.scale[0] * self.image_size[0] / height,
            self.scale[1] * self.image_size[1] / width,
        )
        return replace(self, image_size=(height, width), scale=scale)


@dataclass(slots=True)
class Proposals:
    """N scored masks for each of B images, sorted by score, highest first.

    Arrays are NumPy arrays or torch tensors, all of one kind.

    Attributes:
        scores: (B, N) float32 in 0…1.
        labels: (B, N) int64 in 0…C-1; -1 means void.
        mask_logits: (B, N, h, w) float32.
        class_logits: (B, N, C+1) float32 or None; the last column is "no object".
        geometry: one `Geometry` per image, or empty if the masks are wanted at the size of the network input.
    """

    scores: Any
    labels: Any
    mask_logits: Any
    class_logits: Any | None = None
    geometry: tuple[Geometry, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def numpy(self) -> Proposals:
        """The same on the CPU as NumPy arrays (float32, int64)."""

        def convert(value: Any) -> Any:
            if value is None or isinstance(value, np.ndarray):
                return value
            value = value.detach()
            return (value.float() if value.is_floating_point() else value).cpu().numpy()

        return Proposals(
            convert(self.scores),
            convert(self.labels),
            convert(self.mask_logits),
            convert(self.class_logits),
            self.geometry,
        )


def is_finite(values: Any) -> bool:
    """Whether an array or tensor holds neither NaN nor infinite values; one or two passes, no memory."""
    if isinstance(values, np.ndarray):
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):  # only a sum that is not finite says nothing: large values overflow
                return True
    return not np.prod(values.shape) or bool(np.isfinite([float(values.min()), float(values.max())]).all())


def non_finite_error(what: str) -> MaskconverError:
    """The error that says so, of `what`: scores, mask logits."""
    return MaskconverError(
        f"the network's {what} hold NaN or infinite values; run it in float32, use weights that did not "
        'diverge, or discard such proposals with non_finite="drop"'
    )


def without_non_finite(proposals: Proposals) -> Proposals:
    """The same number of proposals, as NumPy arrays; those with NaN or infinite values say nothing."""
    own = proposals.numpy()
    bad = ~(np.isfinite(own.scores) & np.isfinite(own.mask_logits).all((2, 3)))
    classes = own.class_logits
    if classes is not None:
        bad |= ~np.isfinite(classes).all(-1)
        nothing = np.append(np.zeros(classes.shape[-1] - 1, np.float32), np.float32(NOTHING))
        classes = np.where(bad[..., None], nothing, classes)
    masks = np.where(bad[..., None, None], np.float32(-NOTHING), own.mask_logits)
    return replace(own, scores=np.where(bad, 0, own.scores), mask_logits=masks, class_logits=classes)
