"""The contracts. Read this file and `types.py` to know the system.

An actor sends frames as a ScoreRequest through a RewardClient. A ProgressScorer asks an Engine for the hops of the
three perspectives. The core folds the hops into progress and shapes the reward. Everything here is plain Python; Ray
appears only in the files that put these objects into processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.tokens import Image
from dopamine_rl.types import EpisodeInfo, HopEstimates, ScoreReply, ScoreRequest

if TYPE_CHECKING:
    import gymnasium


OnProgress = Callable[[str, bool], None]
"""Reports progress of a long operation, always as the parameter `on_progress`.

Called with one line of text, and whether it must be printed (True: notes, warnings, results; False: counts such as
`3 of 10 episodes`, of which a console shows the latest). `Console.progress` is one.
"""


def no_progress(text: str, matters: bool) -> None:
    """The OnProgress that reports nothing."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt to the model: two references, V BEFORE views and V AFTER views, as indices into a shared list of
    images.

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

    def reindexed(self, index_of: Mapping[int, int]) -> Prompt:
        """The same prompt about another list of images, in which image i has the index `index_of[i]`."""
        start, end = self.references
        before, after = (tuple(index_of[index] for index in views) for views in (self.before, self.after))
        return Prompt(self.instruction, (index_of[start], index_of[end]), before, after)


class Engine(Protocol):
    """Runs the reward model's forward pass. Each image is passed once, however many prompts use it."""

    @property
    def model_version(self) -> str:
        """Version computed from the weights' content: equal weights have the same version on every machine."""

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        """Answer N prompts about M images (uint8 [H, W, 3] each).

        An unreadable answer is returned as invalid. Raises only if no prompt could be answered at all.
        """


