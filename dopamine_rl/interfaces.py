"""The contracts. Whoever has read this page and `types.py` knows the system.

Frames leave an actor as a ScoreRequest, an Engine turns pictures into hops, a ProgressScorer asks it the three
perspectives, a RewardClient carries requests there and back, and the core folds the hops into progress and shapes the
reward. Everything here is plain Python; Ray appears only in the files that put these objects into processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.types import EpisodeInfo, HopEstimates, ScoreReply, ScoreRequest

if TYPE_CHECKING:
    import gymnasium


OnProgress = Callable[[str, bool], None]
"""Is told how far something long has come: a line for a person, and whether it matters even if one was shown a moment ago."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to the model: two references, V BEFORE views, V AFTER views, by index into a shared table of pictures.

    Args:
        instruction: the task in words.
        references: (START, END) indices.
        before, after: V indices each.
    """

    instruction: str
    references: tuple[int, int]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def images(self) -> tuple[int, ...]:
        """The 2 + 2V indices in the order of the contract: START, END, BEFORE views, AFTER views."""
        return (*self.references, *self.before, *self.after)

    def moved(self, place: Mapping[int, int]) -> Prompt:
        """The same question about another table, in which picture i of this one lies at `place[i]`."""
        start, end = self.references
        before, after = (tuple(place[index] for index in views) for views in (self.before, self.after))
        return Prompt(self.instruction, (place[start], place[end]), before, after)


class Engine(Protocol):
    """Runs the reward model's forward pass. Each picture is given once, however many prompts name it."""

    @property
    def model_version(self) -> str:
        """Content name of the weights: the same weights have the same version on every machine."""

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        """Answer N prompts about M pictures (uint8 [H, W, 3] each).

        An unreadable answer comes back marked invalid. Raises only where no prompt could be answered at all.
        """


class ProgressScorer(Protocol):
    """Answers requests: three perspectives a frame, one reply a request, in the order asked."""

    @property
    def model_version(self) -> str:
        """The version behind every reply."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """Score a batch. Raises VersionUnavailable where a request wants another version than the engine's."""


class PendingScore(Protocol):
    """A request under way."""

    def result(self, timeout_s: float) -> ScoreReply:
        """Wait for the reply, retrying a lost replica within the time given.

        Raises: ScoringTimeout, Overloaded, VersionUnavailable, ServiceUnavailable.
        """

    @property
    def retries(self) -> int:
        """How often the request was sent again."""


@runtime_checkable
class RewardClient(Protocol):
    """Carries requests to a reward service. `submit` never waits for the model."""

    def model_version(self, timeout_s: float) -> str:
        """The version that is being served now. Raises ScoringTimeout or ServiceUnavailable."""

    def submit(self, request: ScoreRequest) -> PendingScore:
        """Send a request and return at once."""


class Expert(Protocol):
    """A scripted policy that solves a task from the simulator's true state, with named stages."""

    stages: tuple[str, ...]

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [A] in [−1, 1]."""

    @property
    def stage(self) -> int:
        """Index into `stages` of what is being done; it never decreases in a successful episode."""


class EpisodeSource(Protocol):
    """Recorded episodes of one format: listed without decoding a picture, so that there may be any number of them."""

    def episodes(self) -> Sequence[EpisodeInfo]:
        """All of them, by name. Raises EpisodeError, naming episode, file and field."""

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Decode some frames of one episode: uint8 [F, V, H, W, 3].

        Args:
            episode_id: one of those listed.
            frame_ids: int64 [F], strictly increasing.
            size: (height, width) to scale pictures to; None keeps them as they are.
        Raises:
            EpisodeError: a frame is not there, or a video cannot be decoded.
        """
