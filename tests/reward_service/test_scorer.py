"""The scorer: every picture and question once, and frames without a value are never compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, VersionUnavailable
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import (
    FUSIONS,
    EpisodeContext,
    FoldedProgress,
    FusionConfig,
    HopEstimates,
    ScoreReply,
    ScoreRequest,
)
from dopamine_rl.wire import decode_request, encode_request
from reward_service.scorer import Scorer
from tests.contracts import assert_same_answer, check_scorer
from tests.fakes import VIEWS, FakeEngine, hop, make_request, seeded_request, sometimes


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_contract(rate: float) -> None:
    check_scorer(Scorer(FakeEngine(unreadable=sometimes(rate))), seeded_request)


class _ForgetsLastFrame(Scorer):
    """Broken: says "no progress" instead of "no value"."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        replies = super().score(requests)
        return [replace(r, gain=np.nan_to_num(r.gain), loss=np.nan_to_num(r.loss)) for r in replies]


class _MixesUpRequests(Scorer):
    """Broken: answers in the wrong order."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        return super().score(requests)[::-1]


class _ComparesWithNeighbour(Scorer):
    """Broken: takes the frame before as the anchor, valid or not."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        replies = super().score(requests)
        return [
            replace(reply, anchor_times=(-1, *request.times[:-1]))
            for request, reply in zip(requests, replies, strict=True)
        ]


@pytest.mark.parametrize("broken", [_ForgetsLastFrame, _MixesUpRequests, _ComparesWithNeighbour])
def test_the_contract_can_fail(broken: type[Scorer]) -> None:
    with pytest.raises(AssertionError):
        check_scorer(broken(FakeEngine(unreadable=sometimes(0.3))), seeded_request)


def test_hops_are_those_of_the_pictures() -> None:
    progress = (0.2, 0.4, 0.3, 0.8)
    [reply] = Scorer(FakeEngine()).score([make_request(progress, start_progress=0.0)])
    for index, (before, after) in enumerate(zip((0.0, *progress), progress, strict=False)):
        expected = [hop(before, after), hop(0.0, after), hop(1.0, after)]
        np.testing.assert_allclose(np.stack([reply.gain[index], reply.loss[index]], axis=1), expected, atol=0.02)
    assert reply.anchor_times == (-1, 5, 10, 15)
    assert reply.folded is not None
    np.testing.assert_allclose(reply.folded.progress, progress, atol=0.01)


def test_each_picture_is_given_once_within_a_request() -> None:
    engine = FakeEngine()
    Scorer(engine).score([make_request((0.2, 0.4, 0.3, 0.8))])
    # Four new frames and init, goal; `previous` is init, and the references are the front views of init and goal.
    assert engine.calls == [((4 + 2) * VIEWS, 3 * 4 - 1)]  # Frame 0's incremental question is its forward question.


def test_pictures_are_shared_across_requests() -> None:
    engine = FakeEngine()
    Scorer(engine).score([make_request((0.2, 0.4)), make_request((0.4, 0.6), previous=0.2)])
    assert engine.calls == [((3 + 2) * VIEWS, 3 * 3 - 1)]  # 0.4 against 0.2, init and goal is asked by both.


def test_equal_pixels_of_another_shape_are_another_picture() -> None:
    engine = FakeEngine()
    black = np.zeros((4, 16, 3), np.uint8)
    request = make_request((0.2,))
    Scorer(engine).score([replace(request, context=replace(request.context, reference_start=black))])
    assert engine.calls[0][0] == (1 + 2) * VIEWS + 1


def test_after_an_invalid_frame_the_last_valid_one_is_compared_with() -> None:
    engine = FakeEngine(unreadable=lambda before, after: abs(after - 0.4) < 0.01)
    [reply] = Scorer(engine).score([make_request((0.2, 0.4, 0.6), start_progress=0.0)])
    assert reply.valid.tolist() == [True, False, True]
    assert reply.anchor_times == (-1, 5, 5)
    assert reply.gain[2, 0] == pytest.approx(hop(0.2, 0.6)[0], abs=0.01)
    assert reply.reasons[1].startswith("incremental: unreadable")
    assert "; forward: " in reply.reasons[1]
    assert reply.folded is not None
    np.testing.assert_allclose(reply.folded.progress, [0.2, 0.2, 0.6], atol=0.01)
    assert len(engine.calls) == 2
    assert engine.calls[1] == (3 * VIEWS - 1 + 1, 1)  # 0.2, 0.6, and the front views of init and goal as references.


def test_one_unreadable_perspective_makes_the_frame_invalid() -> None:
    engine = FakeEngine(unreadable=lambda before, after: before == 1.0 and abs(after - 0.4) < 0.01)
    [reply] = Scorer(engine).score([make_request((0.2, 0.4, 0.6))])
    assert reply.reasons[1].startswith("backward: ")
    assert np.isnan(reply.gain[1]).tolist() == [False, False, True]
    assert reply.anchor_times == (-1, 5, 5)


