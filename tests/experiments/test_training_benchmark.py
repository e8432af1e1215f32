from __future__ import annotations

import pytest

from experiments.benchmarks.training import Arguments, measure


@pytest.mark.slow
def test_both_arms_make_the_same_gradients() -> None:
    figures = measure(Arguments(rounds=1, frames=12, group=16))
    assert figures["gradient_difference"] < 1e-3
    assert figures["ratio"] > 0
    assert 0 < figures["mfu"] < 1.5
