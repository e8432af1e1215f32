"""Scores recorded episodes with a reward model: progress of every frame, metrics, and a video with the progress curve.

    dopamine grm score runs/peg_insert/demonstrations/…/gate --model runs/peg_insert/grm
    dopamine grm score front.mp4,wrist.mp4 --demo raw/episode_001 --url http://127.0.0.1:8000
    dopamine grm score raw/episode_001 --instruction "clear the table" --model grm --hz 1 --size 112

EPISODE is one of:
  - a folder with a raw episode, or with several;
  - a LeRobotDataset v3, or one of its episodes: DATASET#12;
  - a folder of videos named after their cameras;
  - the videos of one episode, separated by commas, the front view first.

Writes for each episode: DIR/NAME.csv (one row per scored frame), DIR/NAME.json (the same with metrics and
settings) and DIR/NAME.mp4 (the reward video). Results with the same files, settings and model are reused.
The last line is JSON. Exit status 1: an episode could not be scored.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional, create_mutex_group

from dopamine_rl.episodes.recordings import FRAMES_HZ, MAX_PIXELS, Recording, read_frames
from dopamine_rl.errors import BadInput, ScoringError, require
from dopamine_rl.evaluation.plans import BLANK, Plan, make_plans, notes, warnings
from dopamine_rl.evaluation.scoring import ScoringConfig, score_episode
from dopamine_rl.files import LONGEST_NAME
from dopamine_rl.texts import counted, one_line
from dopamine_rl.types import FusionConfig, TaskReference
from experiments.reports.columns import check_columns, write_back
from experiments.reports.scores import ScoredRecording, check_own, figures, stored_figures, write_scores
from experiments.reports.tables import show
from experiments.runtime.arguments import Cameras, ResultPath, option, written
from experiments.runtime.arguments import parse as read_arguments
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible
from experiments.runtime.reward_client import (
    CaFile,
    Deadline,
    Device,
    Insecure,
    Threads,
    TokenFile,
    check_model_arguments,
    reward_client,
)
from experiments.runtime.storage import check_folder, lasting_path

if TYPE_CHECKING:
    from dopamine_rl.interfaces import RewardClient

DEMO = (
    "Successful episode whose first and last frames are the START, END and goal images. Without it an annotated "
    f"episode uses its own frames, which raises its scores. `{BLANK}`: no demonstration; these images are left blank."
)
INTERRUPTED = "Interrupted. Scored episodes are saved; run the same command again to resume."


SOURCE = create_mutex_group(required=True, title="reward model (one of)")
PACE = create_mutex_group(required=False, title="pace (one of)")


def read_size(text: str) -> tuple[int, int]:
    """(height, width) of HxW or N. Raises BadInput."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and 0 < int(part) <= 4096 for part in parts):
        raise BadInput("--size", text, "give HxW or N in pixels, such as 240x320 or 112")
    return int(parts[0]), int(parts[-1])


