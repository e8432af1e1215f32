"""report.md of a run: what was measured, the gate, the learning curve, where the video lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.gate import JudgedEpisode
from experiments.storage import RunFolder

REWARDS = {
    "grm": "γΦ' − Φ with Φ from the reward model, plus the simulator's sparse success",
    "naive": "Φ' − Φ from the reward model (no invariance: a deliberate semantic trap), plus the simulator's success",
    "oracle": "γΦ' − Φ with Φ from the SIMULATOR'S TRUTH (a diagnostic, not the method), plus the simulator's success",
    "sparse": "the simulator's sparse success alone (a baseline, no shaping)",
}


def write_report(folder: RunFolder, result: dict[str, Any], curve: Sequence[dict[str, Any]], videos: list[str]) -> Path:
    """Write report.md from a result and the learning curve."""
    success = "\n".join(
        f"| {name} | {rate['mean']:.2f} | {rate['low']:.2f} – {rate['high']:.2f} | {rate['n']} |"
        for name, rate in (
            ("scripted expert", result["expert_success"]),
            ("cloned policy (BC)", result["bc_success"]),
            ("trained policy", result["policy_success"]),
        )
    )
    gate = "\n".join(f"| {name} | {_number(value)} |" for name, value in result["gate"].items())
    labels = "\n".join(f"| {name} | {_number(value)} |" for name, value in result["labels"].items())
    phases = "\n".join(f"| {name} | {seconds} |" for name, seconds in result["phase_seconds"].items())
    films = "\n".join(f"- [{name}]({name})" for name in videos)
    text = f"""# {result["name"]}

Reward `{result["reward"]}`: {REWARDS[result["reward"]]}.
{_training_truth(result)}
Reward model version `{result["model_version"]}`; seed {result["seed"]}; {result["environment_steps"]} environment steps,
{_number(result["updates"])} updates, {result["environment_steps_per_s"]:.1f} environment steps/s; {result["wall_s"]:.0f} s in all.

## Success on unseen seeds
Wilson intervals at 95 %, the same seeds for every policy.

| policy | success | interval | n |
| --- | --- | --- | --- |
{success}

## The reward model on unseen episodes
| figure | value |
| --- | --- |
{gate}

![Progress of unseen successes and failures](gate.png)

## Training
![Learning curve](learning_curve.png)

| labels | |
| --- | --- |
{labels}

## Videos
Pictures of all views; below them progress (Φ*, and each perspective alone) and the reward of every environment step. The last
step of a success pays 1 − Φ: the task's 1, and the potential given back, which is 0 after termination.
{films}

## Seconds by phase
| phase | seconds |
| --- | --- |
{phases}
"""
    plot_curve(folder.path / "learning_curve.png", curve, result)
    return folder.write_text("report.md", text)


def _training_truth(result: dict[str, Any]) -> str:
    count = result["reward_model_failures"]
    if not count:
        return "The reward model was trained on successful demonstrations alone."
    return (
        f"The reward model was also trained on {count} failed episodes, labelled with the simulator's true progress; when "
        "it labels it sees pictures only (demonstrations.reward_model_failures = 0 trains without)."
    )


def plot_gate(path: Path, judged: Sequence[JudgedEpisode]) -> None:
    """Draw fused progress of unseen successes and failures over their own time."""
    figure = _figure(7, 3.4)
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


def plot_curve(path: Path, curve: Sequence[dict[str, Any]], result: dict[str, Any]) -> None:
    """Draw training success against environment steps, with the evaluations of BC and final policy."""
    figure = _figure(7, 3.4)
    axes = figure.subplots()
    steps = [point["environment_steps"] for point in curve]
    for key, label in (("task_success_rate", "success while training"), ("final_potential_mean", "final Φ")):
        axes.plot(steps, [float("nan") if p[key] is None else p[key] for p in curve], label=label)
    for key, label, at in (("bc_success", "BC, unseen", 0), ("policy_success", "trained, unseen", steps[-1])):
        rate = result[key]
        error = [[rate["mean"] - rate["low"]], [rate["high"] - rate["mean"]]]
        axes.errorbar([at], [rate["mean"]], yerr=error, fmt="o", capsize=4, label=label)
    axes.set(xlabel="environment steps", ylim=(-0.05, 1.05), ylabel="share")
    axes.legend(fontsize=8)
    figure.savefig(path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
