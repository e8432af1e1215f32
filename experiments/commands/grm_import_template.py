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

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.contract import MAX_PIXELS, MIN_PIXELS, RELEASED
from experiments.runtime.ending import command, interruptible
from experiments.runtime.storage import lasting_path, result_path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="dopamine grm import-template",
        usage="%(prog)s CLONE CHECKPOINT [options], or %(prog)s --text FILE CHECKPOINT",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", metavar="CLONE CHECKPOINT", nargs="+", type=Path, help="with --text the checkpoint alone"
    )
    parser.add_argument("--preset", choices=tuple(RELEASED), help="the contract (default: grm-3b for Qwen2.5-VL, grm-2.0 for Qwen3-VL)")  # fmt: skip
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--constant", metavar="NAME", help="the name of the prompt's text in the Python file (default: the only one that is a prompt)")  # fmt: skip
    source.add_argument(
        "--text", metavar="FILE", type=Path, help="a text file with the wording, {task} and eight <image>"
    )
    parser.add_argument("--out", metavar="FOLDER", type=result_path, help="leave the checkpoint as it is, and make a folder with links to its weights")  # fmt: skip
    parser.add_argument("--keep-pixels", action="store_true", help=f"leave the limits of pictures as they are, instead of {MIN_PIXELS} to {MAX_PIXELS} pixels")  # fmt: skip
    arguments = parser.parse_args(argv)
    if len(arguments.paths) != (1 if arguments.text else 2):
        parser.error("give CLONE and CHECKPOINT, or --text FILE and CHECKPOINT")
    return arguments


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Import, and say what was done."""
    arguments = parse(argv)
    with interruptible("Interrupted."):
        print(json.dumps(run(arguments), ensure_ascii=False))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
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
