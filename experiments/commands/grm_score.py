"""Scores recorded episodes with a reward model: progress for every frame, figures, and a video with the curves under it.

    dopamine grm score runs/peg_insert/demonstrations/…/gate --model runs/peg_insert/grm
    dopamine grm score front.mp4,wrist.mp4 --demo raw/episode_001 --url http://127.0.0.1:8000
    dopamine grm score raw/episode_001 --instruction "clear the table" --model grm --hz 1 --size 112

EPISODE is a raw episode's folder, a folder of such, a LeRobotDataset v3 or one episode of it as DATASET#12, a folder of
videos named by camera, or videos of one episode joined by commas, the front view first. Of each, DIR/NAME.csv has a row for every scored frame, DIR/NAME.json the same with figures
and settings, and DIR/NAME.mp4 is the reward video. What is scored already with the same files, settings and model is kept.
The last line is JSON.
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
from dopamine_rl.errors import BadInput, ScoringError
from dopamine_rl.evaluation.plans import BLANK, Plan, make_plans, notes, warnings
from dopamine_rl.evaluation.scoring import ScoringConfig, score_episode
from dopamine_rl.files import LONGEST_NAME
from dopamine_rl.texts import one_line
from dopamine_rl.types import FusionConfig, TaskReference
from experiments.reports.columns import check_columns, write_back
from experiments.reports.scores import ScoredRecording, check_own, figures, stored_figures, write_scores
from experiments.reports.tables import show
from experiments.runtime.arguments import Cameras, ResultPath, option, written
from experiments.runtime.arguments import parse as read_arguments
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible
from experiments.runtime.reward_client import reward_client
from experiments.runtime.storage import check_folder, lasting_path
from reward_service.guards import TOKEN_VARIABLE

if TYPE_CHECKING:
    from dopamine_rl.interfaces import RewardClient

DEMO = (
    "A successful episode whose first and last frames are START, END and the goal. Without it an annotated episode is judged by "
    f"its own end, which flatters it. `{BLANK}`: there is none, the pictures are left blank."
)
KEPT = "Interrupted. The same command keeps the episodes that are scored and goes on with the next."


SOURCE = create_mutex_group(required=True, title="reward model (one of)")
PACE = create_mutex_group(required=False, title="pace (one of)")


def read_size(text: str) -> tuple[int, int]:
    """(height, width) of HxW or N. Raises BadInput."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and 0 < int(part) <= 4096 for part in parts):
        raise BadInput("--size", text, "write HxW or N, in pixels, such as 240x320 or 112")
    return int(parts[0]), int(parts[-1])


@dataclass(frozen=True)
class Arguments:
    """Which episodes are scored, by which model, and how."""

    episodes: Annotated[Positional[tuple[str, ...]], option("EPISODE …", "")]
    """FOLDER or VIDEO[,VIDEO[,VIDEO]]."""
    model: Annotated[Path | None, SOURCE, option("FOLDER", "")] = None
    """Score in this process, with this checkpoint: a folder, a hub id, or grm-mini."""
    url: Annotated[str | None, SOURCE, option("URL", "")] = None
    """Ask a reward service over HTTP, as `dopamine serve` offers it."""
    app: Annotated[str | None, SOURCE, option("NAME", "")] = None
    """Ask an application of the running Ray cluster (RAY_ADDRESS)."""
    token_file: Annotated[Path | None, option("FILE", f"the environment variable {TOKEN_VARIABLE}")] = None
    """With --url: file with the service's token."""
    ca_file: Annotated[Path | None, option("FILE", "")] = None
    """With an https --url: certificates that vouch for the service."""
    insecure: bool = False
    """With --url: send the token to another machine without https."""
    threads: Annotated[int | None, option("N", "torch's")] = None
    """With --model: CPU threads."""
    device: Annotated[str, option("NAME")] = "cpu"
    """With --model: such as cuda."""
    instruction: Annotated[str | None, option("TEXT", "what lies beside the episode, or the demonstration")] = None
    """The task in words."""
    demo: Annotated[str | None, option("EPISODE", "", about=DEMO)] = None
    """A successful episode whose first and last frames are START, END and the goal."""
    stride: Annotated[int | None, PACE, option("N", "")] = None
    """Score one video frame in N, and the last."""
    hz: Annotated[float | None, PACE, option("HZ", f"{FRAMES_HZ:g}; episodes recorded by this project: all")] = None
    """Score so many frames a second."""
    views: Annotated[int | None, option("N", "all")] = None
    """Use the first N cameras; where there are fewer, the front view is repeated."""
    cameras: Cameras = None
    """Cameras to use, by commas, the front view first."""
    size: Annotated[
        tuple[int, int] | None,
        written("HxW", read_size),
        option(default=f"the front camera's own, at most {MAX_PIXELS} pixels"),
    ] = None
    """Scale every camera's pictures to H x W pixels, or N x N."""
    fusion: Literal["mean", "consistency"] = "mean"
    """How the three perspectives become one progress."""
    fragment: Annotated[int, option("N")] = 16
    """Frames in one request."""
    deadline_s: Annotated[float, option("S")] = 120.0
    """Seconds for each request."""
    out: Annotated[ResultPath, option("DIR")] = Path("scores")
    """Folder of the results."""
    column: Annotated[str | None, option("NAME", "")] = None
    """Write progress into LeRobot datasets as a column; where it was written so before, other episodes keep theirs."""
    video: bool = True
    """Write a reward video of every episode."""
    fresh: bool = False
    """Score again what is scored already."""

    def __post_init__(self) -> None:
        if not self.episodes:
            raise BadInput("EPISODE", None, "give at least one")


