"""What the keys of result.json mean, in the words of report.md."""

from __future__ import annotations

GATE = {
    "voc_plus": "VOC+: rank correlation of the incremental hops' chain with time, in successes",
    "voc_minus": "VOC−: the same for reversed successes",
    "kendall": "Kendall's τ-b of progress with time, in successes",
    "progress_mae": "mean absolute error of progress in successes",
    "simulator_mae": "mean absolute error against the simulator's own progress, in all episodes",
    "auc": "AUC: probability that a success ends higher than a failure",
    "failed_end_order": "probability that a success late on its way is higher than a failure's end",
    "false_success": "share of failures that end like a success",
    "near_miss_false_success": "the same for near misses",
    "success_end": "mean final progress of successes",
    "failure_end": "mean final progress of failures",
    "successes": "successes",
    "failures": "failures",
    "near_misses": "near misses among the failures",
    "cut_off": "episodes that are neither (time ran out during insertion)",
    "invalid": "frames without a value; progress was held there",
    "stride": "environment steps between scored frames",
    "probe_rank": "precision probe: rank correlation of progress with alignment before the hole",
    "probe_trade": "precision probe: progress near and misaligned minus far and aligned",
}
"""Figures of the gate, `gate`."""
LABELS = {
    "asked": "frames sent to the reward service",
    "answered": "answered",
    "invalid": "answered without a readable value",
    "late": "not answered before the deadline",
    "rejected": "refused by the service",
    "retried": "sent again",
    "errors": "errors of the client",
    "closed": "asked = answered + invalid + late + rejected",
    "p50_ms": "median latency in ms",
    "p99_ms": "99th percentile of the latency in ms",
}
"""Outcomes of the labels, `labels`."""
SHADOW = {
    "episodes": "training episodes seen",
    "without_value": "of these without a value",
    "window_successes": "successes among the latest episodes",
    "window_failures": "failures among the latest episodes",
    "auc": "AUC: probability that a success ends higher than a failure",
    "false_success": "share of failures that end like a success",
    "success_end": "mean final progress of successes",
    "failure_end": "mean final progress of failures",
    "warnings": "warnings given",
    "open": "warnings still open",
}
"""The shadow monitor, `shadow`."""
CLAIMS = {
    "ended_episodes": "training episodes ended",
    "claims": "of these by a claim of success",
    "false_claims": "false claims: the simulator saw no success when the claim ended the episode",
    "missed_successes": "missed successes: the simulator saw one, and nobody claimed it",
}
"""The shadow monitor where success is claimed from progress."""
PHASES = {
    "cluster": "start of Ray",
    "demonstrations": "recording demonstrations",
    "clone": "behaviour cloning",
    "rollouts": "rollouts of the cloned policy",
    "practice": "practice about the demonstration's path",
    "tries": "tries that success must not be claimed of",
    "reward_model": "training the reward model",
    "service": "start of the reward service",
    "gate": "gate",
    "claims": "fitting when success is claimed",
    "label": "labels of the policy's demonstrations",
    "train": "training the policy",
    "films": "videos",
}
"""Phases, `phase_seconds`; those that evaluate a policy are called after it."""


def phase_words(name: str, policies: dict[str, str]) -> str:
    """A phase in words.

    Args:
        policies: the policies in words, by name.
    """
    kind, _, policy = name.partition("_")
    if kind == "evaluate":
        return f"evaluation: {policies.get(policy, policy)}"
    if kind == "claims" and policy:
        return f"evaluation with claims: {policies.get(policy, policy)}"
    return PHASES.get(name, name.replace("_", " "))
