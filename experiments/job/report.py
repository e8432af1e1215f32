"""report.md of a run: results, the gate, the learning curve, and links to the videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dopamine_rl.evaluation.behaviours import BehaviourReport, InstructionReport
from dopamine_rl.evaluation.figures import verdict_row
from dopamine_rl.evaluation.gate import JudgedEpisode, Verdict
from dopamine_rl.metrics import wilson
from dopamine_rl.texts import code, counted
from dopamine_rl.types import EpisodeInfo, Rate
from experiments.reports.behaviours import behaviour_rows, instruction_line
from experiments.reports.claims import claims_section
from experiments.reports.plots import new_figure
from experiments.reports.tables import grid
from experiments.reports.words import CLAIMS, GATE, LABELS, SHADOW, phase_words
from experiments.runtime.storage import RunFolder
from experiments.runtime.tracking import TENSORBOARD

REWARDS = {
    "grm": "γΦ' − Φ with Φ from the reward model, plus the simulator's sparse success",
    "naive": "Φ' − Φ from the reward model (not policy-invariant, for comparison), plus the simulator's sparse success",
    "oracle": "γΦ' − Φ with Φ from the SIMULATOR'S TRUE PROGRESS (a diagnostic), plus the simulator's sparse success",
    "sparse": "the simulator's sparse success alone (a baseline without shaping)",
    "dense": "(1 − γ)d a step, with d from MANISKILL'S DENSE REWARD (a baseline without shaping), and 1 for a success",
}
TASK_REWARD = "the reward of the environment itself"
"""What a user's own environment pays."""


POLICIES = {
    "straight_push": "straight push (open loop)",
    "bc": "cloned policy (BC)",
    "policy": "trained policy",
    "expert": "scripted expert",
}


def write_report(
    folder: RunFolder, result: dict[str, Any], verdict: Verdict | None, videos: list[str], contribution: str
) -> Path:
    """Write report.md from a result.

    Args:
        verdict: of the gate; None if the run has no reward model.
        contribution: what the reward contributes, in words; "" if the run does not use the learned one.
    """
    success = "\n".join(
        f"| {label} | {_rate(result[f'{name}_success'])} |"
        for name, label in POLICIES.items()
        if f"{name}_success" in result
    )
    gain = result["policy_minus_bc"]
    phases = "\n".join(
        f"| {phase_words(name, POLICIES)} | {seconds} |" for name, seconds in result["phase_seconds"].items()
    )
    films = "\n".join(f"- [{name}]({name})" for name in videos)
    text = f"""# {result["name"]}

{claims_section(result.get("claims"), POLICIES)}The policy sees {sight_words(result)}.
{_reward_words(result)}{_progress_reward(result)}.
{_own_environment(result)}{_training_truth(result)}
{_model(result)}; seed {result["seed"]}; {result["environment_steps"]} environment steps,
{_number(result["updates"])} updates, {result["environment_steps_per_s"]:.1f} environment steps/s, training in
{counted(result["training_sittings"], "session")}. The last session took {result["wall_s"]:.0f} s; phases completed
earlier were reused.

## Success on unseen seeds
95 % Wilson intervals; all policies use the same seeds. {_whose_success(result)}

| policy | success rate | 95 % interval | n |
| --- | --- | --- | --- |
{success}

Trained minus cloned policy, paired by seed: **{gain["mean"]:+.2f}** ({gain["low"]:+.2f} to {gain["high"]:+.2f}).
{_trials(result)}

{_contribution_section(contribution)}{_gate_section(result, verdict)}
## Training
![Learning curve](learning_curve.png)

TensorBoard: `tensorboard --logdir {TENSORBOARD}`.
{_label_sections(result)}
## Videos
{_videos(result)}

{films}

## Duration by phase
In the last session; reused phases are not listed.

| phase | seconds |
| --- | --- |
{phases}
"""
    plot_curve(folder.path / "learning_curve.png", result)
    return folder.write_text("report.md", text)


def sight_words(result: dict[str, Any]) -> str:
    """What the policy sees; results of older versions saw the state."""
    kind = result.get("observation", "state")
    if kind == "pictures":
        views = " and ".join(result["policy_views"])
        return f"the robot's joints and pictures ({views}) through the frozen encoder `{result['encoder']}`"
    if result.get("own_environment"):
        return "the environment's vector, or proprioception alone where it gives pictures beside"
    return {"state": "the simulator's state", "proprioception": "the robot's joints alone, no pictures"}[kind]


def _own_environment(result: dict[str, Any]) -> str:
    """What a user's own environment is, and what could not be measured in it; "" for the simulated tasks."""
    if not result.get("own_environment"):
        return ""
    lines = f"Environment {code(result['environment'])}; success is what it says (`info['success']`).\n"
    if result["model_version"] is None:
        return lines
    return (
        f"{lines}The gate judged unseen episodes of the expert, and the failures among those of the cloned policy. "
        "Only the simulated tasks\nhave scripted failures, near misses, kinds of behaviour, true progress and a "
        "precision probe: none of them was measured here.\n"
    )


