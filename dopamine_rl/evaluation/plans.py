"""How each of some recorded episodes is to be scored: with which references, words, frames, pictures and views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dopamine_rl.episodes.cameras import MAX_VIEWS
from dopamine_rl.episodes.listing import find_recordings, split_argument
from dopamine_rl.episodes.recordings import Recording, check_files, size_of, stride_of
from dopamine_rl.errors import BadInput
from dopamine_rl.files import fingerprint
from dopamine_rl.texts import counted
from dopamine_rl.types import FusionConfig

BLANK, ITSELF = "blank", "itself"
"""What stands for a demonstration where there is none, and where an annotated episode is its own."""


@dataclass(frozen=True)
class Plan:
    """How one episode is scored.

    Args:
        recording: the episode.
        demonstration: where references and goal come from; None leaves them blank.
        instruction: the task in words.
        stride: video frames from one scored frame to the next.
        size: (height, width) of the pictures that the model is given.
        views: cameras.
    """

    recording: Recording
    demonstration: Recording | None
    instruction: str
    stride: int
    size: tuple[int, int]
    views: int

    @property
    def references(self) -> str:
        """Where references and goal come from, in words."""
        if self.demonstration is None:
            return BLANK
        return ITSELF if self.demonstration.identity == self.recording.identity else self.demonstration.name

    def fingerprint(self, version: str, fusion: FusionConfig) -> str:
        """Changes with everything that the scores depend on."""
        demonstrated = self.demonstration.identity if self.demonstration else None
        asked = (self.instruction, self.stride, self.size, self.views)
        return fingerprint((version, fusion, self.recording.identity, demonstrated, asked))

    def described(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "videos": [str(video) for video in self.recording.videos],
            "instruction": self.instruction,
            "references": self.references,
            "stride": self.stride,
            "picture_size": list(self.size),
            "views": self.views,
        }


class PlanArguments(Protocol):
    """What is asked for; None leaves it to the recordings."""

    @property
    def episodes(self) -> Sequence[str]:
        """Folders, videos of one episode by commas, datasets, or DATASET#NUMBER."""

    @property
    def cameras(self) -> Sequence[str] | None:
        """Names of the cameras, the front view first."""

    @property
    def demo(self) -> str | None:
        """A successful episode, or BLANK."""

    @property
    def instruction(self) -> str | None:
        """The task in words."""

    @property
    def stride(self) -> int | None:
        """Video frames from one scored frame to the next."""

    @property
    def hz(self) -> float | None:
        """Scored frames a second."""

    @property
    def views(self) -> int | None:
        """How many cameras."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures."""


def make_plans(arguments: PlanArguments) -> list[Plan]:
    """How each episode is to be scored. Raises BadInput where an argument, or an episode, cannot be used."""
    for name, good, fix in (
        ("stride", arguments.stride is None or arguments.stride >= 1, "give at least 1"),
        ("hz", arguments.hz is None or 0.0 < arguments.hz < 1e6, "give frames a second above 0"),
        ("views", arguments.views is None or 1 <= arguments.views <= MAX_VIEWS, f"give 1 to {MAX_VIEWS}"),
    ):
        if not good:
            raise BadInput(f"--{name}", getattr(arguments, name), fix)
    recordings = [
        recording for argument in arguments.episodes for recording in find_recordings(argument, arguments.cameras)
    ]
    check_files(recordings, views=arguments.views)
    names = [recording.name for recording in recordings]
    for name in names:
        if names.count(name) > 1:
            raise BadInput("EPISODE", name, "two episodes have this name: score them with an --out for each")
    demonstration = None
    if arguments.demo not in (None, BLANK):
        demonstration = find_demonstration(str(arguments.demo), arguments.cameras, arguments.views)
    return [_plan(recording, demonstration, arguments) for recording in recordings]


def find_demonstration(argument: str, cameras: Sequence[str] | None = None, views: int | None = None) -> Recording:
    """The successful episode that `--demo` names.

    Args:
        argument, cameras: as for `find_recordings`.
        views: number of cameras that are used; None uses all.
    Raises:
        BadInput: as `find_recordings`, naming that option; it names several episodes, or one that failed.
    """
    try:
        found = find_recordings(argument, cameras if split_argument(argument)[0].is_dir() else None)
        check_single(argument, found)
        check_files(found, "--demo", views)
    except BadInput as error:
        if error.field != "EPISODE":
            raise
        raise BadInput("--demo", error.value, error.fix) from error
    if found[0].success is False:
        raise BadInput("--demo", argument, "it failed: give an episode that succeeded")
    return found[0]


def check_single(argument: str, found: Sequence[Recording]) -> None:
    """Raise BadInput if `--demo` names several episodes."""
    if len(found) > 1:
        example = next((recording for recording in found if recording.success is not False), found[0]).argument
        fix = f"give one, as FOLDER/EPISODE or DATASET#NUMBER, such as {example}"
        raise BadInput("--demo", argument, f"it holds {len(found)} episodes: {fix}")


def _plan(recording: Recording, demonstration: Recording | None, arguments: PlanArguments) -> Plan:
    if arguments.demo is None:
        if recording.keyframes is None or recording.success is False:
            why = "a failed episode" if recording.success is False else "an episode without keyframes"
            raise BadInput("--demo", None, f"{recording.name} is {why}: give a demonstration of the task, or `{BLANK}`")
        demonstration = recording
    said = recording.instructions or (demonstration.instructions if demonstration else ())
    words = (arguments.instruction or "").strip() or (said[0] if said and arguments.instruction is None else "")
    if not words:
        raise BadInput("--instruction", arguments.instruction, f"say what the task of {recording.name} is")
    views = arguments.views or len(recording.videos)
    if demonstration is not None and arguments.views is None and len(demonstration.videos) < views:
        raise BadInput(
            "--views", views, f"the demonstration has {counted(len(demonstration.videos), 'camera')}: give --views"
        )
    stride = stride_of(recording, arguments.stride, arguments.hz)
    size = arguments.size or size_of(recording)
    return Plan(recording, demonstration, words, stride, size, views)


def notes(plans: Sequence[Plan]) -> Iterator[str]:
    """What a reader should know of how the recordings are read: cameras, and what is left out. One line each."""
    recordings = [recording for plan in plans for recording in (plan.recording, plan.demonstration) if recording]
    yield from dict.fromkeys(line for recording in recordings for line in recording.note.splitlines())


def warnings(plans: Sequence[Plan]) -> Iterator[str]:
    """What a reader of the scores must know of their references."""
    for references, meaning in (
        (ITSELF, "judged by its own first and last frame, which flatters it (--demo names another)"),
        (BLANK, "judged without a demonstration: references and goal are blank pictures"),
    ):
        names = [plan.recording.name for plan in plans if plan.references == references]
        if names:
            yield f"{names[0]} {f'and {len(names) - 1} more are each' if names[1:] else 'is'} {meaning}"
