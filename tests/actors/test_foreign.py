"""An environment of a user's own, with the surface that the main job needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from actors.demonstrations import record, record_missing
from actors.envs import check_task, make_env, scripts_of
from actors.foreign import ForeignEnv, ObservationLayout, Proprioception, action_bounds, make_expert
from actors.maniskill import EnvConfig
from dopamine_rl.episodes.raw import read_demonstration
from dopamine_rl.errors import BadInput
from tests.actors.reaching import NAMES, Reaching
from tests.fakes import frame, seen

MODULE = "tests.actors.reaching"
OWN = EnvConfig(make=f"{MODULE}:Reaching", views=NAMES, horizon=6, stride=2, instruction="reach")
INFOS = replace(OWN, kwargs='{"gives": "infos"}')


def act(env: Any, value: float, steps: int) -> list[dict[str, Any]]:
    """The infos of the steps."""
    infos = []
    for _ in range(steps):
        *_, info = env.step(np.array([value], np.float32))
        infos.append(info)
    return infos


@pytest.mark.parametrize("config", [OWN, INFOS], ids=["observation", "infos"])
def test_pictures_are_given_where_they_are_due_and_only_there(config: EnvConfig) -> None:
    env = make_env(config)
    observation, info = env.reset(seed=0)
    assert observation.dtype == np.float32
    assert env.observation_space.contains(observation)
    np.testing.assert_array_equal(info["scored_views"], frame(0.0))
    infos = act(env, 0.3, 5)
    assert ["scored_views" in info for info in infos] == [False, True, False, True, False]
    assert seen(infos[1]["scored_views"][0]) == pytest.approx(0.2, abs=0.01)
    env.reset(options={"stride": 3})
    assert ["scored_views" in info for info in act(env, 0.0, 4)] == [False, False, True, False]
    _, info = env.reset(options={"pictures": False})
    assert not any("scored_views" in info for info in [info, *act(env, 0.0, 6)])


def test_the_horizon_cuts_off_and_success_is_what_terminates_where_nobody_says_it() -> None:
    env = make_env(OWN)
    env.reset(seed=0)
    for _ in range(6):
        _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated, info["success"]) == (False, True, False)
    assert "scored_views" in info
    env.reset()
    for _ in range(3):
        _, reward, terminated, truncated, info = env.step(np.ones(1, np.float32))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


class Limited(Reaching):
    """Executes half of what it is asked for, and says so."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *rest, info = super().step(action / 2)
        return (*rest, {**info, "executed": action / 2})  # type: ignore[return-value]


def test_what_was_executed_is_passed_on_in_units_of_the_policy() -> None:
    env = make_env(replace(OWN, make="tests.actors.test_foreign:Limited"))
    env.reset(seed=0)
    assert act(env, 0.4, 1)[0]["executed"] == pytest.approx([0.2])


