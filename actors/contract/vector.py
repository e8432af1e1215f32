"""Plays a gymnasium VectorEnv to see whether VectorProgressReward can reward it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from actors.contract.findings import SEED, Findings, Stopped, check_spaces, unlike_numbers
from actors.foreign import SCORED_VIEWS, ObservationLayout
from actors.vector_progress_reward import autoreset_mode, host, info_of
from dopamine_rl.encoders.eyes import PROPRIOCEPTION
from dopamine_rl.errors import BadInput
from dopamine_rl.types import check_views


def check_vector(env: VectorEnv, findings: Findings, steps: int) -> None:
    """Play a vector of environments until some episodes have ended.

    Args:
        findings: receives what is found.
        steps: most environment steps.
    Raises:
        Stopped: it cannot be played on.
    """
    seen = f"VectorEnv of {env.num_envs}, for VectorProgressReward; --env.make takes a single environment"
    findings.add("is a gymnasium.Env", "note", seen)
    layout = check_spaces(env.single_observation_space, env.single_action_space, findings)
    try:
        mode = autoreset_mode(env)
        findings.add("autoreset", "ok", mode.name)
    except BadInput as error:
        findings.refuse("autoreset", error)
        return
    if layout is None:
        return
    with findings.calling(f"reset(seed={SEED})"):
        observations, infos = env.reset(seed=SEED)
    _look(env, layout, findings, observations, infos, "reset")
    ended = _play(env, layout, findings, mode, steps)
    for rule, words in (("observations", "numbers of every environment"), ("steps", "arrays [N] of the right types")):
        findings.add(rule, "ok", words)
    findings.add("pictures", "ok", "at every step")
    findings.add("ends", "ok" if ended else "note", f"{ended} episodes ended within {steps} steps")


def _play(env: VectorEnv, layout: ObservationLayout, findings: Findings, mode: AutoresetMode, steps: int) -> int:
    """Act at random; returns the number of ended episodes."""
    env.action_space.seed(SEED)
    before, count = np.zeros(env.num_envs, bool), 0
    for step in range(1, steps + 1):
        where = f"step {step}"
        with findings.calling(where):
            observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
        _look(env, layout, findings, observations, infos, where)
        for name, values in (("rewards", rewards), ("terminated", terminated), ("truncated", truncated)):
            if problem := unlike_numbers(name, host(values), (env.num_envs,)):
                findings.add("steps", "broken", f"{problem} at {where}", "return one for each environment")
                raise Stopped
        ends = np.asarray(host(terminated), bool) | np.asarray(host(truncated), bool)
        if mode is AutoresetMode.SAME_STEP and ends.any():
            _check_same_step(findings, infos, where)
        if mode is AutoresetMode.NEXT_STEP and (before & (ends | (host(rewards) != 0))).any():
            fix = "after an end, let the next step reset only: reward 0 and no end"
            findings.add("autoreset", "broken", f"a step that resets pays or ends at {where}", fix)
        if mode is AutoresetMode.DISABLED and ends.any():
            with findings.calling("reset(options={'reset_mask': …})"):
                env.reset(options={"reset_mask": ends.copy()})
        before, count = ends, count + int(ends.sum())
    return count


def _check_same_step(findings: Findings, infos: Mapping[str, Any], where: str) -> None:
    for name in ("final_obs", "final_info"):
        if name not in infos:
            fix = f"with SAME_STEP give infos['{name}'] where an episode ends, or use NEXT_STEP"
            findings.add("autoreset", "broken", f"infos['{name}'] is missing at {where}", fix)


def _look(
    env: VectorEnv, layout: ObservationLayout, findings: Findings, observations: Any, infos: Any, where: str
) -> None:
    """Check the observations and pictures of all environments."""
    numbers, pictures = observations, {}
    if layout.pictures is not None:
        if not isinstance(observations, Mapping) or set(observations) < {PROPRIOCEPTION, *layout.pictures}:
            findings.add("observations", "broken", f"entries are missing at {where}", "return what the space says")
            raise Stopped
        numbers = observations[PROPRIOCEPTION]
        pictures = {name: observations[name] for name in layout.pictures}
    if problem := unlike_numbers("observations", host(numbers), (env.num_envs, layout.size)):
        findings.add("observations", "broken", f"{problem} at {where}", "return what the space says")
    for name, values in pictures.items():
        _check_pixels(findings, name, host(values), where)
    for i in range(env.num_envs):
        views = info_of(infos, i).get(SCORED_VIEWS)
        if views is not None:
            _check_pixels(findings, f"infos['{SCORED_VIEWS}'][{i}]", views, where)
        elif not pictures:
            fix = f"give pictures in the observation Dict or in infos['{SCORED_VIEWS}']"
            findings.add("pictures", "note", f"environment {i} shows none at {where}", fix)


def _check_pixels(findings: Findings, name: str, values: Any, where: str) -> None:
    try:
        check_views(name, values)
    except BadInput as error:
        findings.refuse("pictures", error, where)