@runtime_checkable
class TokenEngine(Protocol):
    """An Engine that also takes images as tokens, made elsewhere by the same vision tower."""

    @property
    def model_version(self) -> str:
        """See Engine."""

    @property
    def tower_version(self) -> str:
        """Version of the vision tower (`TowerEncoder`); "" if this model takes pixels alone."""

    def estimate(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> HopEstimates:
        """See Engine. A prompt about tokens of a shape that the tower does not give is invalid."""


def tower_version(model: object) -> str:
    """The version of the tower whose tokens an engine or a scorer takes; "" if it takes pixels alone."""
    version: str = getattr(model, "tower_version", "")
    return version


class ProgressScorer(Protocol):
    """Answers requests: three perspectives per frame, one reply per request, in the same order."""

    @property
    def model_version(self) -> str:
        """The version behind every reply."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """Score a batch.

        Raises:
            VersionUnavailable: a request requires another version than the engine's.
            TowerUnavailable: a request has tokens that are not those of the engine's tower.
        """


class PendingScore(Protocol):
    """A submitted request."""

    def result(self, timeout_s: float) -> ScoreReply:
        """Wait for the reply; retry within the timeout if a replica is lost.

        Raises: ScoringTimeout, Overloaded, VersionUnavailable, TowerUnavailable, ServiceUnavailable.
        """

    def ready(self) -> bool:
        """Whether `result` has something to return or raise without waiting for anyone. Never gives a request up."""

    @property
    def retries(self) -> int:
        """How often the request was sent again."""


@runtime_checkable
class RewardClient(Protocol):
    """Carries requests to a reward service. `submit` never waits for the model."""

    def model_version(self, timeout_s: float) -> str:
        """The version being served. Raises ScoringTimeout or ServiceUnavailable."""

    def submit(self, request: ScoreRequest) -> PendingScore:
        """Send a request without waiting for the reply."""


@runtime_checkable
class BundlingRewardClient(RewardClient, Protocol):
    """A RewardClient that sends many requests for less than as many calls of `submit` cost."""

    def submit_all(self, requests: Sequence[ScoreRequest]) -> Sequence[PendingScore]:
        """Send requests without waiting for the replies; one PendingScore each, in their order."""


@runtime_checkable
class TokenRewardClient(RewardClient, Protocol):
    """A RewardClient that knows which tokens the service takes."""

    def tower_version(self, timeout_s: float) -> str:
        """The vision tower of the version being served; "" if it takes pictures alone. Raises as `model_version`."""


class Expert(Protocol):
    """A scripted policy with named stages that solves a task from the simulator's true state.

    That of an environment of your own (`--demonstrations.expert MODULE:CALLABLE`, made without arguments) gets the
    environment that you made, and answers in the units of its action space.
    """

    stages: tuple[str, ...]

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        """Begin an episode."""

    def act(self, env: gymnasium.Env) -> NDArray[np.float32]:
        """The next action, float32 [A] in [−1, 1]."""

    @property
    def stage(self) -> int:
        """Index into `stages` of the current stage; never decreases in a successful episode."""


@runtime_checkable
class Demonstrator(Protocol):
    """An expert that says itself when the task is done, as a person does who demonstrates."""

    def finished(self, env: gymnasium.Env) -> bool:
        """Whether the task is done."""


class MakeEnvironment(Protocol):
    """Makes an environment of your own: `--env.make MODULE:CALLABLE` names it, and it is called with env.kwargs.

    `dopamine env check` plays the environment and tests each of these points:

    - It is a gymnasium.Env. Its actions are a Box [A] with finite bounds.
    - Its observation is a Box [D], which the policy sees, or a Dict of `proprioception` (Box [D]) and pictures by name
      (uint8 [H, W, 3]). Numbers are finite, and read as float32.
    - The pictures that a reward model scores are those of the Dict that `env.views` names. Or they are
      `info["scored_views"]` (uint8 [V, H, W, 3]): at reset, at every K-th step and at the last one.
    - `reset` takes a seed, and the same seed gives the same start. Its `options` are hints about the episode: nobody
      looks at its pictures where "pictures" is False; "stride" is the K above; after "horizon" steps it is cut off.
    - `info["success"]` (bool) says whether the task is done. Where it is missing, `terminated` means success.
    - `info["executed"]` (float [A], in the action's units) may say what was really executed, by a robot with limits or
      a person who took over; the learner is given that action instead of the one that was asked for.
    - `terminated` means that the task ended, `truncated` that time ran out. Nothing resets by itself.
    - `step` neither raises nor hangs. A reward of 1 at success and 0 elsewhere suits the learner's default settings.
    """

    def __call__(self, **kwargs: Any) -> gymnasium.Env:
        """Make the environment."""


class Robot(Protocol):
    """A robot's driver, with LeRobot's methods, so that its robots can be driven as they are.

    Values have names. A number is a float in the unit that the limits file gives it (actors.robots.limits), a picture
    uint8 [H, W, 3] RGB, or the bytes of a JPEG. All methods but two are called from one thread. `hold` and `stop` are
    called from others, also while a call of another method blocks. A driver without them can be served: then it is
    asked to stay at its measured pose, after the call that blocks has returned.
    """

    @property
    def observation_features(self) -> Mapping[str, type | tuple[int, ...]]:
        """What an observation holds: float for a number, (H, W, 3) for a camera's picture."""

    @property
    def action_features(self) -> Mapping[str, type]:
        """What an action holds: float for each entry."""

    @property
    def is_connected(self) -> bool:
        """Whether the robot answers."""

    def connect(self) -> None:
        """Open the connection. The robot must not move."""

    def get_observation(self) -> Mapping[str, Any]:
        """Measure joints and take pictures, now."""

    def send_action(self, action: Mapping[str, float]) -> Mapping[str, float]:
        """Begin to move, without waiting for the end of the motion. Returns the action that is really executed."""

    def hold(self) -> None:
        """Stay where the robot is, with its motors on."""

    def stop(self) -> None:
        """Bring the robot into its safest state: brakes on, or motors off where it cannot fall."""

    def disconnect(self) -> None:
        """Close the connection."""


@runtime_checkable
class KinematicRobot(Protocol):
    """A Robot that knows where its tool is. Only with such a driver is the workspace box checked."""

    def tool_after(self, observation: Mapping[str, Any], action: Mapping[str, float] | None) -> Sequence[float]:
        """The tool's position [x, y, z] in metres after an action from an observation; None: where it is."""


@runtime_checkable
class ResettableRobot(Protocol):
    """A Robot that brings itself and its scene to a start. The safety limits do not check these motions."""

    def reset(self, seed: int) -> None:
        """Begin an episode; returns when the robot is at rest."""


class Teleoperator(Protocol):
    """A person's hand on a robot, with LeRobot's methods: a keyboard, a gamepad, a leader arm."""

    def connect(self) -> None:
        """Open the device."""

    def get_action(self) -> Mapping[str, float]:
        """The action that the person wants now."""

    def get_teleop_events(self) -> Mapping[str, bool]:
        """What the person says since the last call. LeRobot's `is_intervention` (hands on), `success`,
        `terminate_episode` (failure), `rerecord_episode` (discard); also `stage` (the next one begins), `ready` (the
        scene is reset), `stop` and `rearm`. A missing one is False; without the method, hands are always on.
        """

    def disconnect(self) -> None:
        """Close the device."""


class EpisodeSource(Protocol):
    """Recorded episodes of one format. Listing them decodes no video, so there may be any number of them."""

    def episodes(self) -> Sequence[EpisodeInfo]:
        """All episodes, sorted by name. Raises EpisodeError, naming episode, file and field."""

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Decode frames of one episode: uint8 [F, V, H, W, 3].

        Args:
            episode_id: one of those listed.
            frame_ids: int64 [F], strictly increasing.
            size: (height, width) to resize to; None keeps the recorded size.
        Raises:
            EpisodeError: a frame does not exist, or a video cannot be decoded.
        """
