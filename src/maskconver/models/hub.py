"""Models on the Hugging Face Hub: one repository holds one model file and its card."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..core.files import EXPORTED_SUFFIXES
from ..errors import CheckpointError, first_line

FILE = "model.safetensors"
T = TypeVar("T")


def is_repository(name: str | os.PathLike[str]) -> bool:
    """Whether a name that is no file can be a repository, `user/name`: its first part is no folder here."""
    text = os.fspath(name)
    looks = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and not text.endswith(
        (".safetensors", *EXPORTED_SUFFIXES)
    )
    return bool(looks) and not Path(text).parent.exists()


def download(repository: str) -> Path:
    """The model file of a repository, fetched unless the Hub's cache has its newest version.

    Raises:
        CheckpointError: no such repository, one without our file, or the Hub cannot be reached.
    """
    import huggingface_hub

    return Path(reached(lambda: huggingface_hub.hf_hub_download(repository, FILE), repository))


def reached(act: Callable[[], T], repository: str) -> T:
    """What the Hub answers; its many errors as one of ours."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # its retries; what went wrong is in our message
    try:
        return act()
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f'"{repository}" is neither a file here nor a repository on the Hugging Face Hub; '
            "a private one needs `hf auth login` first"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(_UNREACHED.format(repository, "no connection")) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(
            f'the repository "{repository}" holds no {FILE}; it was not pushed by maskconver'
        ) from error
    except Exception as error:  # of the network, of the Hub's rights, of a name it does not take
        reason = first_line(error)
        raise CheckpointError(_UNREACHED.format(repository, reason)) from error
    finally:
        logging.set_verbosity(level)


_UNREACHED = '"{}" is not a file here, and the Hugging Face Hub cannot be asked for it ({})'
