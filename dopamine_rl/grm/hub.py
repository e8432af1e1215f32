"""Where the files of a reward model lie: in a folder, with this package, or under a hub id in the cache of Hugging Face."""

from __future__ import annotations

import re
from pathlib import Path

from dopamine_rl.errors import CheckpointError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = ("*.json", "*.jinja", "*.safetensors", "merges.txt", "vocab.txt")
"""What is fetched of a repository: the states of optimizers that some hold are ten times as large."""
SHIPPED = Path(__file__).parent / "shipped"
"""Models that come with this package, each in the folder of its name."""


def model_folder(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint: of a path, or of the name of a shipped model such as `grm-mini`. A hub id such as `org/name` is looked up in the cache, and fetched only if it is not there.

    Environment variables of huggingface_hub hold: HF_HOME says where the cache is, HF_HUB_OFFLINE=1 forbids to fetch.

    Raises:
        CheckpointError: it is neither a folder nor a hub id whose files can be had.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if (SHIPPED / folder.name).is_dir() and folder.name == str(checkpoint):
        return SHIPPED / folder.name
    # A path below a folder that is there is a path with a slip, not the name of somebody's repository.
    if not HUB_ID.fullmatch(str(checkpoint)) or folder.parent.exists():
        raise CheckpointError(
            f"{checkpoint} is not a folder: give the folder of a reward model, grm-mini, or a hub id as org/name"
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
            f"{checkpoint} is neither a folder nor in the Hugging Face cache, and cannot be fetched ({type(error).__name__}): "
            f"where there is a network run `hf download {checkpoint}`, or copy the model's folder here and give its path"
        ) from error
