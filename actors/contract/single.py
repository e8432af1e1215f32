"""Plays a gymnasium.Env to see whether it keeps to dopamine_rl.interfaces.MakeEnvironment."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import Autoreset

from actors.contract.findings import SEED, Findings, Stopped, check_spaces, kind_of, unlike_numbers
from actors.foreign import SCORED_VIEWS, ObservationLayout
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.errors import BadInput
from dopamine_rl.types import check_views

STRIDES = (0, 1, 4)
"""Of the episodes that are played: environment steps from one frame that is looked at to the next; 0 without any."""
RESET_KEYS = ("final_obs", "final_observation", "final_info", "terminal_observation")
"""What environments that reset by themselves leave in the last info."""


def check_single(env: gymnasium.Env[Any, Any], findings: Findings, steps: int) -> None:
    """Play some episodes of random actions.

    Args:
        findings: receives what is found.
        steps: most environment steps of an episode.
    Raises:
        Stopped: it cannot be played on.
    """
    findings.add("is a gymnasium.Env", "ok", type(env.unwrapped).__name__)
    layout = check_spaces(env.observation_space, env.action_space, findings)
    if layout is None:
        return
    player = Player(env, layout, findings)
    rng = np.random.default_rng(SEED)
    without, shown, _ = (player.play(seed, steps, rng, stride) for seed, stride in enumerate(STRIDES))
    _check_seeds(player)
    _check_wrappers(env, findings)
    if not any(player.ended):
        findings.add("ends", "note", f"no episode ended within {steps} steps", "env.horizon will truncate them")
    findings.add("ends", "ok", f"{sum(player.ended)} of {len(STRIDES)} episodes ended within {steps} steps")
    for rule, seen in (("observations", "as the space says, and finite"), ("steps", "5 values of the right types")):
        findings.add(rule, "ok", seen)
    if not player.says_success:
        findings.add("success", "note", "info['success'] is missing", "`terminated` is taken for success")
    findings.add("success", "ok", "info['success'] is true or false")
    findings.add("nothing resets by itself", "ok", "the last observation is the episode's own")
    _check_pictures_given(player)
    pictured = f", {1e3 * shown:.3g} ms with pictures at every step" if player.shape else ""
    findings.add("speed", "ok", f"{1e3 * without:.3g} ms per step{pictured}")


class Player:
    """Plays episodes of random actions and looks at everything that comes back.

    Args:
        env, layout: the environment, and the layout of its observations.
        findings: receives what is wrong.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], layout: ObservationLayout, findings: Findings) -> None:
        self.env, self.layout, self.findings = env, layout, findings
        self.ended: list[bool] = []
        self.says_success = False
        self.shape: tuple[int, ...] | None = None

    def reset(self, seed: int, stride: int = 1, horizon: int = 1) -> Any:
        """Begin an episode; returns a copy of its observation."""
        where = f"reset(seed={seed})"
        with self.findings.calling(where):
            options = {"pictures": stride > 0, "stride": max(stride, 1), "horizon": horizon}
            returned = self.env.reset(seed=seed, options=options)
        if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
            self.findings.add("resets", "broken", f"{where} returns {kind_of(returned)}", "return (observation, info)")
            raise Stopped
        self.findings.add("resets", "ok", "reset(seed=…, options=…) returns (observation, info)")
        observation, info = returned
        self.look(observation, info, where, due=stride > 0)
        return copy.deepcopy(observation)

    def play(self, seed: int, steps: int, rng: np.random.Generator, stride: int) -> float:
        """Play one episode; returns the median seconds of a step."""
        first, spent, ended, count = self.reset(seed, stride, steps), [], False, 0
        while not ended and count < steps:
            action = rng.uniform(self.env.action_space.low, self.env.action_space.high).astype(np.float32)  # type: ignore[attr-defined]
            count += 1
            where, began = f"step {count} of episode {seed}", time.perf_counter()
            with self.findings.calling(where):
                returned = self.env.step(action)
            spent.append(time.perf_counter() - began)
            observation, ended, info = self._step(returned, where)
            due = stride > 0 and (count % stride == 0 or ended or count == steps)
            self.look(observation, info, where, due)
            if ended:
                self._end(first, observation, info, where, count)
        self.ended.append(ended)
        return float(np.median(spent))

    def look(self, observation: Any, info: dict[str, Any], where: str, due: bool) -> None:
        """Check an observation, and the pictures that it or the info holds."""
        if problem := _unlike(observation, self.layout):
            self.findings.add("observations", "broken", f"{problem} at {where}", "return what observation_space says")
        if self.layout.pictures is not None or not due:
            self.shape = next(iter(self.layout.pictures.values()), None) if self.layout.pictures else self.shape
            return
        views = info.get(SCORED_VIEWS)
        if views is None:
            if self.shape is not None:
                fix = "give them at reset, at every options['stride']-th step and the last one (options['horizon'])"
                self.findings.add("pictures", "broken", f"info['{SCORED_VIEWS}'] is missing at {where}", fix)
            return
        try:
            check_views(f"info['{SCORED_VIEWS}']", views)
        except BadInput as error:
            self.findings.refuse("pictures", error, where)
            return
        if self.shape is not None and views.shape != self.shape:
            fix = "give the same views in the same size always"
            self.findings.add("pictures", "broken", f"shape {views.shape} after {self.shape} at {where}", fix)
        self.shape = views.shape

    def _step(self, returned: Any, where: str) -> tuple[Any, bool, dict[str, Any]]:
        if not isinstance(returned, tuple) or len(returned) != 5 or not isinstance(returned[4], dict):
            fix = "return (observation, reward, terminated, truncated, info)"
            self.findings.add("steps", "broken", f"{where} returns {kind_of(returned)}", fix)
            raise Stopped
        observation, reward, terminated, truncated, info = returned
        if not isinstance(reward, int | float | np.number) or not np.isfinite(reward):
            self.findings.add("steps", "broken", f"reward {reward!r} at {where}", "return a finite number")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                self.findings.add("steps", "broken", f"{name} {flag!r} at {where}", "return True or False")
        self._success(info, bool(terminated), where)
        return observation, bool(terminated or truncated), info

    def _success(self, info: dict[str, Any], terminated: bool, where: str) -> None:
        if "success" not in info:
            return
        self.says_success, success = True, info["success"]
        if not isinstance(success, bool | int | float | np.bool_ | np.number) or success not in (0, 1):
            self.findings.add("success", "broken", f"info['success'] = {success!r} at {where}", "give True or False")
        elif success and not terminated:
            fix = "return terminated=True there: an episode that goes on is judged by its last step"
            self.findings.add("success", "note", f"success did not end the episode at {where}", fix)

    def _end(self, first: Any, observation: Any, info: dict[str, Any], where: str, count: int) -> None:
        keys = [key for key in RESET_KEYS if key in info]
        if keys or (count > 1 and _equal(first, observation)):
            seen = f"info has {keys[0]}" if keys else "the last observation is the first one"
            fix = "return the episode's own last observation, and leave resetting to the caller"
            self.findings.add("nothing resets by itself", "broken", f"{seen} at {where}", fix)