def parse(argv: Sequence[str] | None) -> Arguments:
    """Parse the command line; imports nothing heavy. Raises UsageError."""
    return read_arguments(Arguments, argv, "dopamine grm score", __doc__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Score, say what came of it, and end with status 1 where an episode has no score."""
    arguments = parse(argv)
    with interruptible(KEPT):
        results = run(arguments)
    if any(result.get("final_progress") is None for result in results):
        raise SystemExit(1)


def run(arguments: Arguments) -> list[dict[str, Any]]:
    """Score every episode that is not scored yet, and return what the table at the end shows of each.

    Raises:
        BadInput: an argument cannot be used; nothing was scored.
        ScoringError: the model's service did not answer; what was scored by then is kept.
    """
    scoring = ScoringConfig(
        FusionConfig(arguments.fusion), arguments.fragment, 1 if arguments.model else 4, arguments.deadline_s
    )
    plans, console = make_plans(arguments), Console()
    if arguments.column is not None:
        for root in {plan.recording.source.root for plan in plans if plan.recording.source is not None}:
            lasting_path(root, "EPISODE")  # the column is written into the dataset
        check_columns([plan.recording for plan in plans], arguments.column)
    console.say_passed_over(path for path in map(Path, arguments.episodes) if path.is_dir())
    for note in notes(plans):
        console.say(note)
    for warning in warnings(plans):
        console.say(f"warning: {warning}")
    check_folder(arguments.out)
    for plan in plans:
        if len(os.fsencode(f"{plan.recording.name}.json")) > LONGEST_NAME:
            raise BadInput("EPISODE", plan.recording.name, "give it a shorter name: its results are called after it")
    with reward_client(arguments, plans, console) as client, interruptible(KEPT):
        version = client.model_version(timeout_s=60.0)
        console.say(f"Scoring {len(plans)} episodes with model {version}")
        results: list[dict[str, Any]] = []
        for plan in plans:
            console.progress(f"{len(results)} of {len(plans)} episodes done, {plan.recording.name} is next")
            results.append(_result(plan, client, version, scoring, arguments, console))
    if arguments.column is not None:
        write_back([plan.recording for plan in plans], arguments.out, arguments.column)
    kept = sum(bool(result.get("kept")) for result in results)
    if kept:
        console.say(
            f"{kept} of {len(plans)} were scored before, by the same model and settings; --fresh scores them again"
        )
    show(table(results))
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
    """One row of the table: of an episode scored now, scored before, or one whose files cannot be used."""
    name, out = plan.recording.name, arguments.out
    try:
        inputs = plan.fingerprint(version, scoring.fusion)
        known = None if arguments.fresh else stored_figures(out, name, inputs, video=arguments.video)
        if known is not None:
            return {"episode": name, **known, "kept": True}
        check_own(out, name)
        scored = score(plan, client, version, scoring, console)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return {"episode": name, "error": str(error)}
    except ScoringError:
        console.say(f"{name} has no score. What was scored before is kept: the same command goes on with {name}")
        raise
    found = figures(scored)
    origin = {"model": str(arguments.model or arguments.url or arguments.app), "inputs": inputs}
    console.progress(f"{name}: writing the files")
    write_scores(out, scored, plan.described() | origin | {"fusion": asdict(scoring.fusion)}, arguments.video)
    if found["final_progress"] is None:
        console.say(f"warning: {name}: no frame has a value: {scored.scores.reasons[0]}")
    elif found["voc_plus"] is None:
        console.say(f"warning: {name}: {found['frames']} scored frames are too few for VOC+ and τ: give a smaller --stride")  # fmt: skip
    return {"episode": name, **found, "kept": False}


def score(plan: Plan, client: RewardClient, version: str, scoring: ScoringConfig, console: Console) -> ScoredRecording:
    """Read an episode's frames and ask for the progress of each. Raises BadInput or ScoringError."""
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
    scores = score_episode(
        client, context, frames[1:], pictures.frame_ids[1:], scoring,
        lambda done, total: console.progress(f"{recording.name}: {done} of {total} frames"),
    )  # fmt: skip
    rate_hz = recording.format.frames_per_second
    return ScoredRecording(recording, pictures.frame_ids, plan.stride, plan.views, rate_hz, scores)


@lru_cache(maxsize=4)
def _first_and_last(demonstration: Recording, size: tuple[int, int], views: int) -> NDArray[np.uint8]:
    """uint8 [2, V, H, W, 3]; the episodes that share a demonstration read it once."""
    return read_frames(demonstration, sys.maxsize, size, views).frames


HEADINGS = {
    "episode": "episode", "frames": "frames", "final_progress": "end", "outcome": "outcome", "voc_plus": "VOC+",
    "kendall": "τ", "progress_mae": "MAE", "invalid": "invalid", "low_weight": "w < 0.1", "labels_per_s": "labels/s",
}  # fmt: skip


def table(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The results as rows below their head; a dash stands where nothing can be said."""
    return [list(HEADINGS.values()), *([one_line(_cell(result.get(name))) for name in HEADINGS] for result in results)]


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