class Telling(Reaching):
    """Says itself whether it succeeded, with bounds of its own and one array for all observations."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = Box(np.array([-2.0], np.float32), np.array([4.0], np.float32))
        self.hints: Any = None
        self.actions: list[float] = []
        self._array = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.hints = options
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(float(action[0]))
        return (*super().step(action)[:4], {"success": np.bool_(False)})

    def _observe(self) -> Any:
        self._array[:] = self.x
        return super()._observe() | {"proprioception": self._array}


def test_actions_have_the_environments_own_units_and_observations_are_copies() -> None:
    inner = Telling()
    env = ForeignEnv(OWN, inner)
    first, _ = env.reset(seed=0)
    assert inner.hints == {"pictures": True, "stride": 2, "horizon": 6}
    for action in (-1.0, 0.0, 1.0, 5.0):
        observation, _, terminated, _, info = env.step(np.array([action], np.float32))
    np.testing.assert_allclose(inner.actions, [-2.0, 1.0, 4.0, 4.0])
    assert terminated
    assert info["success"] is False
    assert first["proprioception"][0] == 0.0 < observation["proprioception"][0]
    assert env.from_units(np.array([4.0])) == 1.0
    assert env.from_units(np.array([9.0])) == 1.0
    np.testing.assert_allclose(env.to_units(env.from_units(np.array([0.7]))), [0.7], rtol=1e-6)


def test_a_policy_sees_proprioception_alone_of_a_dict() -> None:
    env = make_env(OWN)
    assert isinstance(env, Proprioception)
    assert env.observation_space.shape == (1,)
    assert isinstance(env.unwrapped, ForeignEnv)
    assert isinstance(make_env(INFOS), ForeignEnv)


class Expert:
    """Always goes on."""

    stages = ("go", "arrive")

    def reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        self.stage = 0
        assert isinstance(env, Reaching)

    def act(self, env: gymnasium.Env) -> np.ndarray:
        self.stage = int(env.unwrapped.x > 0.5)  # type: ignore[attr-defined]
        return np.array([1.0], np.float32)


def test_an_expert_of_ones_own_is_recorded_and_nothing_is_made_up(tmp_path: Path) -> None:
    config = replace(OWN, stride=1)
    scripts = scripts_of(config, f"{__name__}:Expert")
    assert list(scripts) == ["expert"]
    record_missing(make_env(config), "expert", scripts["expert"](), 5, tmp_path)
    episode = read_demonstration(tmp_path / "expert_000005")
    assert episode.instructions == ("reach",)
    assert (episode.success, episode.terminated, episode.seed) == (True, True, 5)
    np.testing.assert_allclose(episode.actions, 1.0)
    np.testing.assert_allclose(episode.observations[:, 0], [0, 1 / 3, 2 / 3, 1], atol=1e-6)
    assert episode.stages == ("go", "arrive")
    assert episode.true_progress is None
    assert episode.tool_poses is None
    assert not episode.near_miss
    failure = record(
        make_env(replace(config, horizon=2)), make_expert(f"{__name__}:Expert"), 0, np.random.default_rng(0)
    )
    assert (failure.success, failure.near_miss) == (False, None)


def test_without_an_expert_there_is_no_script() -> None:
    assert scripts_of(OWN) == {}
    assert "near_miss" in scripts_of(EnvConfig())
    check_task(replace(OWN, task="nothing that is simulated"))
    with pytest.raises(BadInput, match=r"demonstrations.expert = .*: give it `stages`"):
        make_expert(f"{MODULE}:Reaching")


def box(*shape: int, dtype: Any = np.float32) -> Box:
    return Box(0, 1, shape, dtype)


@pytest.mark.parametrize(
    ("space", "fix"),
    [
        (Discrete(3), r"observation_space = 'Discrete': give a Box \[D\], or a Dict of proprioception"),
        (box(2, 3), r"observation_space = .*: give a Box \[D\] of floats"),
        (Dict({"front": box(4, 4, 3, dtype=np.uint8)}), r"observation_space = \['front'\]: give a Box"),
        (
            Dict({"proprioception": box(2), "front": box(4, 4, 3)}),
            r"observation_space\['front'\] = .*uint8 \[H, W, 3\]",
        ),
        (Dict({"proprioception": box(2), "touch": box(4)}), r"observation_space\['touch'\]"),
        (Dict({"proprioception": box(2, 2)}), r"observation_space\['proprioception'\] = .*Box \[D\]"),
    ],
)
def test_an_observation_space_that_cannot_be_used_says_why(space: Any, fix: str) -> None:
    with pytest.raises(BadInput, match=fix):
        ObservationLayout.of(space)


@pytest.mark.parametrize(
    ("space", "fix"),
    [
        (Discrete(3), r"give a Box \[A\] of floats"),
        (Box(-1, 1, (2, 2)), r"give a Box \[A\] of floats"),
        (Box(-np.inf, 1, (2,)), "give finite bounds"),
        (Box(0, 0, (2,)), "a range to move in"),
    ],
)
def test_an_action_space_that_cannot_be_used_says_why(space: Any, fix: str) -> None:
    with pytest.raises(BadInput, match=f"action_space = .*: .*{fix}"):
        action_bounds(space)


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"views": ("fronr",)}, "env.views = .*: write front; available: front, wrist"),
        ({"kwargs": '{"gives": "nowhere"}'}, r"info\['scored_views'\] = None: give pictures at reset"),
        ({"kwargs": '{"gives": "infos", "stride": 5}'}, r"every 2 environment steps and at the last one"),
        (
            {"kwargs": '{"gives": "infos"}', "views": ("front",)},
            "env.views = .*: name 2: the environment shows as many",
        ),
        ({"make": "tests.actors.test_foreign:box", "kwargs": "{}"}, "env.make = .*: return a gymnasium.Env"),
    ],
)
def test_an_environment_that_does_not_fit_its_config_says_why(changes: dict[str, Any], fix: str) -> None:
    def play() -> None:
        env = make_env(replace(OWN, **changes))
        env.reset(seed=0)
        act(env, 0.0, 4)

    with pytest.raises(BadInput, match=fix):
        play()


def test_views_of_different_sizes_are_no_frame() -> None:
    layout = ObservationLayout(1, {"front": (8, 8, 3), "wrist": (4, 4, 3)})
    layout.check_views(("wrist",))
    with pytest.raises(BadInput, match=r"env.views = .*: name pictures of one size: front \(8, 8\), wrist \(4, 4\)"):
        layout.check_views(("front", "wrist"))
