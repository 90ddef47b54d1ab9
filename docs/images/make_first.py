"""The image and the printed lines of the README: what the bundled models find in generated images.

Run: .venv/bin/python docs/images/make_first.py
"""

from pathlib import Path

from PIL import Image

import maskconver as mc

ROWS = (("nuclei", "cells", 7), ("facade", "houses", 5))  # model, style of the generated image, seed
SIZE = (512, 640)


def main() -> None:
    """Writes `first.jpg` beside this file: each image to the left of its segments."""
    page = Image.new("RGB", (2 * SIZE[1], len(ROWS) * SIZE[0]))
    for row, (model, style, seed) in enumerate(ROWS):
        # Cells are drawn at half the size and enlarged, so that their borders are seen.
        size = (256, 320) if style == "cells" else SIZE
        seg = mc.Predictor(model)(mc.data.synthesize(style, size=size, seed=seed).image)
        print(seg)
        print(seg.ids.shape, seg.segments[0])
        for column, image in enumerate((Image.fromarray(seg.image), seg.draw())):
            large = image.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
            page.paste(large, (column * SIZE[1], row * SIZE[0]))
    page.save(Path(__file__).with_name("first.jpg"), quality=85)


if __name__ == "__main__":
    main()
