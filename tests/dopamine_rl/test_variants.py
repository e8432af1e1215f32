"""A model's hops as progress: true hops, every perspective alone, and every fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.answers import EpisodeHops
from dopamine_rl.evaluation.held_out import held_out_figures
from dopamine_rl.evaluation.variants import true_hops, variants
from dopamine_rl.grm.labels import EpisodeLabels
from dopamine_rl.progress import hop


def answers_of(curve: Sequence[float]) -> EpisodeHops:
    """A perfect model's answers."""
    truth = np.array(curve)
    hops = true_hops(truth, np.ones(len(truth) - 1, bool))
    gain, loss = np.maximum(hops, 0).astype(np.float32), np.maximum(-hops, 0).astype(np.float32)
    back = hop(truth[1:], truth[:-1]).astype(np.float32)
    return EpisodeHops(np.arange(len(truth)), gain, loss, gain * 0, np.ones(len(hops), bool), back)


def test_true_hops_compare_with_the_last_valid_frame_the_first_and_the_goal() -> None:
    truth = np.array([0.0, 0.5, 0.75, 0.5])
    assert true_hops(truth, np.array([True, True, True])).tolist() == pytest.approx(
        np.array([[0.5, 0.5, -0.5], [0.5, 0.75, -0.25], [-1 / 3, 0.5, -0.5]])
    )
    held = true_hops(truth, np.array([True, False, True]))
    assert held[2, 0] == 0.0  # 0.5 after 0.5, for the frame between them has no value


@pytest.mark.parametrize("name", list(variants()))
def test_every_perspective_and_fusion_of_a_perfect_model_is_the_truth(name: str) -> None:
    truth = [0.0, 0.2, 0.5, 0.4, 0.8, 1.0]
    curve, folded = variants()[name].curve(answers_of(truth))
    assert curve == pytest.approx(np.array(truth), abs=1e-6)
    assert folded.weight == pytest.approx(1.0)


def test_perspectives_alone_follow_their_definitions() -> None:
    hops = np.array([[0.5, 0.2, -0.6], [-0.2, 0.3, -0.1]], np.float32)
    answers = replace(answers_of([0, 0.1, 0.2]), gain=hops.clip(0), loss=(-hops).clip(0))
    curves = {name: variant.curve(answers)[0] for name, variant in variants().items()}
    assert curves["incremental alone"] == pytest.approx([0, 0.5, 0.4])
    assert curves["forward alone"] == pytest.approx([0, 0.2, 0.3])
    assert curves["backward alone"] == pytest.approx([0, 0.4, 0.9])
    first = (0.5 + 0.2 + 0.4) / 3
    assert curves["mean fusion, own chain"] == pytest.approx([0, first, (0.4 + 0.3 + 0.9) / 3])
    assert curves["mean fusion, fused chain"] == pytest.approx([0, first, (0.8 * first + 0.3 + 0.9) / 3])
    # Δ = 1 in the second frame, so α = 20 all but freezes it.
    frozen = curves["consistency fusion, fused chain"]
    assert frozen[2] == pytest.approx(frozen[1], abs=1e-6)


def test_what_training_reports_are_the_gate_s_figures_without_those_that_cannot_be_said() -> None:
    curve = np.linspace(0.0, 1.0, 10)
    expert, short, failure = (
        EpisodeLabels(("insert the peg",), truth.astype(np.float32), np.arange(len(truth) * success), 1)
        for truth, success in ((curve, True), (curve[::3], True), (0.5 * curve, False))
    )
    perfect = [(labels, answers_of(labels.progress.tolist())) for labels in (expert, short, failure)]
    assert held_out_figures(perfect) == pytest.approx(
        {"voc_plus": 1.0, "voc_minus": 1.0, "spearman": 1.0, "mae": 0.0, "end": 1.0, "end_failures": 0.5, "auc": 1.0},
        abs=1e-6,
    )
    assert held_out_figures(perfect[1:2]).keys() == {"mae", "end"}
    with pytest.raises(BadInput, match="successful"):
        held_out_figures(perfect[2:])
