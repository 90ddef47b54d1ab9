"""The image and the printed lines of the README: what the bundled model finds on generated cells.

Run: .venv/bin/python docs/images/make_cells.py
"""

from pathlib import Path

from PIL import Image

import maskconver as mc

ENLARGED = 2  # so that borders are seen


def main() -> None:
    """Writes `cells.jpg` beside this file: each image to the left of its segments."""
    predictor = mc.Predictor("nuclei")
    rows = []
    for seed in (7, 1):
        sample = mc.data.synthesize("cells", size=(256, 320), seed=seed)
        seg = predictor(sample.image)
        print(seg)
        print(seg.ids.shape, seg.segments[0])
        rows.append([Image.fromarray(sample.image), seg.draw()])
    width, height = rows[0][0].size
    page = Image.new("RGB", (2 * width, len(rows) * height))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            page.paste(image, (x * width, y * height))
    page = page.resize((page.width * ENLARGED, page.height * ENLARGED), Image.Resampling.BICUBIC)
    page.save(Path(__file__).with_name("cells.jpg"), quality=85)


if __name__ == "__main__":
    main()
