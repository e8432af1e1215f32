"""What a robot measured and did at each frame of a recorded episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.raw import has_transitions, malformed, read_transitions
from dopamine_rl.files import read_json

PERIODS = "periods.json"
"""File beside a recording of a real robot: `by` and `observed_s`, who moved it in each control period and when it was
observed, seconds; `state` and `action`, the names of the numbers; `step`, the displacements that actions of 1 mean."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Of one episode.

    Args:
        states: float32 [F, D], what was measured at each frame.
        actions: float32 [F, A], what was done after it; 0, no displacement, at the last.
        state_names, action_names: of the numbers; () where they have none.
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    state_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()

    @property
    def kind(self) -> tuple[object, ...]:
        """Sizes and names, which all episodes of a dataset share."""
        return self.states.shape[1], self.actions.shape[1], self.state_names, self.action_names


def read_motion(folder: Path) -> Motion | None:
    """The motion of a raw episode; None where it was not recorded, or frames were not kept at every step.

    Raises:
        EpisodeError: a file of the episode is malformed.
    """
    if not has_transitions(folder):
        return None
    arrays = read_transitions(folder)
    observations, actions = arrays["observations"], arrays["actions"].astype(np.float32)
    if len(arrays["frame_steps"]) != len(observations):
        return None
    state_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    if (folder / PERIODS).exists():
        about: Any = None
        try:
            about = read_json(folder / PERIODS)
            state_names, action_names = tuple(map(str, about["state"])), tuple(map(str, about["action"]))
            step = np.array(about["step"], np.float32)
            widths = [len(state_names), len(action_names), *step.shape]
            if widths != [observations.shape[1], actions.shape[1], actions.shape[1]]:
                raise ValueError
            actions = actions * step
        except (KeyError, TypeError, ValueError):
            fix = (
                f"name {observations.shape[1]} states and {actions.shape[1]} actions, and give the step of each action"
            )
            raise malformed(folder, PERIODS, "state, action, step", about, fix) from None
    still = np.zeros((1, actions.shape[1]), np.float32)
    return Motion(observations.astype(np.float32), np.concatenate((actions, still)), state_names, action_names)
