"""What every model can do beside its computation: be given to others."""

from __future__ import annotations

import os
from typing import Any


class Shareable:
    """Folders and repositories of the Hugging Face Hub, each with one model file and its card."""

    def save_pretrained(
        self, folder: str | os.PathLike[str], run: str | os.PathLike[str] | None = None
    ) -> None:
        """Writes model file and card into a folder; see `hub.save_pretrained`."""
        from .share import save_pretrained

        save_pretrained(self, folder, run)  # type: ignore[arg-type]

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Uploads the model to `user/name`; options and errors as of `hub.push_to_hub`."""
        from .share import push_to_hub

        return push_to_hub(self, repository, **options)  # type: ignore[arg-type]
