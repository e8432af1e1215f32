"""Watches the reward model while it drives training: does its final progress still tell success from failure?

Only to warn. The simulator's success is compared with the model's progress here and nowhere else, and nothing goes back
to the learner. Where success is claimed from progress, claims are compared with the truth, too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from dopamine_rl.errors import BadInput
from dopamine_rl.metrics import auc, false_success
from dopamine_rl.progress import check_interval
from dopamine_rl.success import ClaimOutcome
from dopamine_rl.texts import counted

CLAIM_COUNTS = ("ended_episodes", "claims", "false_claims", "missed_successes")
"""What is counted where success is claimed from progress, over the whole training."""
LEAST_EACH = 3
"""Fewest episodes of a kind that a figure is trusted from."""
WORSE = 0.1
"""A figure that falls by so much further below its bound than when it was told of is told of again."""
CALM = 0.05
"""A figure must be better than its bound by so much to have recovered, or the warning would come and go with the
noise."""


class ShadowMonitor:
    """Compares the final progress of the last finished episodes with the simulator's verdict on them.

    Args:
        window: how many episodes are looked at, the latest.
        least: fewest of them to say anything.
        success_threshold: final progress from which an episode counts as a claimed success.
        least_auc: warn where a success ends higher than a failure less often than this.
        most_false_success: warn where more than this share of failures end as a claimed success.
        most_wrong_claims: warn where more than this share of episodes end by a false claim, or are missed successes.
    Raises:
        BadInput: a setting is out of range.
    """

    def __init__(
        self,
        window: int = 50,
        least: int = 20,
        success_threshold: float = 0.8,
        least_auc: float = 0.8,
        most_false_success: float = 0.2,
        most_wrong_claims: float = 0.1,
    ) -> None:
        for name, value, good, fix in (
            ("least", least, least >= 1, "give at least 1 episode"),
            ("window", window, window >= max(least, 2 * LEAST_EACH), f"give {max(least, 2 * LEAST_EACH)} or more"),
            ("success_threshold", success_threshold, 0.0 < success_threshold <= 1.0, "give a progress in (0, 1]"),
            ("least_auc", least_auc, 0.0 <= least_auc <= 1.0 - CALM, f"give a chance in [0, {1.0 - CALM:g}]"),
            (
                "most_false_success",
                most_false_success,
                CALM <= most_false_success <= 1.0,
                f"give a share in [{CALM}, 1]",
            ),
            (
                "most_wrong_claims",
                most_wrong_claims,
                CALM <= most_wrong_claims <= 1.0,
                f"give a share in [{CALM}, 1]",
            ),
        ):
            if not good:
                raise BadInput(f"monitor.{name}", value, fix)
        self._least, self._threshold = least, success_threshold
        self._least_auc, self._most_false_success = least_auc, most_false_success
        self._most_wrong_claims = most_wrong_claims
        self._episodes: deque[tuple[float, bool]] = deque(maxlen=window)
        self._claims: deque[ClaimOutcome] = deque(maxlen=window)
        self._claim_counts = dict.fromkeys(CLAIM_COUNTS, 0)
        self._told: dict[str, float] = {}
        self._seen = self._without_value = self._warnings = 0

    def add(self, final_progress: float, success: bool, claim: ClaimOutcome | None = None) -> None:
        """Take a finished episode.

        Args:
            final_progress: Φ* of its last scored frame, in [0, 1], not the potential after termination, which is 0.
                NaN, where no frame has a value, is counted and left out.
            success: the simulator's verdict.
            claim: how the episode ended, where success is claimed from progress.
        Raises:
            BadInput: a progress outside [0, 1].
        """
        if claim is not None:
            self._claims.append(claim)
            for name, counts in zip(CLAIM_COUNTS, (True, claim.claimed, claim.false_claim, claim.missed), strict=True):
                self._claim_counts[name] += counts
        if math.isnan(final_progress):
            self._without_value += 1
            return
        self._episodes.append((float(check_interval("final_progress", final_progress)), bool(success)))
        self._seen += 1

    def warning(self) -> str | None:
        """What has changed since the last call: where model and simulator part, part further, or agree again.

        Where a figure can no longer be told (too few failures are left, say) a warning stays open, and nothing is said.
        """
        worse, better = [], []
        for name, (excess, sentence) in self._findings().items():
            if excess > self._told.get(name, -WORSE) + WORSE:
                self._told[name] = excess
                worse.append(sentence)
            elif name in self._told and excess <= -CALM:
                del self._told[name]
                better.append(sentence)
        self._warnings += bool(worse)
        parts = [f"the reward model and the simulator part: {'; '.join(worse)}"] if worse else []
        parts += [f"recovered: {'; '.join(better)}"] if better else []
        return f"{'. '.join(parts)} (last {counted(len(self._episodes), 'episode')})" if parts else None

    def summary(self) -> dict[str, Any]:
        """Figures of the last episodes, None where there is none, and what was warned of; ready for JSON."""
        successes, failures = self._ends()
        return {
            "episodes": self._seen,
            "without_value": self._without_value,
            "window_successes": len(successes),
            "window_failures": len(failures),
            "auc": auc(successes, failures) if successes and failures else None,
            "false_success": false_success(failures, self._threshold).mean if failures else None,
            "success_end": _mean(successes) if successes else None,
            "failure_end": _mean(failures) if failures else None,
            "warnings": self._warnings,
            "open": sorted(self._told),
            **(self._claim_counts if self._claims else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers; ready for JSON."""
        counts = {"seen": self._seen, "without_value": self._without_value, "warnings": self._warnings}
        claims = {"claims": [astuple(claim) for claim in self._claims], "claim_counts": self._claim_counts}
        return {"episodes": list(self._episodes), "told": self._told, **counts, **claims}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._episodes.clear()
        self._episodes.extend((float(end), bool(success)) for end, success in state["episodes"])
        self._claims.clear()
        self._claims.extend(ClaimOutcome(*map(bool, claim)) for claim in state.get("claims", []))
        self._claim_counts |= state.get("claim_counts", {})
        self._told = dict(state["told"])
        self._seen, self._without_value, self._warnings = (
            state[name] for name in ("seen", "without_value", "warnings")
        )

    def _claim_findings(self) -> dict[str, tuple[float, str]]:
        """`_findings` about claims."""
        count = len(self._claims)
        if count < self._least:
            return {}
        found = {}
        for name, wrong, what in (
            ("false_claims", sum(claim.false_claim for claim in self._claims), "ended by a false claim of success"),
            ("missed_successes", sum(claim.missed for claim in self._claims), "were successes that nobody claimed"),
        ):
            bound = self._most_wrong_claims
            sentence = f"{wrong} of {count} episodes {what} (bound {100 * bound:.0f} %)"
            found[name] = (wrong / count - bound, sentence)
        return found

    def _ends(self) -> tuple[list[float], list[float]]:
        """Final progress of the successes and of the failures in the window."""
        return [end for end, success in self._episodes if success], [
            end for end, success in self._episodes if not success
        ]

    def _findings(self) -> dict[str, tuple[float, str]]:
        """Figure that can be told -> by how much it is beyond its bound (below 0: within it), and a sentence."""
        successes, failures = self._ends()
        found = self._claim_findings()
        if len(self._episodes) < self._least or len(failures) < LEAST_EACH:
            return found
        share = false_success(failures, self._threshold).mean
        found["false_success"] = (
            share - self._most_false_success,
            f"{100 * share:.0f} % of {counted(len(failures), 'failure')} end at progress {self._threshold:g} or above "
            f"(bound {100 * self._most_false_success:.0f} %)",
        )
        if len(successes) < LEAST_EACH:
            return found
        separation, (high, low) = auc(successes, failures), (_mean(successes), _mean(failures))
        found["auc"] = (
            self._least_auc - separation,
            f"AUC of {counted(len(successes), 'success')} against {counted(len(failures), 'failure')} is "
            f"{separation:.2f} (bound {self._least_auc:g})",
        )
        found["ends"] = (low - high, f"successes end at {high:.2f} on average, failures at {low:.2f}")
        return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