def _by_hand(request: ScoreRequest, engine: FakeEngine) -> list[tuple[bool, int]]:
    """Slow and obvious: one question at a time, in order of time."""

    def readable(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
        references = [request.context.reference_start, request.context.reference_end]
        prompt = Prompt("", (0, 1), (2,), (3,))
        return bool(engine.estimate([*references, before[0], after[0]], [prompt]).valid[0])

    anchor, anchor_time, outcome = request.previous, -1, []
    for frame, time in zip(request.frames, request.times, strict=True):
        befores = (anchor, request.context.init, request.context.goal)
        valid = all(readable(before, frame) for before in befores)
        outcome.append((valid, anchor_time))
        if valid:
            anchor, anchor_time = frame, time
    return outcome


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from([0.1, 0.3, 0.6]), frames=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_batched_asking_again_equals_asking_one_by_one(rate: float, frames: int, seed: int) -> None:
    engine = FakeEngine(unreadable=sometimes(rate))
    requests = [seeded_request(frames, seed), seeded_request(max(1, frames // 2), seed + 1)]
    replies = Scorer(engine).score(requests)
    assert len(engine.calls) <= 1 + frames
    for request, reply in zip(requests, replies, strict=True):
        for (valid, anchor), was_valid, asked in zip(
            _by_hand(request, engine), reply.valid, reply.anchor_times, strict=True
        ):
            assert valid == was_valid
            assert not valid or anchor == asked
        assert_same_answer(reply, Scorer(engine).score([request])[0])


class _OutOfRange(FakeEngine):
    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        estimates = super().estimate(images, prompts)
        return replace(estimates, gain=estimates.gain + 2)


def test_an_impossible_hop_is_no_value() -> None:
    [reply] = Scorer(_OutOfRange()).score([make_request((0.2,))])
    assert not reply.valid.any()
    assert np.isnan(reply.gain).all()
    assert "not in [0, 1]" in reply.reasons[0]


def test_another_version_is_refused_before_anything_is_asked() -> None:
    engine = FakeEngine("v1")
    with pytest.raises(VersionUnavailable, match="v0 is requested, v1 is served"):
        Scorer(engine).score([make_request(), make_request(model_version="v0")])
    assert not engine.calls


def test_contract_with_the_embedded_model() -> None:
    from dopamine_rl.grm.config import GRMConfig
    from dopamine_rl.grm.model import build_grm  # Here: the other tests need no torch.
    from reward_service.engines.transformers import TransformersEngine

    tiny = GRMConfig(
        image_size=56, vision_width=32, vision_depth=1, vision_heads=2, text_width=32, text_depth=1, text_heads=2
    )
    scorer = Scorer(TransformersEngine(build_grm(tiny), threads=1))
    check_scorer(scorer, _pictures_for_a_model)
    [reply] = scorer.score([_pictures_for_a_model(3, 0)])
    assert reply.valid.all()


def _pictures_for_a_model(frames: int, seed: int) -> ScoreRequest:
    """Noise that is large enough to be cut into patches."""
    rng = np.random.default_rng(seed)

    def pictures(*shape: int) -> NDArray[np.uint8]:
        return rng.integers(0, 256, (*shape, 56, 56, 3), np.uint8)

    context = EpisodeContext("e", "insert the peg", pictures(), pictures(), pictures(2), pictures(2))
    return ScoreRequest(context, pictures(2), pictures(frames, 2), tuple(range(1, frames + 1)), 1e4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50).map(lambda value: value / 50), min_size=1, max_size=7),
    st.sets(st.integers(1, 6)),
    st.sampled_from(FUSIONS),
    st.sampled_from(["fused", "own"]),
    st.booleans(),
)
def test_any_split_of_an_episode_folds_as_one_request(
    progress: list[float], cuts: set[int], kind: Any, chain: Any, over_the_wire: bool
) -> None:
    scorer = Scorer(FakeEngine(unreadable=lambda before, after: round(after * 50) % 5 == 3 and before != after))
    fusion = FusionConfig(kind, chain=chain)
    whole = replace(make_request(progress, start_progress=0.0), fusion=fusion)
    [wanted] = scorer.score([whole])
    assert wanted.folded is not None
    parts: list[FoldedProgress] = []
    previous, start, perspectives = whole.previous, 0.0, None
    edges = [0, *sorted(cut for cut in cuts if cut < len(progress)), len(progress)]
    for low, high in pairwise(edges):
        part = replace(
            whole,
            previous=previous,
            frames=whole.frames[low:high],
            times=whole.times[low:high],
            start_progress=start,
            start_perspectives=perspectives,
        )
        [reply] = scorer.score([decode_request(encode_request(part)) if over_the_wire else part])
        assert reply.folded is not None
        parts.append(reply.folded)
        start, perspectives = float(reply.folded.progress[-1]), tuple(map(float, reply.folded.perspectives[-1]))
        valid = np.flatnonzero(reply.valid)
        previous = part.frames[valid[-1]] if len(valid) else previous
    for name in ("progress", "perspectives", "valid", "weight"):
        pieces = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(pieces, getattr(wanted.folded, name), atol=1e-6)


def test_own_chains_are_not_continued_from_a_guess() -> None:
    request = make_request((0.5,), previous=0.3, start_progress=0.4)
    with pytest.raises(BadInput, match="start_perspectives"):
        replace(request, fusion=FusionConfig(chain="own"))
    with pytest.raises(BadInput, match="start_perspectives"):  # Φ* may be held at 0 while Φ_I is not.
        replace(request, start_progress=0.0, fusion=FusionConfig("consistency", chain="own"))
    with pytest.raises(BadInput, match="start_progress"):
        replace(request, start_progress=None, start_perspectives=(0.1, 0.2, 0.3))
    replace(request, start_progress=0.0, fusion=FusionConfig(chain="own"))
    replace(make_request((0.5,), start_progress=0.0), fusion=FusionConfig("consistency", chain="own"))