def _rate(rate: dict[str, Any]) -> str:
    return f"{rate['mean']:.2f} | {rate['low']:.2f} – {rate['high']:.2f} | {rate['n']}"


def _trials(result: dict[str, Any]) -> str:
    if result.get("claims"):
        losses = ", ".join(f"{name} {loss:.2g}" for name, loss in result["bc_trials"].items())
        return f"The clone was chosen by its loss on held-out demonstrations, by layer sizes: {losses}."
    trials = ", ".join(f"{name} {rate:.2f}" for name, rate in result["bc_trials"].items())
    return f"Success rate of cloned policies by layer sizes, on separate seeds: {trials}."


def _reward_words(result: dict[str, Any]) -> str:
    words = REWARDS[result["reward"]]
    if result.get("own_environment"):
        words = words.replace("the simulator's sparse success", TASK_REWARD)
    if result.get("claims"):
        words = words.replace("the simulator's sparse success", "1 for a claim of success")
    return f"Reward `{result['reward']}`: {words}"


def _whose_success(result: dict[str, Any]) -> str:
    if not result.get("claims"):
        return "Success is the simulator's."
    return "Success within the horizon by the simulator, with nobody claiming; it stands beside the claims."


def _model(result: dict[str, Any]) -> str:
    version = result["model_version"]
    return f"Reward model version `{version}`" if version else "Reward model: none"


def _contribution_section(contribution: str) -> str:
    return f"## What the reward contributes\n{contribution}\n\n" if contribution else ""


def _gate_section(result: dict[str, Any], verdict: Verdict | None) -> str:
    """The reward model's results on unseen episodes; "" without a reward model."""
    if verdict is None:
        return ""
    bounded = {check.name for check in (*verdict.checks, *verdict.advisory)}
    figures = "\n".join(
        f"| {GATE.get(name, name)} | {_number(value)} | | |"
        for name, value in result["gate"].items()
        if name not in bounded | {"behaviours", "instruction", "simulator"}
    )
    return f"""## The reward model on unseen episodes
{_gate_verdict(result)} {_judged_on(result)}In parentheses: the name of the bound in the preset's `[gate]`.

| figure | value | bound | |
| --- | --- | --- | --- |
{verdict.markdown(_gate_words())}
{figures}
{_behaviours(result["gate"])}
![Progress of unseen successes and failures](gate.png)
"""


def _gate_words() -> dict[str, str]:
    return GATE | {f"simulator {name}": f"{words}; by the simulator" for name, words in GATE.items()}


def _judged_on(result: dict[str, Any]) -> str:
    if not result["gate"].get("simulator"):
        return ""
    return (
        "The verdict is about the policy's demonstrations and tries beside them, none of which it was trained on; the "
        "simulator's figures stand beside it and refuse nothing. "
    )


def _behaviours(gate: dict[str, Any]) -> str:
    """How the reward model judges each kind of behaviour; "" in results that do not say."""
    found = {kind: BehaviourReport(**figures) for kind, figures in gate.get("behaviours", {}).items()}
    parts = [f"{grid(behaviour_rows(found))}\n\nNone of these figures has a bound."] if found else []
    if gate.get("instruction"):
        parts.append(instruction_line(InstructionReport(**gate["instruction"])))
    return "".join(f"\n{part}\n" for part in parts)


def _label_sections(result: dict[str, Any]) -> str:
    """Outcomes of the labels, and the shadow monitor's metrics; "" if no reward model was used."""
    if result["labels"] is None:
        return ""
    labels = "\n".join(f"| {LABELS.get(name, name)} | {_number(value)} |" for name, value in result["labels"].items())
    words = SHADOW | CLAIMS
    shadow = "\n".join(f"| {words.get(name, name)} | {_number(value)} |" for name, value in result["shadow"].items())
    return f"""
| labels | |
| --- | --- |
{labels}

The reward model's scores of the latest episodes, compared with the simulator's success (monitoring only, not used for
training):

| shadow monitor | |
| --- | --- |
{shadow}
"""


def _videos(result: dict[str, Any]) -> str:
    if result["model_version"] is None:
        return "All camera views, and below them the task reward at each environment step."
    return (
        "All camera views, and below them progress (Φ* and each perspective) and the reward at each environment step.\n"
        "The last step of a success has reward 1 − Φ: the task reward 1 plus shaping with a terminal potential of 0."
    )


def _progress_reward(result: dict[str, Any]) -> str:
    weight = result.get("progress_reward") or 0.0
    return f", and {weight:g} times the progress itself (not policy-invariant)" if weight else ""


