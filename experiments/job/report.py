"""report.md of a run: what was measured, the gate, the learning curve, where the video lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dopamine_rl.evaluation.gate import JudgedEpisode, Verdict
from dopamine_rl.metrics import wilson
from dopamine_rl.texts import code
from dopamine_rl.types import Rate
from experiments.reports.plots import new_figure
from experiments.runtime.storage import RunFolder
from experiments.runtime.tracking import TENSORBOARD

REWARDS = {
    "grm": "γΦ' − Φ with Φ from the reward model, plus the simulator's sparse success",
    "naive": "Φ' − Φ from the reward model (no invariance: a deliberate semantic trap), plus the simulator's success",
    "oracle": "γΦ' − Φ with Φ from the SIMULATOR'S TRUTH (a diagnostic, not the method), plus the simulator's success",
    "sparse": "the simulator's sparse success alone (a baseline, no shaping)",
}


POLICIES = {
    "straight_push": "straight push (looks at nothing)",
    "bc": "first policy (cloned from demonstrations)",
    "policy": "last policy (trained)",
    "expert": "scripted expert",
}


def write_report(folder: RunFolder, result: dict[str, Any], verdict: Verdict | None, videos: list[str]) -> Path:
    """Write report.md from a result; `verdict` is None where no reward model was made."""
    success = "\n".join(f"| {label} | {_rate(result[f'{name}_success'])} |" for name, label in POLICIES.items())
    gain = result["policy_minus_bc"]
    phases = "\n".join(f"| {name} | {seconds} |" for name, seconds in result["phase_seconds"].items())
    films = "\n".join(f"- [{name}]({name})" for name in videos)
    text = f"""# {result["name"]}

Reward `{result["reward"]}`: {REWARDS[result["reward"]]}.
{_training_truth(result)}
{_model(result)}; seed {result["seed"]}; {result["environment_steps"]} environment steps,
{_number(result["updates"])} updates, {result["environment_steps_per_s"]:.1f} environment steps/s, training in
{result["training_sittings"]} sitting(s). This sitting took {result["wall_s"]:.0f} s; what earlier ones had done was kept.

## Success on unseen seeds
Wilson intervals at 95 %, the same seeds for every policy.

| policy | success | interval | n |
| --- | --- | --- | --- |
{success}

Last minus first policy, paired by seed: **{gain["mean"]:+.2f}** ({gain["low"]:+.2f} to {gain["high"]:+.2f}).
Sizes that were cloned, and their success on {_trials(result)}.

{_gate_section(result, verdict)}
## Training
![Learning curve](learning_curve.png)

TensorBoard: `tensorboard --logdir {TENSORBOARD}`.
{_label_sections(result)}
## Videos
{_videos(result)}

{films}

## Seconds by phase
Of this sitting; what an earlier one left was kept.

| phase | seconds |
| --- | --- |
{phases}
"""
    plot_curve(folder.path / "learning_curve.png", result)
    return folder.write_text("report.md", text)


def _rate(rate: dict[str, Any]) -> str:
    return f"{rate['mean']:.2f} | {rate['low']:.2f} – {rate['high']:.2f} | {rate['n']}"


def _trials(result: dict[str, Any]) -> str:
    return "starts of their own: " + ", ".join(f"{name} {rate:.2f}" for name, rate in result["bc_trials"].items())


def _model(result: dict[str, Any]) -> str:
    version = result["model_version"]
    return f"Reward model version `{version}`" if version else "Reward model: none"


def _gate_section(result: dict[str, Any], verdict: Verdict | None) -> str:
    """How the reward model did on unseen episodes; nothing where there is none."""
    if verdict is None:
        return ""
    bounded = {check.name for check in verdict.checks}
    figures = "\n".join(
        f"| {name} | {_number(value)} | | |" for name, value in result["gate"].items() if name not in bounded
    )
    return f"""## The reward model on unseen episodes
{_gate_verdict(result)}

| figure | value | bound | |
| --- | --- | --- | --- |
{verdict.markdown()}
{figures}

![Progress of unseen successes and failures](gate.png)
"""


def _label_sections(result: dict[str, Any]) -> str:
    """What became of the labels, and what the shadow monitor saw; nothing where no reward model was asked."""
    if result["labels"] is None:
        return ""
    labels = "\n".join(f"| {name} | {_number(value)} |" for name, value in result["labels"].items())
    shadow = "\n".join(f"| {name} | {_number(value)} |" for name, value in result["shadow"].items())
    return f"""
