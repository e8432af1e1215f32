"""Success from pictures in an actor: who claims it, and the environment that ends because of it.

With a claim the simulator has no say: its success neither ends an episode, nor pays, nor decides which frame is scored.
It travels apart, for the monitor and the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.labeller import Labeller, LabellerConfig
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.success import ClaimOutcome, SuccessDetector, SuccessRule
from dopamine_rl.types import TaskReference

TRUE_SUCCESS = "true_success"
"""Key of the simulator's verdict in the infos. The labelling callback removes it before a learner sees it."""
SHOWN = ("scored_views", "executed")
"""What else of the infos a claiming environment passes on."""


class EndsOnClaim(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The episode ends on the step after a claim of success, and that step pays 1; no other step pays anything.

    Whoever judges success calls `claim`: the labelling callback from progress, a person with a key. What the
    environment itself knows of success reaches nobody but `infos["true_success"]` (bool).

    Args:
        env: takes the reset option `ends_on_success` (SimulatedEnv), and truncates alone.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._claimed = False

    def claim(self) -> None:
        """Say that the task is done; the next step ends the episode."""
        self._claimed = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; a claim about the one before is forgotten."""
        self._claimed = False
        observation, infos = self.env.reset(seed=seed, options={**(options or {}), "ends_on_success": False})
        return observation, _without_truth(infos)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; after a claim this is the last step.

        Raises:
            BadInput: the environment ended the episode itself, as if it judged success.
        """
        observation, _, terminated, truncated, infos = self.env.step(action)
        if terminated:
            raise BadInput("success", "progress", "give an environment that goes on after success, until time runs out")
        ends = self._claimed
        return observation, float(ends), ends, bool(truncated) and not ends, _without_truth(infos)


def _without_truth(infos: dict[str, Any]) -> dict[str, Any]:
    shown = {name: infos[name] for name in SHOWN if name in infos}
    return {**shown, TRUE_SUCCESS: bool(infos.get("success", False))}


class ClaimWatch:
    """Reads the answers about running episodes as they arrive, and says when a rule claims success. Never waits.

    Args:
        labeller: asks about their frames.
        rule: when success is claimed.
    """

    def __init__(self, labeller: Labeller, rule: SuccessRule) -> None:
        self._labeller, self._rule = labeller, rule
        self._detectors: dict[str, SuccessDetector] = {}

    def claims(self, episode_id: str) -> bool:
        """Whether success of an episode that the labeller knows is claimed, by the answers that are in."""
        detector = self._detectors.setdefault(episode_id, SuccessDetector(self._rule))
        for frame in self._labeller.arrived(episode_id):
            detector.observe(frame.progress, frame.outcome == "answered")
        return detector.claimed

    def forget(self, episode_id: str) -> None:
        """An episode is over."""
        self._detectors.pop(episode_id, None)


@dataclass(frozen=True, eq=False)
class Claiming:
    """What an evaluation needs to end its episodes by claims; sent to simulators.

    Args:
        labelling: how frames are asked about.
        make_client: makes the reward client where it is used.
        reference: of the task.
        rule: when success is claimed.
    """

    labelling: LabellerConfig
    make_client: Callable[[], RewardClient]
    reference: TaskReference
    rule: SuccessRule


def run_until_claim(
    env: gymnasium.Env[Any, Any],
    act: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    seed: int,
    claiming: Claiming,
    client: RewardClient,
) -> ClaimOutcome:
    """Run one episode as in training: it ends on the step after a claim, or when time runs out.

    Args:
        env: a SimulatedEnv that renders views.
        act: the policy.
        client: of `claiming`.
    Raises:
        BadInput: the environment renders no views.
    """
    ending, name = EndsOnClaim(env), f"evaluation-{seed}"
    labeller = Labeller(claiming.labelling, client)
    watch = ClaimWatch(labeller, claiming.rule)
    observation, infos = ending.reset(seed=seed)
    if "scored_views" not in infos:
        raise BadInput("env.views", (), "name at least one view: success is claimed from pictures")
    labeller.begin(name, claiming.reference.context(name, infos["scored_views"]))
    reached, time = False, 0
    while True:
        observation, _, terminated, truncated, infos = ending.step(act(observation))
        time += 1
        reached |= infos[TRUE_SUCCESS]
        if terminated or truncated:
            labeller.drop(name)
            return ClaimOutcome(claimed=terminated, success=infos[TRUE_SUCCESS], reached=reached)
        if "scored_views" in infos:
            labeller.observe(name, time, infos["scored_views"])
        if watch.claims(name):
            ending.claim()
