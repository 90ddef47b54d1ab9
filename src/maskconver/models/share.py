"""Shares a model: its file and card in a folder, or uploaded to the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConfigError
from .base import SegmentationModel
from .checkpoint import save
from .hub import FILE, reached

CARD = "README.md"
CURVE_ROWS = 12  # of the card; of longer curves every few are left out


def save_pretrained(
    model: SegmentationModel, folder: str | os.PathLike[str], run: str | os.PathLike[str] | None = None
) -> None:
    """Writes model file and card into a folder, as `push_to_hub` uploads them.

    Example:
        >>> import maskconver as mc
        >>> mc.save_pretrained(mc.load("nuclei"), "shared")

    Args:
        model: what is shared.
        folder: made if it is not there.
        run: the folder of the training, whose recipe and figures the card then tells.

    Raises:
        ConfigError: `run` is no folder of a training.
    """
    _save(model, Path(folder), str(folder), run)


def push_to_hub(
    model: SegmentationModel,
    repository: str,
    *,
    run: str | os.PathLike[str] | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Uploads a model with its card; a new repository is made if there is none.

    Example:
        >>> import maskconver as mc
        >>> mc.push_to_hub(mc.load("nuclei"), "user/name")  # doctest: +SKIP

    Args:
        model: what is shared.
        repository: `user/name`.
        run: the folder of the training, whose recipe and figures the card then tells.
        private: of a new repository.
        token: as of huggingface_hub; the one of `hf auth login` if left out.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: `run` is no folder of a training.
        CheckpointError: the Hub refuses or cannot be reached.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token, library_name="maskconver", library_version=__version__)
    with tempfile.TemporaryDirectory() as folder:
        _save(model, Path(folder), repository, run)

        def upload() -> str:
            url = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload the model")
            return str(url)

        return reached(upload, repository)


def _save(model: SegmentationModel, folder: Path, name: str, run: str | os.PathLike[str] | None) -> None:
    recipe, curve = _of_run(Path(run)) if run else ("", [])
    extra = {"recipe": recipe, "metrics": curve[-1]} if curve else {"recipe": recipe} if recipe else {}
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / FILE, extra=extra)
    (folder / CARD).write_text(card(model, name, recipe, curve=curve), encoding="utf-8")


def _of_run(run: Path) -> tuple[str, list[dict[str, Any]]]:
    """Recipe and evaluations of a training."""
    try:
        recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
        curve = run / "curve.jsonl"
        lines = curve.read_text(encoding="utf-8").splitlines() if curve.is_file() else []
        return recipe, [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'"{run}" is not the folder of a training ({error}); give the `out` of one'
        ) from error


def card(
    model: SegmentationModel, name: str, recipe: str = "", *, curve: list[dict[str, Any]] | None = None
) -> str:
    """The card of a model: what it is, how well it does and how to use it, in the Hub's Markdown.

    Args:
        model: what the card is about.
        name: the repository or folder people will type.
        recipe: YAML of the training.
        curve: evaluations, oldest first; figures in 0…1 by name, and `step`.
    """
    own, parameters = model.input, sum(p.numel() for p in model.parameters())
    size = f"scaled to fit {own.size[0]}×{own.size[1]}" if own.mode == "fit" else "at their own size"
    about = f"{parameters / 1e6:.2f} M parameters, takes images {size}"
    parts = [
        "---\nlibrary_name: maskconver\npipeline_tag: image-segmentation\n"
        "tags:\n- panoptic-segmentation\n- image-segmentation\n---\n",
        f"# {name.rstrip('/').rpartition('/')[2]}\n",
        f"`{model.name or type(model).__name__}` of maskconver {__version__}: {about}.\n",
        "## Use\n",
        f'```python\nimport maskconver as mc\n\nprint(mc.Predictor("{name}")("image.jpg"))\n```\n',
        f'```bash\npip install "maskconver[train]"\nmaskconver predict {name} image.jpg --overlay\n'
        f"maskconver export {name} --to onnx --out model.onnx\n```\n",
    ]
    if curve:
        parts += [
            "## Figures\n",
            f"Measured in training on its validation split, in percent.\n\n{_table(curve)}\n",
        ]
    if model.categories:
        rows = "\n".join(
            f"| {c.id} | {c.name} | {'thing' if c.is_thing else 'stuff'} |" for c in model.categories
        )
        parts += [f"## Categories\n\n| id | name | |\n|---|---|---|\n{rows}\n"]
    if recipe:
        parts += [f"## Recipe\n\n```yaml\n{recipe.rstrip()}\n```\n"]
    return "\n".join(parts)


def _table(curve: list[dict[str, Any]]) -> str:
    names = [name for name in curve[-1] if name != "step"]
    chosen = curve[len(curve) - 1 :: -max(-(-len(curve) // CURVE_ROWS), 1)][::-1]
    head = " | ".join(["step", *(name.removeprefix("val/") for name in names)])
    lines = [" | ".join([str(row.get("step", "")), *(_percent(row.get(n)) for n in names)]) for row in chosen]
    return "\n".join(f"| {line} |" for line in (head, "|".join(["---"] * (len(names) + 1)), *lines))


def _percent(value: float | None) -> str:
    """A figure in 0…1 for the card; nothing where there is none, as things' PQ on stuff alone."""
    return "" if value is None else f"{100 * value:.1f}"