def _check_seeds(player: Player) -> None:
    first, again, other = (player.reset(seed) for seed in (SEED, SEED, SEED + 1))
    if not _equal(first, again):
        fix = "draw everything random from self.np_random, after super().reset(seed=seed)"
        player.findings.add("seeds", "broken", f"reset(seed={SEED}) gives two different observations", fix)
    elif _equal(first, other):
        fix = "draw the start from self.np_random, else success is measured on one start"
        player.findings.add("seeds", "note", f"seeds {SEED} and {SEED + 1} give the same observation", fix)
    player.findings.add("seeds", "ok", "the same seed gives the same start, another one another")


def _check_wrappers(env: gymnasium.Env[Any, Any], findings: Findings) -> None:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, Autoreset):
            fix = "leave out gymnasium.wrappers.Autoreset"
            findings.add("nothing resets by itself", "broken", "the environment is in Autoreset", fix)
        env = env.env


def _check_pictures_given(player: Player) -> None:
    if player.shape is None:
        fix = f"give some in the observation Dict or in info['{SCORED_VIEWS}'], or train with reward sparse"
        player.findings.add("pictures", "note", "there are none for a reward model to score", fix)
    elif player.layout.pictures:
        sizes = set(player.layout.pictures.values())
        if len(sizes) > 1:
            player.findings.add("pictures", "note", f"sizes {sorted(sizes)}", "name pictures of one size in env.views")
        player.findings.add("pictures", "ok", f"for env.views: {', '.join(player.layout.pictures)}")
    else:
        player.findings.add("pictures", "ok", f"info['{SCORED_VIEWS}']: {player.shape[0]} views, uint8 {player.shape}")


def _equal(observation: Any, other: Any) -> bool:
    """Whether two observations are the same in every entry."""
    if isinstance(observation, Mapping) and isinstance(other, Mapping):
        return set(observation) == set(other) and all(np.array_equal(observation[k], other[k]) for k in observation)
    return np.array_equal(observation, other)


def _unlike(observation: Any, layout: ObservationLayout) -> str:
    """How an observation differs from its space; "" where it does not. Bounds are not asked for."""
    if layout.pictures is None:
        return unlike_numbers("observation", observation, (layout.size,))
    if not isinstance(observation, Mapping):
        return f"observation is {kind_of(observation)}"
    if missing := {PROPRIOCEPTION, *layout.pictures} - set(observation):
        return f"observation has no {min(missing)}"
    for name, shape in layout.pictures.items():
        pixels = observation[name]
        if getattr(pixels, "dtype", None) != np.uint8 or pixels.shape != shape:
            return f"{name} is {kind_of(pixels)}, not uint8 {shape}"
    return unlike_numbers(PROPRIOCEPTION, observation[PROPRIOCEPTION], (layout.size,))
