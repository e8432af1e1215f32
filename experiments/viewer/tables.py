"""What a page says about a run beside its plots: facts, figures and tables, as text cells."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dopamine_rl.evaluation.gate import Verdict
from dopamine_rl.texts import counted
from experiments.job.report import POLICIES, REWARDS, TASK_REWARD, sight_words
from experiments.reports.claims import RATES
from experiments.reports.words import CLAIMS, GATE, LABELS, SHADOW, phase_words
from experiments.viewer.episodes import Episode
from experiments.viewer.plots import PERSPECTIVES, actor_rates
from experiments.viewer.runs import RunState
from learner.training import RECENT

Row = tuple[str, ...]
OUTCOMES = ("asked", "answered", "invalid", "late", "rejected")


@dataclass(frozen=True)
class Headline:
    """A number that stands large on a page.

    Args:
        value, words: the number, and what it is.
        note: how sure it is, or what it is compared with.
    """

    value: str
    words: str
    note: str = ""


def number(value: Any, digits: int = 2, sign: str = "") -> str:
    """A number as text, a dash for none."""
    if not isinstance(value, int | float | np.number) or not math.isfinite(value):
        return "–"
    return f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign},.{digits}f}"


def share(rate: Any) -> str:
    """A rate of result.json in per cent."""
    return f"{100 * rate['mean']:.0f} %" if _is_rate(rate) else "–"


def interval(rate: Any) -> str:
    """The interval of a rate of result.json, and its number of episodes."""
    return f"{100 * rate['low']:.0f} to {100 * rate['high']:.0f} %, n = {rate['n']}" if _is_rate(rate) else ""


def facts(run: RunState) -> list[Row]:
    """What the run is: its reward, where success comes from, what the policy sees, and so on."""
    config, result = run.config, run.result
    env, learner = _section(config, "env"), _section(config, "learner")
    source = "claimed from progress" if config.get("success") == "progress" else "the environment's"
    own = bool(env.get("make"))
    rows = [
        ("task", str(result.get("environment") or env.get("make") or env.get("task") or "–")),
        ("success", source),
        ("policy sees", _sight(run, own)),
        ("reward", _reward(str(config.get("reward", "")), own, config.get("success") == "progress")),
        ("algorithm", str(learner.get("algorithm", "–"))),
        ("reward model", str(result.get("model_version") or _version(run))),
        ("seed", str(config.get("seed", "–"))),
    ]
    return [row for row in rows if row[1] not in ("–", "")]


def headlines(run: RunState) -> list[Headline]:
    """The numbers that a person looks for first."""
    result, last = run.result, run.last
    found = []
    if _is_rate(result.get("policy_success")):
        found.append(Headline(share(result["policy_success"]), "trained policy", interval(result["policy_success"])))
    if _is_rate(result.get("bc_success")):
        found.append(Headline(share(result["bc_success"]), "cloned policy", interval(result["bc_success"])))
    if "success" in last:
        note = f"last {counted(min(RECENT, int(last.get('episodes', 0))), 'episode')}"
        found.append(Headline(f"{number(100 * _or_nan(last['success']), 0)} %", "success in training", note))
    if last:
        budget = _section(run.config, "training").get("environment_steps")
        running = budget and run.status != "finished"
        note = f"of {number(budget)}" if running else counted(int(last.get("episodes", 0)), "episode")
        found.append(Headline(number(last.get("environment_steps")), "environment steps", note))
    claims = (result.get("claims") or {}).get("policies", {}).get("policy", {})
    if claims:
        note = f"missed successes {share(claims.get('missed_successes'))}"
        found.append(Headline(share(claims.get("false_claims")), "false claims", note))
    return found


def label_rows(run: RunState) -> list[Row]:
    """Outcomes of the label requests so far."""
    labels = run.result.get("labels") or {name: run.last[name] for name in OUTCOMES if name in run.last}
    if not labels.get("asked"):
        return []
    rows: list[Row] = [(words, _plain(labels[name])) for name, words in LABELS.items() if name in labels]
    if "p50_ms" not in labels:
        rows.append((LABELS["p50_ms"], number(float(np.nanmedian(run.column("label_p50_ms"))), 0)))
    return rows


def actor_rows(run: RunState) -> list[Row]:
    """A row per actor: its number, its rate in the last iteration and over all, and its state."""
    late = run.last.get("late_env_runners_s") or {}
    rates = actor_rates(run, np.diff(run.column("seconds"), prepend=0.0))
    rows: list[Row] = []
    for name in sorted({*rates, *late}, key=lambda name: (len(name), name)):
        rate = rates.get(name, np.full(1, np.nan))
        known = rate[np.isfinite(rate)]
        mean = number(float(known.mean()), 1) if len(known) else "–"
        acting = f"late by {number(late[name], 0)} s" if name in late else "acting"
        state = acting if run.status == "running" else "ended"
        rows.append((name, number(float(rate[-1]), 1), mean, state))
    return rows


def shadow_rows(summary: Mapping[str, Any]) -> list[Row]:
    """The shadow monitor's summary."""
    words = SHADOW | CLAIMS
    return [(words.get(name, name), _plain(value)) for name, value in summary.items() if name != "episodes" or value]


