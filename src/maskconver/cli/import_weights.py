"""Turn published weights into a model file of this package.

Example: maskconver import-weights kmax kmax_r50.pth --out kmax_r50.safetensors

`kmax` reads checkpoints of the official kMaX-DeepLab PyTorch code (ResNet-50, ConvNeXt-T and -S). The sizes
of the model are read from the file. With 133 classes, the names are COCO's; otherwise --categories names a
panoptic JSON file whose categories stand in the order of the file's class channels. Network input and
thresholds are those published for Cityscapes (19 classes), ADE20K (150 classes) or COCO (any other number).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from ..core.categories import Categories


def configure(parser: ArgumentParser) -> None:
    """Adds the arguments of `maskconver import-weights`."""
    parser.add_argument("kind", type=str, help="where the weights come from: kmax")
    parser.add_argument("file", type=str, help="published checkpoint (.pth or .safetensors)")
    parser.add_argument("--out", type=str, required=True, help="model file to write (.safetensors)")
    parser.add_argument(
        "--categories", type=str, default=None, help="panoptic JSON file with the names of the classes"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Runs `maskconver import-weights`."""
    from ..errors import ConfigError
    from ..models.checkpoint import save
    from ..models.inspect import count_parameters
    from ..models.registry import families
    from .options import require_ending

    require_ending("out", args.out, ".safetensors")
    importers = {family.name: family.importer for family in families() if family.importer}
    if args.kind not in importers:
        raise ConfigError(f'no published weights of kind "{args.kind}"; there are {", ".join(importers)}')
    model, report = importers[args.kind](args.file, _categories(args.categories))
    save(model.eval(), args.out)
    parameters = count_parameters(model, trainable=True)
    if args.json:
        row = {"model": model.name, "classes": model.num_classes, "parameters": parameters, "out": args.out}
        print(json.dumps({**row, "loaded": len(report.loaded), "unused": report.unexpected}))
    else:
        height, width = model.input.size
        print(
            f"{model.name}, {model.num_classes} classes, {parameters / 1e6:.3f} M parameters, "
            f"network input {height}×{width}: {report}"
        )
        print(f"wrote {args.out}")
    return 0


def _categories(path: str | None) -> Categories | None:
    from ..core.categories import Categories
    from ..core.files import require_content
    from ..errors import ConfigError, DataError

    if path is None:
        return None
    require_content(path, "a list of categories", ConfigError)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return Categories.from_json(json.loads(text)["categories"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError) as error:
        raise ConfigError(f'--categories {path}: no JSON file with a "categories" list ({error})') from error
