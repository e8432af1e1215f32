"""Environments whose pictures are encoded, or packed for an encoder that is learned: a learner sees vectors alone."""

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
from dopamine_rl.tokens import FrameTokens
from dopamine_rl.types import Views


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


class EncodedObservation(gymnasium.Wrapper[NDArray[Any], Any, Any, Any]):
    """Turns an environment's pictures into features, once a step. Observation: float32 [D] (`Eyes.vector`).

    With an encoder that is learned the observation is the pictures, packed: uint8 [N].

    Where a step's frame is scored and the encoder is a reward model's vision tower, the infos hold `scored_tokens`, the
    frame's tokens (FrameTokens): the reward model need not encode it again. Views that the policy does not see are
    encoded for this, together with those that it sees.

    Args:
        env: observes proprioception and pictures by name.
        eyes: of the policy.
        scored: names of the scored views, in the order of the V axis.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], eyes: Eyes, scored: Sequence[str] = ()) -> None:
        super().__init__(env)
        self._eyes, self._tower, self._scored = eyes, eyes.saved.version, tuple(scored)
        if eyes.learned:
            self.observation_space = gymnasium.spaces.Box(0, 255, (eyes.packing.width,), np.uint8)
        else:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (eyes.size,), np.float32)

    @property
    def encoded_pictures(self) -> int | None:
        """Pictures that were encoded so far; None if the encoder does not count them."""
        return getattr(self._eyes.encoder, "encoded", None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode. Its first frame is given as pictures alone, which the service keeps."""
        observation, infos = self.env.reset(seed=seed, options=options)
        return self._eyes.given_now(observation), infos

    def step(self, action: Any) -> tuple[NDArray[Any], Any, bool, bool, dict[str, Any]]:
        """Act, and encode each picture once."""
        observation, reward, terminated, truncated, infos = self.env.step(action)
        if self._eyes.learned:
            return self._eyes.given_now(observation), reward, terminated, truncated, infos
        rows, others = self._layout(observation, infos.get("scored_views"))
        vector, tokens = self._eyes.look(observation, others)
        if tokens is not None and rows:
            infos = infos | {"scored_tokens": FrameTokens(self._tower, tokens[rows])}
        return vector, reward, terminated, truncated, infos

    def _layout(self, observation: Mapping[str, Any], scored: Views | None) -> tuple[list[int], NDArray[np.uint8]]:
        """Where the scored views are among the pictures to be encoded: those that the policy sees, then others.

        Returns:
            The place of each scored view, and the others, uint8 [M, H, W, 3]. There are none without a scored frame,
            or if its pictures have another size than those that the policy sees.
        """
        sight = self._eyes.sight
        size = (sight.height, sight.width, 3)
        if scored is None or scored.shape[1:] != size:
            return [], np.zeros((0, *size), np.uint8)
        rows: list[int] = []
        others: list[Views] = []
        for index, picture in enumerate(scored):
            name = self._scored[index] if index < len(self._scored) else ""
            if name in sight.views and np.array_equal(picture, observation[name]):
                rows.append(sight.views.index(name))
            else:
                rows.append(len(sight.views) + len(others))
                others.append(picture)
        return rows, np.array(others, np.uint8).reshape(-1, *size)
