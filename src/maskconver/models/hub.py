"""Models on the Hugging Face Hub: one repository holds one model file and its card."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import __version__
from ..errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from .registry import Model

FILE, CARD = "model.safetensors", "README.md"
CURVE_ROWS = 12  # of the card; of longer curves every few are left out
T = TypeVar("T")


def is_repository(name: str | os.PathLike[str]) -> bool:
    """Whether a name that is no file can be a repository, `user/name`: its first part is no folder here."""
    text = os.fspath(name)
    looks = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and not text.endswith((".safetensors", ".onnx"))
    return bool(looks) and not Path(text).parent.exists()


def download(repository: str) -> Path:
    """The model file of a repository, fetched unless the Hub's cache has its newest version.

    Raises:
        CheckpointError: no such repository, one without our file, or the Hub cannot be reached.
    """
    import huggingface_hub

    return Path(_reached(lambda: huggingface_hub.hf_hub_download(repository, FILE), repository))


def save_pretrained(
    model: Model, folder: str | os.PathLike[str], run: str | os.PathLike[str] | None = None
) -> None:
    """Writes model file and card into a folder, as `push_to_hub` uploads them.

    Args:
        model: what is shared.
        folder: made if it is not there.
        run: the folder of the training, whose recipe and figures the card then tells.

    Raises:
        ConfigError: `run` is no folder of a training.
    """
    _save(model, Path(folder), str(folder), run)


def push_to_hub(
    model: Model,
    repository: str,
    *,
    run: str | os.PathLike[str] | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Uploads a model with its card; a new repository is made if there is none.

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

        return _reached(upload, repository)


def _save(model: Model, folder: Path, name: str, run: str | os.PathLike[str] | None) -> None:
    from .checkpoint import save

    recipe, curve = _of_run(Path(run)) if run else ("", [])
    extra = {"recipe": recipe, "metrics": curve[-1]} if curve else {"recipe": recipe} if recipe else {}
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / FILE, extra=extra)
    (folder / CARD).write_text(card(model, name, recipe, curve), encoding="utf-8")


def _of_run(run: Path) -> tuple[str, list[dict[str, Any]]]:
    """Recipe and evaluations of a training."""
    try:
        recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
        curve = run / "curve.jsonl"
        lines = curve.read_text(encoding="utf-8").splitlines() if curve.is_file() else []
        return recipe, [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'"{run}" is not the folder of a training ({error}); give the --out of one'
        ) from error


def card(model: Model, name: str, recipe: str = "", curve: list[dict[str, Any]] | None = None) -> str:
    """The card of a model: what it is, how well it does and how to use it, in the Hub's Markdown.

    Args:
        model: what the card is about.
        name: the repository or folder people will type.
        recipe: YAML of the training.
        curve: evaluations, oldest first; figures in 0…1 by name, and `step`.
    """
    own, parameters = model.input, sum(p.numel() for p in model.parameters())
    size = f"scaled to fit {own.size[0]}×{own.size[1]}" if own.mode == "fit" else "at their own size"
    about = f"{parameters / 1e6:.2f} M parameters, takes pictures {size}"
    parts = [
        "---\nlibrary_name: maskconver\npipeline_tag: image-segmentation\n"
        "tags:\n- panoptic-segmentation\n- image-segmentation\n---\n",
        f"# {name.rstrip('/').rpartition('/')[2]}\n",
        f"`{model.name or type(model).__name__}` of maskconver {__version__}: {about}.\n",
        "## Use\n",
        f'```python\nimport maskconver as mc\n\nprint(mc.Predictor("{name}")("picture.jpg"))\n```\n',
        f'```bash\npip install "maskconver[train]"\nmaskconver predict {name} picture.jpg --overlay\n'
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


def _reached(act: Callable[[], T], repository: str) -> T:
    """What the Hub answers; its many errors as one of ours."""
    from huggingface_hub import errors

    try:
        return act()
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f'"{repository}" is no file here and no repository of the Hugging Face Hub; '
            "a private one needs `hf auth login` first"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(_UNREACHED.format(repository, "no connection")) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(
            f'the repository "{repository}" holds no {FILE}; it was not pushed by maskconver'
        ) from error
    except Exception as error:  # of the network, of the Hub's rights, of a name it does not take
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(_UNREACHED.format(repository, reason)) from error


_UNREACHED = '"{}" is no file here, and the Hugging Face Hub does not give or take it ({})'