def _gate_verdict(result: dict[str, Any]) -> str:
    if result["gate_passed"]:
        return "The reward model passed its gate."
    return "**The reward model FAILED its gate**" + (
        " and was used anyway (--force)." if result["gate_forced"] else "."
    )


def _training_truth(result: dict[str, Any]) -> str:
    if result["model_version"] is None:
        return "No reward model was used."
    scripted, rollouts = result["reward_model_failures"], result["reward_model_rollouts"]
    count, start = result["reward_model_demonstrations"], result["reward_model_start"]
    origin = f"was adapted from {code(start)} with" if start else "was trained on"
    practice = result.get("reward_model_practice", 0)
    sentence = f"The reward model {origin} {counted(count, 'successful demonstration')}"
    if not scripted + rollouts + practice:
        return f"{sentence} only."
    failures = [f"{scripted} of scripts"] if scripted else []
    failures += [f"the failures among {counted(rollouts, 'rollout')} of the cloned policy"] if rollouts else []
    failures += [f"{counted(practice, 'episode')} of practice, without a person"] if practice else []
    return (
        f"{sentence}. It was also trained on failed episodes labelled {LABELLED[_failure_labels(result)]} "
        f"({' and '.join(failures)}). For labelling it uses images only. To train without failures: "
        "demonstrations.reward_model_failures, reward_model_rollouts and practice = 0, sft.failures = truth, "
        "sft.train.plan.failures = 0."
    )


LABELLED = {
    "truth": "with the simulator's true progress",
    "outcome": "by their outcome (no progress in their last third)",
    "path": "by how near the tool came to the demonstration's path, which the arm's joints tell",
}
"""What `sft.failures` labels failures by, in words."""


def _failure_labels(result: dict[str, Any]) -> str:
    """What failures were labelled by; older results do not say, and knew one way."""
    return str(result.get("reward_model_failure_labels") or "truth")


ENDS = {
    "success": {"color": "tab:green", "alpha": 0.6, "lw": 1.4},
    "failure": {"color": "tab:red", "alpha": 0.6, "lw": 1.4},
    "cut off by the time limit on its way in": {"color": "black", "alpha": 0.8, "lw": 1.4, "ls": "--"},
}
"""Ends of episodes in gate.png -> how their curves are drawn."""


def plot_gate(path: Path, judged: Sequence[JudgedEpisode], threshold: float) -> None:
    """Plot fused progress of unseen successes and failures over time.

    Args:
        threshold: final progress from which an episode counts as claimed success.
    """
    figure = new_figure(7, 3.4)
    axes = figure.subplots()
    success, failure, cut = ENDS
    for episode in judged:
        row = verdict_row(EpisodeInfo.of(episode.demonstration), threshold)
        label = success if row["success"] else cut if row["cut_off"] else failure
        axes.plot(episode.demonstration.frame_steps, episode.curve, label=label, **ENDS[label])
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8)
    axes.set(xlabel="environment step", ylabel="progress Φ*", ylim=(-0.03, 1.03))
    figure.savefig(path)


def plot_curve(path: Path, result: dict[str, Any]) -> None:
    """Plot success during training with its interval, and the evaluations of cloned and trained policy."""
    figure = new_figure(7, 3.4)
    axes = figure.subplots()
    curve = result["curve"]
    steps = [point["environment_steps"] for point in curve]
    rates = [recent_success(curve, i) for i in range(len(curve))]
    points = [(step, rate) for step, rate in zip(steps, rates, strict=True) if rate is not None]
    if points:
        xs = [step for step, _ in points]
        axes.plot(xs, [rate.mean for _, rate in points], label="success during training")
        axes.fill_between(xs, [rate.low for _, rate in points], [rate.high for _, rate in points], alpha=0.2)
    potentials = [float("nan") if p["final_potential_mean"] is None else p["final_potential_mean"] for p in curve]
    axes.plot(steps, potentials, "--", lw=1.0, label="final Φ")
    for key, label, x in (("bc_success", "cloned policy, unseen", 0), ("policy_success", "trained, unseen", steps[-1])):
        rate = result[key]
        error = [[rate["mean"] - rate["low"]], [rate["high"] - rate["mean"]]]
        axes.errorbar([x], [rate["mean"]], yerr=error, fmt="o", capsize=4, label=label)
    axes.set(xlabel="environment steps", ylim=(-0.05, 1.05), ylabel="success rate, Φ")
    axes.legend(fontsize=8)
    figure.savefig(path)


def recent_success(curve: Sequence[dict[str, Any]], i: int, least: int = 20) -> Rate | None:
    """Success rate of the last episodes, at least `least`, up to point i of a curve; None before any episode."""
    end = curve[i]
    starts = [point for point in curve[:i] if end["episodes"] - point["episodes"] >= least]
    episodes = end["episodes"] - (starts[-1]["episodes"] if starts else 0)
    successes = end["successes"] - (starts[-1]["successes"] if starts else 0)
    return wilson(successes, episodes) if episodes else None


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
