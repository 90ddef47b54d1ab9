"""Draw what a recipe trains on: augmented images, the masks to learn, and the heatmaps of centres.

Each row is one training example as the network sees it. Left: the augmented image. Middle: the masks that are
learned, with a cross at every centre; striped pixels do not count in the losses. Right (MaskConver): the
heatmaps that are learned, things red and stuff blue. Look at it first when you use new data.

Example: maskconver figure targets --config start --data my_data --png targets.png

It takes all options of `maskconver train`, for example --data.targets.stuff global.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from .. import train
from . import add_png, require_png

if TYPE_CHECKING:
    from jsonargparse import Namespace

prepare = train.prepare


def configure(parser: Any) -> None:
    """The fields of the recipe, and what is drawn."""
    train.configure(parser)
    parser.usage = (
        "maskconver figure targets --config RECIPE --data DIR [--png FILE] [any field of the recipe]"
    )
    parser.add_argument("--count", type=int, default=4, help="number of training examples to draw")
    add_png(parser, "targets.png")


def run(args: Namespace) -> int:
    """Runs `maskconver figure targets`."""
    path = require_png(args.png)
    if args.count < 1:
        raise ConfigError(f"--count {args.count}: draw at least one example")
    from ...core.files import atomic_path
    from ...training.examples import draw_examples

    sheet = draw_examples(train.config_of(args), args.count)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")
    print(f"figure: {path} ({sheet.width}×{sheet.height} px)")
    return 0
