"""Hop arithmetic and fusion against slow loops that follow the formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dopamine_rl.errors import BadInput
from dopamine_rl.progress import (
    FoldState,
    apply_distribution,
    apply_hop,
    backward_progress,
    consistency_fusion,
    consistency_weight,
    fold,
    fold_frames,
    fold_reply,
    forward_progress,
    hop,
    hop_bin,
    mean_fusion,
    split_hop,
)
from dopamine_rl.types import FUSIONS, EpisodeContext, FusionConfig, ScoreReply, ScoreRequest

few = settings(max_examples=150, deadline=None)
unit = st.floats(0, 1)
fusions = st.builds(
    FusionConfig,
    kind=st.sampled_from(FUSIONS),
    alpha=st.floats(0, 50),
    epsilon=st.sampled_from([1e-6, 1e-2]),
    chain=st.sampled_from(["fused", "own"]),
)


def slow_hop(before: float, after: float) -> float:
    if after >= before:
        return (after - before) / (1 - before) if before < 1 else 0.0
    return (after - before) / before


@few
@given(unit, unit)
def test_hop_follows_the_formula_and_round_trips(before: float, after: float) -> None:
    value = float(hop(before, after))
    assert value == slow_hop(before, after)
    assert -1 <= value <= 1
    assert apply_hop(before, value) == pytest.approx(after, abs=1e-12)


@few
@given(unit, st.floats(-1, 1))
def test_hop_is_the_inverse_of_apply_hop(before: float, value: float) -> None:
    after = float(apply_hop(before, value))
    assert 0 <= after <= 1
    expected = before + value * (1 - before) if value >= 0 else before * (1 + value)
    assert after == pytest.approx(expected, abs=1e-12)
    if 1e-3 < before < 1 - 1e-3:
        assert hop(before, after) == pytest.approx(value, abs=1e-9)


def test_hops_of_arrays_equal_hops_of_numbers() -> None:
    grid = np.linspace(0, 1, 11)
    assert np.array_equal(
        hop(grid[:, None], grid[None, :]), [[slow_hop(before, after) for after in grid] for before in grid]
    )
    assert hop(0, 0) == hop(1, 1) == 0


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, math.inf])
def test_progress_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(BadInput):
        hop(bad, 0.5)
    with pytest.raises(BadInput):
        apply_hop(0.5, 20 * bad)
    with pytest.raises(BadInput):
        apply_distribution(0.5, bad, 0.0)
    with pytest.raises(BadInput):
        FoldState(bad, 0.0)


@few
@given(unit, st.lists(st.floats(-1, 1), min_size=1, max_size=9))
def test_a_distribution_gives_the_mean_of_its_outcomes(progress: float, outcomes: list[float]) -> None:
    gain, loss = split_hop(outcomes)
    expected = np.mean([float(apply_hop(progress, outcome)) for outcome in outcomes])
    assert apply_distribution(progress, gain.mean(), loss.mean()) == pytest.approx(expected, abs=1e-12)


def test_anchored_perspectives_are_clamped() -> None:
    assert np.allclose(forward_progress([0.3, 0.0, 0.1], [0.0, 0.4, 0.2]), [0.3, 0.0, 0.0])
    assert np.allclose(backward_progress([0.0, 0.4, 0.2], [0.3, 0.0, 0.1]), [0.7, 1.0, 1.0])


def test_hop_bins_are_uniform_and_the_same_in_32_bits() -> None:
    assert hop_bin([-1, -0.93, -0.91, 0, 0.93, 1]).tolist() == [0, 0, 1, 12, 24, 24]
    edges = np.linspace(-1, 1, 26)
    assert np.array_equal(hop_bin(edges), hop_bin(edges.astype(np.float32)))
    assert hop_bin(edges).tolist() == [*range(25), 24]


def slow_fold(progress: float, own: float, gain: np.ndarray, loss: np.ndarray, valid: np.ndarray, fusion: FusionConfig):
    """Eq. 4-11 for one frame after the other, with ΔΦ written as in the paper."""
    rows = []
    for (gi, gf, gb), (li, lf, lb), ok in zip(gain, loss, valid, strict=True):
        if ok:
            start = progress if fusion.chain == "fused" else own
            own = start + (1 - start) * gi - start * li
            forward, backward = min(max(gf - lf, 0), 1), min(max(1 + gb - lb, 0), 1)
            if fusion.kind == "mean":
                progress = (own + forward + backward) / 3
            elif fusion.kind != "consistency":
                progress = {"incremental": own, "forward": forward, "backward": backward}[fusion.kind]
            else:
                mean = (forward + backward) / 2
                w = math.exp(-fusion.alpha * (abs(backward - forward) / (mean + fusion.epsilon)) ** 2)
                progress = progress + w / 2 * (mean - progress + (own - progress))
        rows.append(progress)
    return rows


@st.composite
def hops(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    T = draw(st.integers(0, 8))
    gain = draw(hnp.arrays(np.float64, (T, 3), elements=unit))
    loss = (1 - gain) * draw(hnp.arrays(np.float64, (T, 3), elements=unit))
    valid = draw(hnp.arrays(bool, T))
    gain[~valid] = np.nan
    return gain, loss, valid


@few
@given(unit, unit, hops(), fusions)
def test_fold_equals_the_slow_loop_and_stays_bounded(
    progress: float, own: float, answers, fusion: FusionConfig
) -> None:
    gain, loss, valid = answers
    folded, state = fold(FoldState(progress, own), gain, loss, valid, fusion)
    expected = slow_fold(progress, own, gain, loss, valid, fusion)
    assert np.allclose(folded.progress, expected, atol=1e-6)
    for values in (folded.progress, folded.perspectives, folded.weight):
        assert values.dtype == np.float32
        assert np.all((values >= 0) & (values <= 1))
    assert np.all(folded.weight[~valid] == 0)
    assert state.progress == pytest.approx(expected[-1] if expected else progress, abs=1e-6)


@few
@given(unit, hops(), fusions)
def test_invalid_frames_hold_everything(start: float, answers, fusion: FusionConfig) -> None:
    gain, loss, valid = answers
    folded, _ = fold(FoldState(start, start), gain, loss, valid, fusion)
    for t in np.flatnonzero(~valid):
        assert folded.progress[t] == (folded.progress[t - 1] if t else np.float32(start))
        assert np.array_equal(folded.perspectives[t], folded.perspectives[t - 1] if t else np.float32([start] * 3))
    kept, _ = fold(FoldState(start, start), gain[valid], loss[valid], valid[valid], fusion)
    assert np.array_equal(kept.progress, folded.progress[valid])


@few
@given(hops(), fusions, st.integers(0, 8))
def test_folding_in_pieces_gives_the_same_bits(answers, fusion: FusionConfig, cut: int) -> None:
    gain, loss, valid = answers
    whole, end = fold(FoldState(), gain, loss, valid, fusion)
    first, middle = fold(FoldState(), gain[:cut], loss[:cut], valid[:cut], fusion)
    second, last = fold(middle, gain[cut:], loss[cut:], valid[cut:], fusion)
    assert last == end
    for name in ("progress", "perspectives", "valid", "weight"):
        pieces = np.concatenate([getattr(first, name), getattr(second, name)])
        assert np.array_equal(pieces, getattr(whole, name))


def test_consistency_freezes_where_the_anchors_disagree_near_the_start() -> None:
    assert consistency_weight(0.5, 0.5, 20, 1e-6) == 1
    assert consistency_weight(0.075, 0.125, 20, 1e-6) == pytest.approx(0.0067, abs=1e-3)
    assert consistency_weight(0, 0, 20, 1e-6) == 1
    assert consistency_fusion(0.3, 0.4, 0.0, 1.0, 0.0) == 0.3
    assert consistency_fusion(0.3, 0.4, 0.6, 0.8, 1.0) == pytest.approx((0.7 + 0.4) / 2)
    assert mean_fusion(0.1, 0.2, 0.6) == pytest.approx(0.3)


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("chain", ["fused", "own"])
def test_episodes_folded_together_get_the_bits_that_each_gets_alone(kind: str, chain: str) -> None:
    rng, fusion = np.random.default_rng(0), FusionConfig(kind=kind, chain=chain)
    states = [FoldState(*row) for row in rng.uniform(size=(20, 4)).tolist()] + [FoldState()]
    for _ in range(5):
        gain, loss = rng.uniform(size=(2, 21, 3)).astype(np.float32)
        progress, perspectives, after = fold_frames(states, gain, loss, fusion)
        for i, state in enumerate(states):
            folded, alone = fold(state, gain[i : i + 1], loss[i : i + 1], [True], fusion)
            assert (progress[i], after[i]) == (folded.progress[0], alone)
            assert perspectives[i].tobytes() == folded.perspectives[0].tobytes()
        states = after
    with pytest.raises(BadInput, match="gain"):
        fold_frames(states, gain * np.nan, loss, fusion)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_fold_refuses_bad_values_marked_valid_and_ignores_the_others(bad: float) -> None:
    gain, loss = np.full((2, 3), 0.2), np.zeros((2, 3))
    gain[1, 2] = bad
    with pytest.raises(ValueError, match="gain"):
        fold(FoldState(), gain, loss, [True, True], FusionConfig())
    folded, _ = fold(FoldState(), gain, loss, [True, False], FusionConfig())
    assert folded.progress[0] == folded.progress[1]


def test_fold_refuses_shapes_and_settings_that_make_no_sense() -> None:
    with pytest.raises(BadInput, match="gain"):
        fold(FoldState(), np.zeros((2, 2)), np.zeros((2, 3)), [True, True], FusionConfig())
    for wrong in ({"alpha": -1}, {"epsilon": 0}, {"alpha": np.nan}):
        with pytest.raises(BadInput, match="fusion"):
            FusionConfig("consistency", **wrong)


def request(start: float | None) -> ScoreRequest:
    picture = np.zeros((4, 4, 3), np.uint8)
    views = picture[None]
    context = EpisodeContext("e", "push", picture, picture, views, views)
    return ScoreRequest(context, views, np.stack([views] * 2), (5, 10), 100.0, start_progress=start)


def test_a_reply_is_folded_from_the_start_of_its_request() -> None:
    gain, nothing = np.full((2, 3), 0.5, np.float32), np.zeros((2, 3), np.float32)
    reply = ScoreReply(gain, nothing, nothing, ("", "unreadable"), (-1, 5), "v")
    folded = fold_reply(request(0.5), reply)
    assert folded.progress == pytest.approx([(0.75 + 0.5 + 1) / 3] * 2)
    assert folded.valid.tolist() == [True, False]
    with pytest.raises(BadInput, match="start_progress"):
        fold_reply(request(None), reply)
    with pytest.raises(BadInput, match="reasons"):
        fold_reply(request(0.5), ScoreReply(gain[:1], nothing[:1], nothing[:1], ("",), (-1,), "v"))
