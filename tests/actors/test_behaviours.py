"""Behaviour that fools rewards does what its name says, in every task, by the simulator's true progress."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.demonstrations import find_keyframes
from actors.envs import make_env
from actors.experts.peg import PegInsertionExpert
from actors.maniskill import EnvConfig, SimulatedEnv
from actors.tasks import TASKS
from actors.tasks.task import DROPPING, EXPERT, SUCCEEDING
from dopamine_rl.episodes.pauses import PAUSE, find_pauses
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.behaviours import KINDS
from dopamine_rl.interfaces import Expert
from tests.actors.test_tasks import config

PEG, PICK, PULL = "PegInsertionSide-v1", "PickCube-v1", "PullCube-v1"
LAPTOP = EnvConfig(views=(), horizon=60, oracle=True)
"""The environment of the preset laptop: its actions have no gripper."""
SEEDS = (6002, 6000, 6003, 6001)
"""Until one ends as it is meant to, as in recording."""
RUNS = [(PEG, "insertion"), (PICK, "standard"), (PULL, "standard")]


@dataclass(frozen=True)
class Episode:
    success: bool
    progress: NDArray[np.float64]
    tools: NDArray[np.float64]
    items: NDArray[np.float64]
    stages: list[str]
    script: Expert


@pytest.fixture(scope="module")
def env(request: pytest.FixtureRequest) -> Iterator[SimulatedEnv]:
    name, start = request.param
    env = make_env(LAPTOP if start == "insertion" else config(name))
    yield env
    env.close()


def run(env: SimulatedEnv, kind: str, seed: int) -> Episode:
    _, infos = env.reset(seed=seed)
    script = TASKS[env.config.task].scripts[kind]()
    script.reset(env, np.random.default_rng(seed))
    progress, states, steps, ended = [infos["oracle_progress"]], [env.state()], [script.stage], False
    while not ended:
        action = script.act(env)
        assert action.dtype == np.float32
        assert env.action_space.contains(action)
        *_, terminated, truncated, infos = env.step(action)
        progress.append(infos["oracle_progress"])
        states.append(env.state())
        steps.append(script.stage)
        ended = terminated or truncated
    tools = np.array([state.tool[:3, 3] for state in states])
    items = np.array([getattr(state, "item", getattr(state, "peg", None))[:3, 3] for state in states])
    return Episode(infos["success"], np.array(progress), tools, items, [script.stages[i] for i in steps], script)


def as_meant(env: SimulatedEnv, kind: str) -> Episode:
    for seed in SEEDS:
        episode = run(env, kind, seed)
        if episode.success == (kind in SUCCEEDING):
            return episode
    raise AssertionError(f"{kind} never ended as it is meant to")


def test_every_script_but_the_baseline_has_a_kind_that_is_judged() -> None:
    for name, task in TASKS.items():
        assert {EXPERT, *task.kinds} <= set(KINDS), name
        assert {"pause", "retry", "oscillate", "beside", "near_miss", "retreat"} <= set(task.kinds), name
        assert ("drop_at_end" in task.kinds) == ("drop" in task.kinds), name


@pytest.mark.parametrize("env", RUNS, indirect=True)
def test_a_pause_rests_and_then_succeeds(env: SimulatedEnv) -> None:
    episode = as_meant(env, "pause")
    still = np.array(episode.stages) == PAUSE
    runs = np.split(np.flatnonzero(still), np.flatnonzero(np.diff(np.flatnonzero(still)) > 1) + 1)
    assert 1 <= len(runs) <= 2
    for steps in runs:
        assert len(steps) >= 6
        assert np.linalg.norm(episode.tools[steps] - episode.tools[steps[0]], axis=1).max() < 0.004
        assert np.ptp(episode.progress[steps]) < 0.02
    frames = sorted({*range(0, len(episode.progress), env.config.stride), len(episode.progress) - 1})
    numbers = np.cumsum([0, *(a != b for a, b in pairwise(episode.stages))]).tolist()
    assert tuple(_names(episode.stages)) == episode.script.stages
    keyframes, stages = find_keyframes(numbers, frames, episode.script.stages)
    pauses = find_pauses(keyframes, stages, len(frames))
    assert pauses.max() == len(runs)
    assert still[np.array(frames)[pauses > 0]].all()
    assert (pauses > 0).sum() >= 2


def _names(stages: list[str]) -> list[str]:
    return [name for i, name in enumerate(stages) if i == 0 or name != stages[i - 1]]


@pytest.mark.parametrize("env", RUNS, indirect=True)
def test_a_retry_gives_up_what_it_had_and_then_succeeds(env: SimulatedEnv) -> None:
    episode = as_meant(env, "retry")
    assert 1 <= sum(name == "retreat" for name in _names(episode.stages)) <= 2
    back = np.array(episode.stages) == "retreat"
    reached = np.maximum.accumulate(episode.progress)
    assert reached[back].min() >= 0.3
    fallen = (reached - episode.progress).max()
    assert fallen > (0.03 if env.config.task == PULL else 0.15)  # the cube stays where it was pulled to


@pytest.mark.parametrize("env", RUNS, indirect=True)
def test_an_oscillation_comes_and_goes_and_never_arrives(env: SimulatedEnv) -> None:
    episode = as_meant(env, "oscillate")
    assert sum(name == "retreat" for name in _names(episode.stages)) >= 3 or env.config.start == "insertion"
    assert "retreat" in episode.stages
    first = episode.stages.index("retreat")
    turned = np.sign(np.diff(episode.progress[first:]))
    assert (turned > 0).any()
    assert (turned < 0).any()
    assert episode.progress.max() < 0.85
    assert episode.progress[-1] <= episode.progress[: first + 3].max() + 0.15


@pytest.mark.parametrize("env", RUNS, indirect=True)
def test_beside_the_target_it_moves_as_the_expert_does_and_gains_little(env: SimulatedEnv) -> None:
    beside, expert = as_meant(env, "beside"), run(env, "expert", SEEDS[0])
    assert not beside.success
    travelled = [np.abs(np.diff(episode.tools, axis=0)).sum() for episode in (beside, expert)]
    assert travelled[0] > 0.5 * travelled[1]
    if env.config.task == PEG:
        assert beside.progress[-1] < 0.3
    elif env.config.task == PULL:
        assert np.linalg.norm(beside.items[-1] - beside.items[0]) < 0.005
    else:
        goal = env.state().goal[:3, 3]
        assert 0.04 < np.linalg.norm(beside.items[-1] - goal) < 0.12


@pytest.mark.parametrize("env", [(PICK, "standard")], indirect=True)
def test_a_drop_at_the_end_was_nearly_there(env: SimulatedEnv) -> None:
    episode = as_meant(env, "drop_at_end")
    assert episode.progress.max() > 0.7
    assert episode.progress[-1] < 0.3


@pytest.mark.parametrize("env", [(PEG, "insertion")], indirect=True)
@pytest.mark.parametrize("kind", DROPPING)
def test_nothing_is_dropped_where_the_gripper_stays_shut(env: SimulatedEnv, kind: str) -> None:
    env.reset(seed=6000)
    with pytest.raises(BadInput, match=r"env\.start = 'insertion': use the standard start"):
        TASKS[PEG].scripts[kind]().reset(env, np.random.default_rng(0))


@pytest.mark.parametrize("env", [(PEG, "insertion")], indirect=True)
def test_a_disturbed_expert_acts_without_a_gripper_too(env: SimulatedEnv) -> None:
    assert not run(env, "perturb", 6000).success


@pytest.mark.parametrize("env", [(PEG, "insertion")], indirect=True)
def test_who_mistakes_the_hole_s_place_still_sees_the_rest_as_it_is(env: SimulatedEnv) -> None:
    env.reset(seed=6000)
    script = TASKS[PEG].scripts["beside"]()
    script.reset(env, np.random.default_rng(0))
    seen, true = script._seen(env).unwrapped.state(), env.state()
    offset = np.linalg.inv(true.hole) @ seen.hole
    assert offset[0, 3] == pytest.approx(0.0)
    assert 0.02 <= np.linalg.norm(offset[1:3, 3]) <= 0.05
    np.testing.assert_array_equal(seen.peg, true.peg)
    assert isinstance(script._expert, PegInsertionExpert)
