"""Environments whose pictures are encoded, or packed for an encoder that is learned: a learner sees vectors alone."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict
from numpy.typing import NDArray

from actors.maniskill import PROPRIOCEPTION_SIZE, EnvConfig
from dopamine_rl.encoders.eyes import PROPRIOCEPTION, Eyes, Sight
from dopamine_rl.errors import BadInput
from dopamine_rl.spelling import one_of


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


class EncodedObservation(gymnasium.ObservationWrapper[NDArray[Any], Any, Any]):
    """Turns an environment's pictures into features, once a step. Observation: float32 [D] (`Eyes.vector`).

    With an encoder that is learned the observation is the pictures, packed: uint8 [N].

    Args:
        env: observes proprioception and pictures by name.
        eyes: of the policy.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], eyes: Eyes) -> None:
        super().__init__(env)
        self._eyes = eyes
        if eyes.learned:
            self.observation_space = gymnasium.spaces.Box(0, 255, (eyes.packing.width,), np.uint8)
        else:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (eyes.size,), np.float32)

    def observation(self, observation: Any) -> NDArray[Any]:
        """What the learner is given."""
        return self._eyes.given_now(observation)
