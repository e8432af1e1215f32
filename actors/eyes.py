"""Environments whose pictures are encoded, so that a learner sees vectors alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict
from numpy.typing import NDArray

from actors.maniskill import PROPRIOCEPTION_SIZE, EnvConfig
from dopamine_rl.encoders.eyes import PROPRIOCEPTION, Eyes, Sight
from dopamine_rl.errors import BadInput
from dopamine_rl.spelling import one_of
from dopamine_rl.tokens import ViewTokens
from dopamine_rl.types import Views

SCORED_VIEWS, SCORED_TOKENS = "scored_views", "scored_tokens"
"""Keys of a scored frame in the infos."""


def sight_of(config: EnvConfig) -> Sight | None:
    """What a policy sees in the pictures of a simulated task; None where there are none."""
    size = config.image_size
    return Sight(PROPRIOCEPTION_SIZE, config.policy_views, size, size) if config.sees_pictures else None


def sight_in(space: gymnasium.Space[Any], config: EnvConfig) -> Sight | None:
    """What a policy sees of an observation space; None where it has no pictures.

    Raises:
        BadInput: one of the policy's views is not among them, or their sizes differ.
    """
    if not isinstance(space, Dict):
        if config.sees_pictures:
            raise BadInput("env.observation", "pictures", "write state: the environment's observation has no pictures")
        return None
    shapes = {name: part.shape or () for name, part in space.items()}
    (proprioception,) = shapes.pop(PROPRIOCEPTION)
    for view in config.policy_views:
        if view not in shapes:
            raise BadInput("env.policy_views", config.policy_views, one_of(view, list(shapes)))
    seen = {shapes[view] for view in config.policy_views}
    if len(seen) != 1:
        raise BadInput("env.policy_views", config.policy_views, "name pictures of one size")
    height, width, _ = seen.pop()
    return Sight(proprioception, config.policy_views, height, width)


def check_sight(eyes: Eyes | None, shown: Sight | None, policy: str) -> None:
    """Check that a policy sees what an environment shows.

    Args:
        eyes: the policy's; None if it reads observations as they are.
        shown: by the environment; None if it has no pictures.
        policy: its file.
    Raises:
        BadInput: naming the policy.
    """
    sees = eyes.sight if eyes else None
    if sees != shown:
        fix = (
            f"give a policy for what this environment shows ({_said(shown)}), or --preset with the settings that this "
            f"one was trained with: it sees {_said(sees)}"
        )
        raise BadInput("POLICY", policy, fix)


def _said(sight: Sight | None) -> str:
    if sight is None:
        return "no pictures"
    return f"{' and '.join(sight.views)}, {sight.height} × {sight.width} pixels"


class EncodedObservation(gymnasium.Wrapper[NDArray[np.float32], Any, Any, Any]):
    """Turns an environment's pictures into features, once a step. Observation: float32 [D] (`Eyes.vector`).

    Where a step's frame is scored and the encoder is a reward model's vision tower, the infos hold `scored_tokens`: the
    tokens of the scored views that the policy sees (ViewTokens), so that the reward model need not encode them again.

    Args:
        env: observes proprioception and pictures by name.
        eyes: of the policy.
        scored: names of the scored views, in the order of the V axis.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], eyes: Eyes, scored: Sequence[str] = ()) -> None:
        super().__init__(env)
        self._eyes, self._tower = eyes, eyes.saved.version
        views = eyes.sight.views
        self._places = {index: views.index(view) for index, view in enumerate(scored) if view in views}
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (eyes.size,), np.float32)

    @property
    def encoded_pictures(self) -> int | None:
        """Pictures that were encoded so far; None if the encoder does not count them."""
        return getattr(self._eyes.encoder, "encoded", None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode. Its first frame is given as pictures alone: services keep it."""
        observation, infos = self.env.reset(seed=seed, options=options)
        return self._eyes.vector(observation), infos

    def step(self, action: Any) -> tuple[NDArray[np.float32], Any, bool, bool, dict[str, Any]]:
        """Act, and encode each picture once."""
        observation, reward, terminated, truncated, infos = self.env.step(action)
        vector, tokens = self._eyes.look(observation)
        if tokens is not None and SCORED_VIEWS in infos:
            scored = self._tokens(observation, infos[SCORED_VIEWS], tokens)
            infos = infos | ({} if scored is None else {SCORED_TOKENS: scored})
        return vector, reward, terminated, truncated, infos

    def _tokens(
        self, observation: Mapping[str, Any], pictures: Views, tokens: NDArray[np.float32]
    ) -> ViewTokens | None:
        """The tokens of those scored views whose pictures the policy has seen; None if there are none."""
        seen = self._eyes.sight.views
        same = {
            index: place
            for index, place in self._places.items()
            if index < len(pictures) and np.array_equal(pictures[index], observation[seen[place]])
        }
        return ViewTokens(self._tower, tuple(same), tokens[list(same.values())]) if same else None
