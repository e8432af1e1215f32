"""The states of the precision probe: where the object really is, and what true progress says there."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.envs import make_env
from actors.maniskill import EnvConfig, SimulatedEnv
from actors.probe import record_probe, visit
from actors.tasks import TASKS
from actors.workers import SimulationWorker
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.probe import probe_figures
from tests.actors.test_tasks import config

PEG, CHARGER = "PegInsertionSide-v1", "PlugCharger-v1"


STARTS = pytest.mark.parametrize(
    "blind",
    [EnvConfig(views=()), config(PEG), config(CHARGER)],
    ids=["insertion start", "standard start", "charger"],
    indirect=True,
)


@pytest.fixture(scope="module")
def blind(request: pytest.FixtureRequest) -> Iterator[SimulatedEnv]:
    """A task without pictures, in an episode; one scene serves all the tests of a task."""
    env = make_env(request.param)
    env.reset(seed=7000)
    yield env
    env.close()


@STARTS
def test_the_object_comes_to_rest_where_it_is_put_still_held(blind: SimulatedEnv) -> None:
    sunk = blind.put(np.array([0.03, 0.0, 0.0])) - [0.03, 0.0, 0.0]
    assert np.abs(sunk).max() < 0.006
    seen = []
    for where in ([0.03, 0.0, 0.0], [0.003, 0.03, 0.0], [0.003, 0.0, -0.03], [0.03, 0.0, 0.0]):
        assert np.abs(blind.put(where - sunk) - where).max() < 0.001
        seen.append(blind.put(where - sunk).tobytes())
    assert seen[0] == seen[3]


@STARTS
def test_true_progress_ranks_alignment_and_pays_for_it(blind: SimulatedEnv) -> None:
    place = replace(blind.place, gaps_m=blind.place.gaps_m[::2], offsets_m=(0.0, 0.004, 0.03))
    states = [(*state, blind.true_progress()) for state in visit(blind, place, 7000)]
    assert len(states) == 2 * (1 + 2 * 4)
    figures = probe_figures(*np.array(states).T)
    assert figures.ranks.tolist() == pytest.approx([1.0, 1.0])
    assert figures.trade < 0


@pytest.mark.render
def test_a_simulator_records_every_state_and_none_is_out_of_reach_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    place = TASKS[PEG].place
    assert place is not None
    few = replace(place, gaps_m=(0.03, 0.003), offsets_m=(0.0, 0.03))
    monkeypatch.setitem(TASKS, PEG, replace(TASKS[PEG], place=few))
    simulator: Any = SimulationWorker
    worker = simulator.__ray_metadata__.modified_class(EnvConfig(views=("wrist", "front"), image_size=32))
    pictures = worker.probe(7000)
    with pytest.raises(RuntimeError, match="cannot reach"):
        worker._env.put(np.array([5.0, 0.0, 0.0]))
    worker._env.close()
    count = 2 * (1 + 4)
    assert pictures.frames.shape == (count, 2, 32, 32, 3)
    assert pictures.start.shape == pictures.frames.shape[1:]
    assert pictures.gaps_m.tolist() == [0.03] * 5 + [0.003] * 5
    assert pictures.offsets_m.tolist() == [0.0, *[0.03] * 4] * 2
    assert len(np.unique(pictures.frames.reshape(count, -1), axis=0)) == count
    assert pictures.truth[0] > pictures.truth[6:].max()


def test_a_task_without_a_hole_and_an_environment_without_pictures_have_no_probe() -> None:
    cube = make_env(config("PickCube-v1"))
    pegs = make_env(EnvConfig(views=()))
    try:
        with pytest.raises(BadInput, match=r"env\.task = 'PickCube-v1'"):
            record_probe(cube, 7000)
        with pytest.raises(BadInput, match=r"env\.views"):
            record_probe(pegs, 7000)
    finally:
        cube.close()
        pegs.close()