| labels | |
| --- | --- |
{labels}

What the reward model made of the last episodes, beside the simulator's verdict (only watched, never learned from):

| shadow | |
| --- | --- |
{shadow}
"""


def _videos(result: dict[str, Any]) -> str:
    if result["model_version"] is None:
        return "Pictures of all views; below them the task's reward of every environment step."
    return (
        "Pictures of all views; below them progress (Φ*, and each perspective alone) and the reward of every "
        "environment step. The last\nstep of a success pays 1 − Φ: the task's 1, and the potential given back, which is 0 "
        "after termination."
    )


def _gate_verdict(result: dict[str, Any]) -> str:
    if result["gate_passed"]:
        return "The reward model passed its gate."
    return "**The reward model FAILED its gate**" + (" and was used by force." if result["gate_forced"] else ".")


def _training_truth(result: dict[str, Any]) -> str:
    if result["model_version"] is None:
        return "No reward model was made or asked."
    scripted, rollouts = result["reward_model_failures"], result["reward_model_rollouts"]
    shown, start = result["reward_model_demonstrations"], result["reward_model_start"]
    begun = f"began as {code(start)} and was adapted to" if start else "was trained on"
    taught = f"The reward model {begun} {shown} successful demonstration{'s' if shown > 1 else ''}"
    if not scripted + rollouts:
        return f"{taught} alone."
    return (
        f"{taught}. It was also trained on failed episodes labelled with the simulator's true progress ({scripted} of "
        f"scripts, and those among {rollouts} of the cloned policy); when it labels it sees pictures only "
        "(demonstrations.reward_model_failures = 0 and reward_model_rollouts = 0 train without)."
    )


def plot_gate(path: Path, judged: Sequence[JudgedEpisode]) -> None:
    """Draw fused progress of unseen successes and failures over their own time."""
    figure = new_figure(7, 3.4)
    axes = figure.subplots()
    for episode in judged:
        success = episode.demonstration.success
        colour, label = ("tab:green", "success") if success else ("tab:red", "failure")
        axes.plot(episode.demonstration.frame_steps, episode.curve, color=colour, alpha=0.6, lw=1.4, label=label)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8)
    axes.set(xlabel="environment step", ylabel="progress Φ*", ylim=(-0.03, 1.03))
    figure.savefig(path)


def plot_curve(path: Path, result: dict[str, Any]) -> None:
    """Draw success while training, with its interval, between the evaluations of first and last policy."""
    figure = new_figure(7, 3.4)
    axes = figure.subplots()
    curve = result["curve"]
    steps = [point["environment_steps"] for point in curve]
    rates = [recent_success(curve, i) for i in range(len(curve))]
    known = [(step, rate) for step, rate in zip(steps, rates, strict=True) if rate is not None]
    if known:
        at = [step for step, _ in known]
        axes.plot(at, [rate.mean for _, rate in known], label="success while exploring")
        axes.fill_between(at, [rate.low for _, rate in known], [rate.high for _, rate in known], alpha=0.2)
    potentials = [float("nan") if p["final_potential_mean"] is None else p["final_potential_mean"] for p in curve]
    axes.plot(steps, potentials, "--", lw=1.0, label="final Φ")
    for key, label, place in (("bc_success", "first policy, unseen", 0), ("policy_success", "last, unseen", steps[-1])):
        rate = result[key]
        error = [[rate["mean"] - rate["low"]], [rate["high"] - rate["mean"]]]
        axes.errorbar([place], [rate["mean"]], yerr=error, fmt="o", capsize=4, label=label)
    axes.set(xlabel="environment steps", ylim=(-0.05, 1.05), ylabel="share")
    axes.legend(fontsize=8)
    figure.savefig(path)


def recent_success(curve: Sequence[dict[str, Any]], i: int, least: int = 20) -> Rate | None:
    """Success of at least the last `least` episodes up to point i of a curve; None before there are any."""
    end = curve[i]
    starts = [point for point in curve[:i] if end["episodes"] - point["episodes"] >= least]
    episodes = end["episodes"] - (starts[-1]["episodes"] if starts else 0)
    successes = end["successes"] - (starts[-1]["successes"] if starts else 0)
    return wilson(successes, episodes) if episodes else None


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
