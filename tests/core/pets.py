"""Two small results that tests look at."""

import numpy as np

from maskconver.core.categories import Categories, Category
from maskconver.core.segmentation import Segmentation

CATEGORIES = Categories(
    [
        Category(7, "cat", True, (220, 20, 60)),
        Category(9, "dog", True, (0, 120, 220)),
        Category(200, "grass", False, (40, 160, 40)),
    ]
)
IDS = np.array([[0, 1, 1, 3], [2, 1, 1, 3], [2, 2, 0, 3]])


def small(**changes) -> Segmentation:
    values = {"labels": [0, 0, 2], "scores": [0.9, 0.6, 0.5], "file_name": "a/pet.jpg"}
    return Segmentation.from_ids(IDS, CATEGORIES, **(values | changes))


def large(size=(240, 320), **changes) -> Segmentation:
    """Four rectangles on grass, as large as `size`."""
    height, width = size
    ids = np.full(size, 5)
    for number in range(4):
        y, x = divmod(number, 2)
        top, left = height // 10 + y * height // 2, width // 10 + x * width // 2
        ids[top : top + height // 3, left : left + width // 3] = number + 1
    image = np.full((*size, 3), 128, np.uint8)
    return Segmentation.from_ids(ids, CATEGORIES, labels=[0, 0, 1, 0, 2], image=image, **changes)
