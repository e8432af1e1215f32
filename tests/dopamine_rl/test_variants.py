"""A model's hops as progress: true hops, every perspective alone, and every fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dopamine_rl.evaluation.hops import EpisodeHops
from dopamine_rl.evaluation.variants import true_hops, variants
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
