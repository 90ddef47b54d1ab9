"""A network without weights: what is bright is an object, what is dark is background."""

import numpy as np

from maskconver.core.categories import Categories, Category
from maskconver.core.config import InputConfig, PostprocessConfig
from maskconver.core.proposals import Proposals

CATEGORIES = Categories(
    [Category(3, "cell", True, (220, 60, 60)), Category(8, "ground", False, (40, 40, 40))]
)


def bright_and_dark(images: np.ndarray, stride: int = 4) -> Proposals:
    """Two proposals an image from B×3×h×w canvases: bright things at `stride`, and the rest."""
    b, _, h, w = images.shape
    cells = images.mean(1).reshape(b, h // stride, stride, w // stride, stride).mean((2, 4))
    logits = 20 * (cells - 0.5)
    return Proposals(
        np.tile(np.float32([0.9, 0.8]), (b, 1)),
        np.tile(np.int64([0, 1]), (b, 1)),
        np.stack([logits, -logits], 1).astype(np.float32),
    )


class FakeRuntime:
    """Fulfils `maskconver.inference.predictor.Runtime` and remembers the shapes it was called with."""

    def __init__(self, mode: str = "fit", size: tuple[int, int] = (64, 64), scale: float = 1.0) -> None:
        self.input = InputConfig(mode, size, scale, 16, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.postprocess = PostprocessConfig(min_area=0.0, overlap_threshold=0.5)
        self.categories = CATEGORIES
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray) -> Proposals:
        self.shapes.append(images.shape)
        return bright_and_dark(images)


def bright_image(height: int = 60, width: int = 90) -> np.ndarray:
    """Black with one bright rectangle, H×W×3 uint8."""
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 6 : height // 2, width // 3 : width * 5 // 6] = 255
    return image
