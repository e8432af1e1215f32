"""The precision probe's figures: what a perfect, a blind and a misled model get."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.probe import ProbeFigures, ProbePictures, ask, probe_figures
from dopamine_rl.types import TaskReference
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.fakes import FakeEngine, frame, picture

GAPS_M, OFFSETS_M = (0.03, 0.015, 0.003), (0.0, 0.003, 0.01, 0.03)
STATES = np.array([(gap, offset) for gap in GAPS_M for offset in OFFSETS_M for _ in range(4 if offset else 1)])
REFERENCE = TaskReference("insert the peg", picture(0.0), picture(1.0), frame(1.0))


def figures(progress: NDArray[np.float64]) -> ProbeFigures:
    return probe_figures(STATES[:, 0], STATES[:, 1], progress)


def true() -> NDArray[np.float64]:
    """Falls with the gap and the offset, as the peg's true progress does."""
    return 0.5 * np.exp(-(STATES[:, 0] / 0.1 + STATES[:, 1] / 0.02))


def shown(progress: NDArray[np.float64]) -> ProbePictures:
    return ProbePictures(frame(0.0), np.stack([frame(value) for value in progress]), *STATES.T, true())


def test_progress_that_falls_with_gap_and_offset_has_rank_1_and_pays_for_aligning() -> None:
    found = figures(true())
    assert found.gaps_m.tolist() == list(GAPS_M)
    assert found.offsets_m.tolist() == list(OFFSETS_M)
    assert found.ranks.tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert found.rank == pytest.approx(1.0)
    assert found.trade == pytest.approx(0.5 * (np.exp(-0.03 - 1.5) - np.exp(-0.3)))
    assert found.trade < 0


def test_a_model_that_says_the_same_everywhere_knows_nothing_of_alignment() -> None:
    found = figures(np.full(len(STATES), 0.4))
    assert (found.rank, found.trade) == (0.0, pytest.approx(0.0))


def test_a_model_that_prefers_the_misaligned_object_has_rank_minus_1() -> None:
    found = figures(1.0 - true())
    assert found.rank == pytest.approx(-1.0)
    assert found.trade > 0


def test_the_worst_distance_counts_and_paying_for_advancing_alone_is_a_trap() -> None:
    values = np.where(STATES[:, 0] == 0.015, 0.2 + STATES[:, 1], 0.5 - 10 * STATES[:, 0] - STATES[:, 1])
    found = figures(values)
    assert found.ranks.tolist() == pytest.approx([1.0, -1.0, 1.0])
    assert found.rank == pytest.approx(-1.0)
    assert found.trade == pytest.approx((0.5 - 0.03 - 0.03) - (0.5 - 0.3))


def test_directions_are_averaged_before_ranks_are_taken() -> None:
    beside = np.tile([0.0, *[-1, 1, -2, 2] * 3], 3)  # as far below as above: the mean alone is in order
    assert figures(true() + 0.1 * beside).rank == pytest.approx(1.0)


def test_what_cannot_be_read_is_left_out_and_never_a_number() -> None:
    some = np.where((np.arange(len(STATES)) % 13) % 4 == 2, np.nan, true())  # one direction of each offset
    assert figures(some).rank == pytest.approx(1.0)
    none = np.where((STATES[:, 0] == 0.03) & (STATES[:, 1] == 0.03), np.nan, true())
    found = figures(none)
    assert np.isnan(found.rank)
    assert found.ranks[1:].tolist() == pytest.approx([1.0, 1.0])
    assert found.trade < 0
    assert np.isnan(figures(np.where(STATES[:, 1] == 0.0, np.nan, true())).trade)


@pytest.mark.parametrize("keep", [STATES[:, 0] == 0.03, STATES[:, 1] == 0.0, ~((STATES == (0.003, 0.01)).all(axis=1))])
def test_states_that_allow_no_figure_are_refused(keep: NDArray[np.bool_]) -> None:
    with pytest.raises(BadInput, match="states"):
        probe_figures(STATES[keep, 0], STATES[keep, 1], true()[keep])


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(BadInput, match="progress"):
        probe_figures(STATES[:, 0], STATES[:, 1], true()[:-1])


def test_a_model_is_asked_forward_and_backward_in_the_order_of_the_states() -> None:
    progress = ask(LocalRewardClient(Scorer(FakeEngine())), REFERENCE, shown(true()))
    assert progress == pytest.approx(true(), abs=0.005)


def test_an_unreadable_state_has_no_progress() -> None:
    values = true()
    values[5] = 0.9
    engine = FakeEngine(unreadable=lambda before, after: after == pytest.approx(0.9))
    progress = ask(LocalRewardClient(Scorer(engine)), REFERENCE, shown(values))
    assert np.flatnonzero(np.isnan(progress)).tolist() == [5]
