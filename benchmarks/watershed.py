"""What ten lines of classic image processing make of cell nuclei: the baseline a network has to beat.

Run: .venv/bin/pip install scikit-image
     .venv/bin/python benchmarks/watershed.py --data DIR --split val --by image_type

An image is made grey, and inverted where its background is bright. Pixels above Otsu's threshold are nuclei.
Touching ones are cut apart by a watershed of the distance to the background, started at its local maxima.
Nothing is learned, and the two settings (least distance of two maxima, least area) are the same everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from harness import arguments, instances_table
from maskconver.data.open import open_dataset


def nuclei(image: NDArray[np.uint8], distance: int, smallest: int) -> NDArray[np.int32]:
    """H×W int32: 1…n the nuclei of an H×W×3 uint8 image, 0 the background.

    Args:
        image: RGB.
        distance: least distance of two nuclei's middles, in pixels.
        smallest: nuclei of fewer pixels are left out.
    """
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.segmentation import watershed

    grey = gaussian(image.mean(2), 1, preserve_range=True)
    if grey.min() == grey.max():
        return np.zeros(grey.shape, np.int32)
    if np.median(grey) > (grey.min() + grey.max()) / 2:
        grey = -grey
    inside = ndimage.binary_fill_holes(grey > threshold_otsu(grey))
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 1)
    starts = np.zeros(grey.shape, np.int32)
    peaks = peak_local_max(
        depth, min_distance=distance, labels=ndimage.label(inside)[0], exclude_border=False
    )
    starts[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    found = watershed(-depth, starts, mask=inside).astype(np.int32)
    areas = np.bincount(found.ravel())
    found[areas[found] < smallest] = 0
    return found


def main() -> None:
    """Prints the table."""
    parser = arguments(__doc__)
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--split", default="val", help="which split of it")
    parser.add_argument("--by", help="a key of images[] to group by, e.g. image_type")
    parser.add_argument("--distance", type=int, default=5, help="least distance of two middles in pixels")
    parser.add_argument("--smallest", type=int, default=20, help="least area of a nucleus in pixels")
    args = parser.parse_args()
    data = open_dataset(args.data, args.split)
    instances_table(data, args.by, lambda image: nuclei(image, args.distance, args.smallest))


if __name__ == "__main__":
    main()
