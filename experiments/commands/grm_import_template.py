"""Gives a released checkpoint the wording that it was trained with, from your clone of its authors' repository.

    dopamine grm import-template Robo-Dopamine Robo-Dopamine-GRM-3B
    dopamine grm import-template Robo-Dopamine org/name --out models/grm-3b        # a hub id, whose cache stays as it is
    dopamine grm import-template --text wording.txt CHECKPOINT

CLONE is the clone's folder, whose examples/inference.py holds the prompt as a text, or that Python file; it is read, never
run. CHECKPOINT is the folder of a Qwen2.5-VL or Qwen3-VL reward model, or its hub id. `template.json` is written beside the
weights: the wording inside the chat turn that the checkpoint's own tokenizer makes, with the 8-image contract. The
limits of pictures in preprocessor_config.json are set to those of the training. Doing it again changes nothing. The last
line is JSON.
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
from experiments.runtime.storage import lasting_path

Contract = Literal["grm-3b", "grm-2.0"]
PIXELS = f"Leave the limits of pictures as they are, instead of {MIN_PIXELS} to {MAX_PIXELS} pixels."


SOURCE = create_mutex_group(required=False, title="wording (one of)")


@dataclass(frozen=True)
class Arguments:
    """Where the wording is, and what it is for."""

    paths: Annotated[Positional[tuple[Path, ...]], option("CLONE CHECKPOINT", "")]
    """The authors' clone, or its Python file, then the checkpoint; with --text the checkpoint alone."""
    preset: Annotated[Contract | None, option("NAME", "grm-3b for Qwen2.5-VL, grm-2.0 for Qwen3-VL")] = None
    """The contract."""
    constant: Annotated[str | None, SOURCE, option("NAME", "the only one that is a prompt")] = None
    """The name of the prompt's text in the Python file."""
    text: Annotated[Path | None, SOURCE, option("FILE", "")] = None
    """A text file with the wording, {task} and eight <image>."""
    out: Annotated[OptionalResultPath, option("FOLDER", "")] = None
    """Leave the checkpoint as it is, and make a folder with links to its weights."""
    keep_pixels: Annotated[bool, option(about=PIXELS)] = False
    """Leave the limits of pictures as they are."""

    def __post_init__(self) -> None:
        if len(self.paths) != (1 if self.text else 2):
            paths = " ".join(map(str, self.paths)) or None
            raise BadInput("CLONE CHECKPOINT", paths, "give CLONE and CHECKPOINT, or --text FILE and CHECKPOINT")


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Import, and say what was done."""
    arguments = parse(Arguments, argv, "dopamine grm import-template", __doc__)
    with interruptible("Interrupted."):
        print(json.dumps(run(arguments), ensure_ascii=False))


def run(arguments: Arguments) -> dict[str, Any]:
    """Import the wording. Raises BadInput or CheckpointError; then nothing was changed."""
    from dopamine_rl.grm.hub import model_folder
    from dopamine_rl.grm.released import check_released, install, install_beside, released_template
    from dopamine_rl.grm.wording import find_wording, read_wording

    checkpoint = arguments.paths[-1]
    folder = model_folder(checkpoint)
    if arguments.out is None:
        lasting_path(folder, "CHECKPOINT")
    check_released(folder)
    if folder != checkpoint and arguments.out is None:
        raise BadInput("--out", None, f"give a folder: {checkpoint} lies in a cache, where nothing is to be changed")
    wording = read_wording(arguments.text) if arguments.text else find_wording(arguments.paths[0], arguments.constant)
    template = released_template(folder, wording, arguments.preset)
    print(f"wording: {wording.origin}")
    print(
        f"contract: {template.name}, {2 + 2 * template.contract.views} pictures, answers as {template.contract.format(0.125)}"
    )
    if arguments.out is None:
        changed = install(folder, template, not arguments.keep_pixels)
    else:
        changed = install_beside(folder, arguments.out, template, not arguments.keep_pixels)
        folder = arguments.out
    print(f"written: {', '.join(str(folder / name) for name in changed) or 'nothing, all was so already'}")
    return {"folder": str(folder), "preset": template.name, "wording": wording.origin, "changed": changed}


if __name__ == "__main__":
    main()
