"""Locate a reward model: a folder, a model shipped with this package, or a hub id in the Hugging Face cache."""

from __future__ import annotations

import re
from pathlib import Path

from dopamine_rl.errors import CheckpointError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = ("*.json", "*.jinja", "*.safetensors", "merges.txt", "vocab.txt")
"""Files to fetch from a repository. Others are skipped: optimizer states, where present, are ten times as large."""
SHIPPED = Path(__file__).parent / "shipped"
"""Models shipped with this package, each in a folder of its name."""


def model_folder(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint: a path, a shipped model such as `grm-mini`, or a hub id such as `org/name`.

    A hub id is fetched only if it is not in the cache. The environment variables of huggingface_hub apply: HF_HOME sets
    the cache folder, HF_HUB_OFFLINE=1 forbids fetching.

    Raises:
        CheckpointError: it is neither a folder nor a hub id that can be fetched.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if (SHIPPED / folder.name).is_dir() and folder.name == str(checkpoint):
        return SHIPPED / folder.name
    # A path below an existing folder is a mistyped path, not a hub id.
    if not HUB_ID.fullmatch(str(checkpoint)) or folder.parent.exists():
        raise CheckpointError(
            f"{checkpoint} is not a folder: give the folder of a reward model, grm-mini, or a hub id such as org/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(checkpoint), local_files_only=True, allow_patterns=list(FILES)))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(str(checkpoint), allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint} is neither a folder nor in the Hugging Face cache, and cannot be fetched "
            f"({type(error).__name__}): where there is a network run `hf download {checkpoint}`, or copy the "
            "model's folder here and give its path"
        ) from error
