"""The section of report.md about success that was claimed from progress; it leads the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dopamine_rl.texts import counted
from experiments.reports.tables import grid

RATES = {
    "false_claims": "false claims",
    "missed_successes": "missed successes",
    "true_success": "true success when the claim ended the episode",
    "within_horizon": "success within the horizon, nobody claiming",
}
"""Shares of episodes in result.json -> in words."""


def claims_section(claims: Mapping[str, Any] | None, policies: Mapping[str, str]) -> str:
    """False claims and missed successes; "" where the simulator says what a success is.

    Args:
        claims: the entry of result.json.
        policies: in words, by name.
    """
    if not claims:
        return ""
    rows = [["policy", *RATES.values()]]
    rows += [
        [policies.get(name, name), *(_share(rates[key]) for key in RATES)] for name, rates in claims["policies"].items()
    ]
    count = next(iter(claims["policies"].values()))["true_success"]["n"]
    gain = claims["policy_minus_bc"]
    return f"""## Success, claimed from progress
Success was claimed from pictures: {_rule(claims)}. {_unsure(claims["missed_if_left_out"])}.
An episode ended on the step after a claim. Nothing of the simulator's truth reached rewards, ends, labels, replay,
demonstrations, choices or the gate's verdict; here it is the judge. Shares of {counted(count, "unseen episode")}, with
95 % Wilson intervals:

{grid(rows)}

A false claim ended an episode that was no success then; a missed success was one at some step, and nobody claimed it.
Trained minus cloned policy in true success, paired by seed: **{gain["mean"]:+.2f}** ({gain["low"]:+.2f} to
{gain["high"]:+.2f}).

"""


def _rule(claims: Mapping[str, Any]) -> str:
    frames = counted(claims["frames"], "consecutive scored frame")
    fitted = f"{counted(claims['demonstrations'], 'demonstration')} and {claims['tries']} tries beside them"
    return f"progress of {claims['threshold']:.3f} or more in {frames}, fitted on {fitted}"


def _unsure(missed_if_left_out: int | None) -> str:
    if missed_if_left_out is None:
        return "One demonstration cannot tell how high the ends of others lie"
    return f"Each demonstration left out once, the rule of the others would miss {missed_if_left_out}"


def _share(rate: Mapping[str, Any]) -> str:
    return f"{rate['mean']:.2f} ({rate['low']:.2f} – {rate['high']:.2f})"
