"""Records the states of the precision probe: the held object at rest before the place that asks for precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from actors.maniskill import SimulatedEnv
from actors.tasks.task import PrecisePlace
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.probe import Floats, ProbePictures

DIRECTIONS = 4
"""In which the object is moved aside: quarter turns from a direction that the seed draws."""
CORRECTIONS = 2
"""How often the object is put again, on the axis of each gap, to find by how much its weight takes it down."""


def record_probe(env: SimulatedEnv, seed: int) -> ProbePictures:
    """Put the object at every gap and offset, in four directions, and take a frame of all views each.

    The same seed gives the same states. An object that sinks in the grasp is put as much higher.

    Args:
        env: renders views.
        seed: of the scene, of its first frame and of the directions.
    Raises:
        BadInput: the environment renders no views, or its task asks for precision nowhere.
        RuntimeError: the arm cannot reach a state.
    """
    place = env.place
    if not env.config.views:
        raise BadInput("env.views", (), "name at least one view; the probe shows pictures")
    _, infos = env.reset(seed=seed)
    frames, rows = [], []
    for gap, offset in visit(env, place, seed):
        frames.append(env.render_views())
        rows.append((gap, offset, env.true_progress()))
    gaps, offsets, truth = np.array(rows, np.float64).T
    return ProbePictures(infos["scored_views"], np.stack(frames), gaps, offsets, truth)


def visit(env: SimulatedEnv, place: PrecisePlace, seed: int) -> Iterator[tuple[float, float]]:
    """Put the object into one state after the other; yields the gap and the offset of each, in metres."""
    first = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi)
    for gap in place.gaps_m:
        sunk = _sunk(env, gap)
        for offset in place.offsets_m:
            for turn in range(DIRECTIONS if offset else 1):
                angle = first + turn * 2.0 * np.pi / DIRECTIONS
                env.put(np.array([gap, offset * np.cos(angle), offset * np.sin(angle)]) - sunk)
                yield gap, offset


def _sunk(env: SimulatedEnv, gap: float) -> Floats:
    """By how much an object comes to rest beside where it is put, [gap, y, z] in metres."""
    wanted = np.array([gap, 0.0, 0.0])
    sunk = np.zeros(3)
    for _ in range(CORRECTIONS):
        sunk += env.put(wanted - sunk) - wanted
    return sunk