@dataclass(frozen=True)
class Arguments:
    """The episodes, the reward model, and the settings."""

    episodes: Annotated[Positional[tuple[str, ...]], option("EPISODE …", "")]
    """Episodes to score: FOLDER, DATASET#NUMBER or VIDEO[,VIDEO[,VIDEO]]."""
    model: Annotated[Path | None, SOURCE, option("FOLDER", "")] = None
    """Checkpoint to load in this process: a folder, a hub id, or grm-mini."""
    url: Annotated[str | None, SOURCE, option("URL", "")] = None
    """Address of a reward service (HTTP), see `dopamine serve`."""
    app: Annotated[str | None, SOURCE, option("NAME", "")] = None
    """Name of a reward service on the running Ray cluster (RAY_ADDRESS)."""
    token_file: TokenFile = None
    ca_file: CaFile = None
    insecure: Insecure = False
    threads: Threads = None
    device: Device = "cpu"
    instruction: Annotated[str | None, option("TEXT", "that of the episode, else of the demonstration")] = None
    """The task in words, such as clear the table."""
    demo: Annotated[str | None, option("EPISODE", "", about=DEMO)] = None
    """Successful episode whose first and last frames are the START, END and goal images."""
    stride: Annotated[int | None, PACE, option("N", "")] = None
    """Score every N-th video frame, and the last."""
    hz: Annotated[
        float | None, PACE, option("HZ", f"{FRAMES_HZ:g}; all frames of episodes recorded by this project")
    ] = None
    """Score this many frames per second."""
    views: Annotated[int | None, option("N", "all")] = None
    """Use the first N cameras; if there are fewer, the front view is repeated."""
    cameras: Cameras = None
    """Cameras to use, separated by commas, the front view first."""
    size: Annotated[
        tuple[int, int] | None,
        written("HxW", read_size),
        option(default=f"the front camera's size, at most {MAX_PIXELS} pixels"),
    ] = None
    """Resize all images to H x W pixels, or N x N."""
    fusion: Literal["mean", "consistency"] = "mean"
    """How the three perspectives are fused into one progress value."""
    fragment: Annotated[int, option("N")] = 16
    """Frames per request."""
    deadline_s: Deadline = 120.0
    out: Annotated[ResultPath, option("DIR")] = Path("scores")
    """Folder for the results."""
    column: Annotated[str | None, option("NAME", "")] = None
    """Also write progress to this column of the LeRobot dataset. Other episodes keep their values."""
    video: bool = True
    """Write a reward video for every episode."""
    fresh: bool = False
    """Score all episodes again instead of reusing results."""

    def __post_init__(self) -> None:
        if not self.episodes:
            raise BadInput("EPISODE", None, "give at least one episode")
        require(
            "",
            self,
            ("fragment", self.fragment >= 1, "give at least 1"),
            ("deadline_s", 0.0 < self.deadline_s < 1e6, "give seconds above 0"),
        )


