from __future__ import annotations

import argparse

from experiments.benchmarks.training import measure


def test_both_arms_make_the_same_gradients_and_ours_is_faster() -> None:
    arguments = argparse.Namespace(rounds=1, threads=1, views=2, frames=12, group=16, device="cpu")
    figures = measure(arguments)
    assert figures["gradient_difference"] < 1e-3
    assert figures["ratio"] > 2
    assert 0 < figures["mfu"] < 1.5
