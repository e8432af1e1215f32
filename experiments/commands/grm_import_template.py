"""Adds the training prompt to a released checkpoint, from your clone of its authors' repository.

    dopamine grm import-template Robo-Dopamine Robo-Dopamine-GRM-3B
    dopamine grm import-template Robo-Dopamine org/name --out models/grm-3b        # a hub id; the cache is not changed
    dopamine grm import-template --text prompt.txt CHECKPOINT

CLONE is the folder of the clone, whose examples/inference.py holds the prompt as a string, or that Python file.
The file is read but never executed. CHECKPOINT is the folder or the hub id of a Qwen2.5-VL or Qwen3-VL reward
model.

Writes template.json beside the weights: the prompt in the chat format of the checkpoint's tokenizer, with eight
images. Sets the image size limits in preprocessor_config.json to those used in training. Running it again
changes nothing. The last line is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, create_mutex_group

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.contract import MAX_PIXELS, MIN_PIXELS
from experiments.runtime.arguments import OptionalResultPath, option, parse
from experiments.runtime.ending import command, interruptible
from experiments.runtime.storage import check_folder, lasting_path

Contract = Literal["grm-3b", "grm-2.0"]
PIXELS = f"Keep the checkpoint's image size limits instead of setting {MIN_PIXELS} to {MAX_PIXELS} pixels."


SOURCE = create_mutex_group(required=False, title="prompt (one of)")


@dataclass(frozen=True)
class Arguments:
    """The source of the prompt, and the checkpoint."""

    paths: Annotated[Positional[tuple[Path, ...]], option("CLONE CHECKPOINT", "")]
    """The clone (or its Python file), then the checkpoint. With --text: only the checkpoint."""
    preset: Annotated[Contract | None, option("NAME", "grm-3b for Qwen2.5-VL, grm-2.0 for Qwen3-VL")] = None
    """Input and output format of the checkpoint."""
    constant: Annotated[str | None, SOURCE, option("NAME", "the only string that is a prompt")] = None
    """Name of the Python variable that holds the prompt."""
    text: Annotated[Path | None, SOURCE, option("FILE", "")] = None
    """Text file with the prompt: it contains {task} and eight <image>."""
    out: Annotated[OptionalResultPath, option("FOLDER", "")] = None
    """Write to this new folder, with links to the weights, instead of changing the checkpoint."""
    keep_pixels: Annotated[bool, option(about=PIXELS)] = False
    """Keep the checkpoint's image size limits."""

    def __post_init__(self) -> None:
        if len(self.paths) != (1 if self.text else 2):
            paths = " ".join(map(str, self.paths)) or None
            raise BadInput("CLONE CHECKPOINT", paths, "give CLONE and CHECKPOINT, or --text FILE and CHECKPOINT")


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Import the prompt and print the changes."""
    arguments = parse(Arguments, argv, "dopamine grm import-template", __doc__)
    with interruptible("Interrupted."):
        print(json.dumps(run(arguments), ensure_ascii=False))


def run(arguments: Arguments) -> dict[str, Any]:
    """Import the prompt. Raises BadInput or CheckpointError, and then changes nothing."""
    from dopamine_rl.grm.folder import usable_model
    from dopamine_rl.grm.released import check_released, install, install_beside, released_template
    from dopamine_rl.grm.wording import find_wording, read_wording

    wording = read_wording(arguments.text) if arguments.text else find_wording(arguments.paths[0], arguments.constant)
    checkpoint = arguments.paths[-1]
    folder = usable_model(checkpoint, "CHECKPOINT", check_released)
    if arguments.out is None:
        lasting_path(folder, "CHECKPOINT")
    else:
        check_folder(arguments.out, inside=arguments.out.resolve().parent)
    if folder != checkpoint and arguments.out is None:
        raise BadInput("--out", None, f"give a folder: {checkpoint} is in a cache that must not be changed")
    template = released_template(folder, wording, arguments.preset)
    contract = template.contract
    print(f"prompt: {wording.origin}")
    print(f"format: {template.name}, {2 + 2 * contract.views} images, answers such as {contract.format(0.125)}")
    if arguments.out is None:
        changed = install(folder, template, not arguments.keep_pixels)
    else:
        changed = install_beside(folder, arguments.out, template, not arguments.keep_pixels)
        folder = arguments.out
    print(f"written: {', '.join(str(folder / name) for name in changed) or 'nothing, already up to date'}")
    return {"folder": str(folder), "preset": template.name, "wording": wording.origin, "changed": changed}


if __name__ == "__main__":
    main()