def parse(argv: Sequence[str] | None) -> Arguments:
    """Parse the command line; imports nothing heavy. Raises UsageError."""
    return read_arguments(Arguments, argv, "dopamine grm score", __doc__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Score the episodes, print a table, and exit with status 1 if an episode has no score."""
    arguments = parse(argv)
    with interruptible(INTERRUPTED):
        results = run(arguments)
    if any(result.get("final_progress") is None for result in results):
        raise SystemExit(1)


def run(arguments: Arguments) -> list[dict[str, Any]]:
    """Score every episode without saved results. Returns one row of the final table per episode.

    Raises:
        BadInput: an argument is invalid; nothing was scored.
        ScoringError: the service did not answer; results so far are saved.
    """
    scoring = ScoringConfig(
        FusionConfig(arguments.fusion), arguments.fragment, 1 if arguments.model else 4, arguments.deadline_s
    )
    check_folder(arguments.out)
    check_model_arguments(arguments, "--model")
    plans, console = make_plans(arguments), Console()
    if arguments.column is not None:
        for root in {plan.recording.dataset.root for plan in plans if plan.recording.dataset is not None}:
            lasting_path(root, "EPISODE")  # the column is written into the dataset
        check_columns([plan.recording for plan in plans], arguments.column)
    console.say_passed_over(path for path in map(Path, arguments.episodes) if path.is_dir())
    for note in notes(plans):
        console.say(note)
    for warning in warnings(plans):
        console.say(f"warning: {warning}")
    for plan in plans:
        if len(os.fsencode(f"{plan.recording.name}.json")) > LONGEST_NAME:
            raise BadInput("EPISODE", plan.recording.name, "rename the episode: its name is too long for a file")
    with reward_client(arguments, plans, console) as client, interruptible(INTERRUPTED):
        version = client.model_version(timeout_s=60.0)
        console.say(f"Scoring {counted(len(plans), 'episode')} with model {version}")
        results: list[dict[str, Any]] = []
        for plan in plans:
            console.progress(f"{len(results)} of {len(plans)} episodes done, next: {plan.recording.name}")
            results.append(_result(plan, client, version, scoring, arguments, console))
    if arguments.column is not None:
        write_back([plan.recording for plan in plans], arguments.out, arguments.column)
    reused = sum(bool(result.get("kept")) for result in results)
    if reused:
        console.say(f"Reused the results of {reused} of {len(plans)} episodes; --fresh scores them again")
    show(table(results))
    print(EXPLAINED)
    print(json.dumps({"out": str(arguments.out), "model_version": version, "episodes": results}))
    return results


def _result(
    plan: Plan,
    client: RewardClient,
    version: str,
    scoring: ScoringConfig,
    arguments: Arguments,
    console: Console,
) -> dict[str, Any]:
    """One row of the table: of an episode scored now, scored before, or with invalid files."""
    name, out = plan.recording.name, arguments.out
    try:
        inputs = plan.fingerprint(version, scoring.fusion)
        stored = None if arguments.fresh else stored_figures(out, name, inputs, video=arguments.video)
        if stored is not None:
            return {"episode": name, **stored, "kept": True}
        check_own(out, name)
        scored = score(plan, client, version, scoring, console)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return {"episode": name, "error": str(error)}
    except ScoringError:
        console.say(f"{name} has no score. Earlier results are saved: the same command resumes with {name}")
        raise
    metrics = figures(scored)
    origin = {"model": str(arguments.model or arguments.url or arguments.app), "inputs": inputs}
    console.progress(f"{name}: writing results")
    write_scores(out, scored, plan.described() | origin | {"fusion": asdict(scoring.fusion)}, arguments.video)
    if metrics["final_progress"] is None:
        console.say(f"warning: {name}: no frame has a valid score: {scored.scores.reasons[0]}")
    elif metrics["voc_plus"] is None:
        frames = metrics["frames"]
        console.say(f"warning: {name}: {frames} scored frames are too few for VOC+ and τ: give a smaller --stride")
    return {"episode": name, **metrics, "kept": False}


def score(plan: Plan, client: RewardClient, version: str, scoring: ScoringConfig, console: Console) -> ScoredRecording:
    """Read an episode's frames and score them. Raises BadInput or ScoringError."""
    recording = plan.recording
    pictures = read_frames(recording, plan.stride, plan.size, plan.views)
    frames = pictures.frames
    if plan.demonstration is None:
        blank = np.zeros_like(frames[0])
        reference = TaskReference(plan.instruction, blank[0], blank[0], blank)
    elif plan.demonstration is recording:
        reference = TaskReference(plan.instruction, frames[0, 0], frames[-1, 0], frames[-1])
    else:
        ends = _first_and_last(plan.demonstration, plan.size, plan.views)
        reference = TaskReference(plan.instruction, ends[0, 0], ends[-1, 0], ends[-1])
    context = replace(reference.context(recording.name, frames[0]), model_version=version)

    def on_progress(text: str, matters: bool) -> None:
        console.progress(f"{recording.name}: {text}", matters)

    scores = score_episode(client, context, frames[1:], pictures.frame_ids[1:], scoring, on_progress)
    rate_hz = recording.format.frames_per_second
    return ScoredRecording(recording, pictures.frame_ids, plan.stride, plan.views, rate_hz, scores)


@lru_cache(maxsize=4)
def _first_and_last(demonstration: Recording, size: tuple[int, int], views: int) -> NDArray[np.uint8]:
    """uint8 [2, V, H, W, 3]; cached, since episodes often share a demonstration."""
    return read_frames(demonstration, sys.maxsize, size, views).frames


HEADINGS = {
    "episode": "episode", "frames": "frames", "final_progress": "end", "outcome": "outcome", "voc_plus": "VOC+",
    "kendall": "τ", "progress_mae": "MAE", "invalid": "invalid", "low_weight": "w < 0.1", "labels_per_s": "labels/s",
}  # fmt: skip


EXPLAINED = (
    "outcome: success, partial or failure by the curve (Eq. 58); τ: Kendall's rank correlation of progress with time"
)
"""What two of the columns mean."""


def table(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The results as rows below a header; a dash stands for a missing value."""
    return [list(HEADINGS.values()), *([one_line(_cell(result.get(name))) for name in HEADINGS] for result in results)]


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