def gate_rows(verdict: Verdict) -> list[tuple[str, str, str, str, str]]:
    """Figure in words, value, bound, outcome, and its kind: ok, failed or advisory."""
    rows = []
    for checks, missed in ((verdict.checks, "failed"), (verdict.advisory, "advisory")):
        for check in checks:
            name, value, bound, _ = check.cells
            plain = name.removeprefix("simulator ")
            words = GATE.get(plain, plain) + ("; by the simulator" if plain != name else "")
            rows.append((words, value, bound, "ok" if check.passed else missed, "ok" if check.passed else missed))
    return rows


def claim_rows(run: RunState) -> list[Row]:
    """False claims and missed successes of the evaluated policies, with a header; empty without claims."""
    policies = (run.result.get("claims") or {}).get("policies", {})
    if not policies:
        return []
    head = ("policy", *RATES.values())
    cells = [
        (POLICIES.get(name, name), *(f"{share(rates.get(key))} ({interval(rates.get(key))})" for key in RATES))
        for name, rates in policies.items()
    ]
    return [head, *cells]


def phase_rows(run: RunState) -> list[Row]:
    """The finished phases, when each finished, and how long it took where the result says so."""
    seconds = run.result.get("phase_seconds") or {}
    took = {name: f"{number(float(s), 0)} s" for name, s in seconds.items()}
    return [(phase_words(name, POLICIES), clock(finished), took.get(name, "")) for name, finished in run.phases]


def compared(runs: Mapping[str, RunState]) -> list[Row]:
    """Figures of several runs side by side, with a header; those that no run has are left out."""

    def rates(key: str) -> list[str]:
        return [
            f"{share(run.result.get(key))} ({interval(run.result.get(key))})" if _is_rate(run.result.get(key)) else "–"
            for run in runs.values()
        ]

    def last(key: str, digits: int = 2) -> list[str]:
        return [number(run.last.get(key), digits) for run in runs.values()]

    rows = [
        ("trained policy", *rates("policy_success")),
        ("cloned policy", *rates("bc_success")),
        ("success in training, latest episodes", *last("success")),
        ("environment steps", *last("environment_steps")),
        ("episodes", *last("episodes")),
        ("final Φ, mean", *last("final_potential_mean")),
        ("return, mean", *last("return_mean")),
        ("environment steps/s", *last("environment_steps_per_s", 1)),
        ("updates/s", *last("updates_per_s", 1)),
        ("median latency of labels, ms", *last("label_p50_ms", 0)),
    ]
    return [("", *runs), *(row for row in rows if set(row[1:]) != {"–"})]


def differences(runs: Mapping[str, RunState]) -> list[Row]:
    """Settings that are not the same in all runs, with a header."""
    flat = [dict(_flat(run.config)) for run in runs.values()]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    rows = [(name, *(_setting(settings.get(name)) for settings in flat)) for name in names]
    return [("setting", *runs), *(row for row in rows if len(set(row[1:])) > 1)]


def frame_rows(episode: Episode) -> list[dict[str, str]]:
    """What stands beside each picture of an episode, by the fields of the player."""
    rows, end = [], len(episode.times) - 1
    paid = episode.rewards
    for index, at in enumerate(episode.times):
        frame = episode.record.frames[index - 1] if index else None
        row = {"progress": number(float(episode.progress[index])), "step": str(at)}
        for column, name in enumerate(PERSPECTIVES):
            row[name] = number(float(episode.perspectives[index, column]))
            row[f"hop {name}"] = number(100 * float(episode.hops[index, column]), 0, "+")
        row["answer"] = "first picture" if frame is None else " – ".join(filter(None, (frame.outcome, frame.reason)))
        until = len(paid[0]) if paid and index == end else int(at)
        row["reward"], row["return"] = "–", "–"
        if paid is not None:
            since = int(episode.times[index - 1]) if index else 0
            row["reward"] = number(float(paid[0][since:until].sum()), 3, "+") if index else "–"
            row["return"] = number(float(paid[0][:until].sum()), 3, "+")
        row["ending"] = (episode.row.verdict or "not recorded") if index == end else "under way"
        rows.append(row)
    return rows


def clock(seconds: float) -> str:
    """Unix time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _sight(run: RunState, own: bool) -> str:
    if "observation" in run.result:
        return sight_words(dict(run.result))
    env = _section(run.config, "env")
    if "observation" not in env:
        return "–"
    seen = {"observation": env["observation"], "policy_views": env.get("policy_views", []), "own_environment": own}
    try:
        return sight_words(seen | {"encoder": run.config.get("encoder", "")})
    except KeyError:
        return str(env["observation"])


def _reward(name: str, own: bool, claims: bool) -> str:
    words = REWARDS.get(name, "")
    sparse = "the simulator's sparse success"
    words = words.replace(sparse, "1 for a claim of success" if claims else TASK_REWARD if own else sparse)
    return f"{name}: {words}" if words else name


def _version(run: RunState) -> str:
    value = run.phase_values.get("reward_model")
    return str(value.get("version", "–")) if isinstance(value, dict) else "–"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in table.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return rows


def _setting(value: Any) -> str:
    return "–" if value is None else str(value)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return number(value)


def _or_nan(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _is_rate(value: Any) -> bool:
    return isinstance(value, dict) and {"mean", "low", "high", "n"} <= set(value)
