"""What the engine keeps between calls: never a different answer, never more than its bound."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.config import GRMConfig
from dopamine_rl.grm.model import GRM, build_grm
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import EpisodeContext, HopEstimates, ScoreReply, ScoreRequest
from reward_service.engines.cache import TensorCache
from reward_service.engines.transformers import TransformersEngine
from reward_service.scorer import Scorer
from tests.dopamine_rl.released import ARCHITECTURES, Architecture, released_folder

TINY = GRMConfig(
    image_size=56, patch=14, vision_width=32, vision_depth=1, vision_heads=2, text_width=32, text_depth=2, text_heads=2
)
SLACK = 2e-5
"""Answers move by rounding with the shape of a batch, and by nothing else."""


@pytest.fixture(scope="module")
def grm() -> GRM:
    torch.set_num_threads(1)
    return build_grm(TINY)


def pictures(seed: int, *count: int, size: int = 56) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*count, size, size, 3), dtype=np.uint8)


def context(seed: int, instruction: str = "push the cube", size: int = 56, views: int = 2) -> EpisodeContext:
    start, end = pictures(seed, 2, size=size)
    init, goal = pictures(seed + 1000, 2, views, size=size)
    return EpisodeContext(f"e{seed}", instruction, start, end, init, goal)


def episode(context: EpisodeContext, frames: int, seed: int) -> list[ScoreRequest]:
    """One request a frame, each compared with the frame before."""
    shown = pictures(seed, frames, len(context.init), size=context.init.shape[1])
    before = [context.init, *shown]
    return [ScoreRequest(context, before[t], shown[t : t + 1], (t + 1,), 1e4) for t in range(frames)]


def afresh(grm: GRM, request: ScoreRequest) -> ScoreReply:
    """The answer of an engine that has seen nothing and keeps nothing."""
    return Scorer(TransformersEngine(grm, cache_bytes=0)).score([request])[0]


def check(replies: Sequence[ScoreReply], wanted: Sequence[ScoreReply]) -> None:
    for reply, fresh in zip(replies, wanted, strict=True):
        assert reply.valid.all()
        np.testing.assert_allclose(reply.hops, fresh.hops, atol=SLACK)
        np.testing.assert_allclose(reply.entropy, fresh.entropy, atol=1e-4)


@pytest.mark.parametrize("cache_bytes", [0, 1, 20_000, 60_000, 2**28])
def test_interleaved_episodes_answer_as_if_alone(grm: GRM, cache_bytes: int) -> None:
    scorer = Scorer(engine := TransformersEngine(grm, cache_bytes=cache_bytes))
    episodes = [
        episode(context(1), 4, 11),
        episode(context(2), 4, 12),
        episode(context(1, "insert the peg"), 4, 11),
        episode(context(3, size=84), 4, 13),
        episode(context(4, views=1), 4, 14),
        episode(replace(context(1), goal=context(5).goal), 4, 11),
    ]
    for requests in zip(*episodes, strict=True):
        check(scorer.score(requests), [afresh(grm, request) for request in requests])
        assert engine.cached_bytes <= cache_bytes
    backwards = list(itertools.chain(*episodes))[::-1]
    check([scorer.score([request])[0] for request in backwards], [afresh(grm, request) for request in backwards])


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    st.sampled_from([5_000, 40_000, 2**28]),
)
def test_any_order_of_questions_answers_as_if_alone(
    grm: GRM, asked: list[tuple[int, int, int]], cache_bytes: int
) -> None:
    """Prompts of a few pictures in any order and any number, with whatever the engine happens to have kept."""
    images = pictures(7, 6)
    prompts = [Prompt(f"task {task}", (4, 5), (before,), (after,)) for task, before, after in asked]
    engine, alone = TransformersEngine(grm, cache_bytes=cache_bytes), TransformersEngine(grm, cache_bytes=0)
    answers = [engine.estimate(images, prompts[start : start + 3]).hop for start in range(0, len(prompts), 3)]
    np.testing.assert_allclose(np.concatenate(answers), alone.estimate(images, prompts).hop, atol=SLACK)
    assert engine.cached_bytes <= cache_bytes


def test_a_frame_costs_its_new_pictures_and_no_known_beginning(grm: GRM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(grm)
    encoded, computed = [], []
    encode, logits = engine._reader.encode, engine._reader.logits

    def count_pictures(images: np.ndarray) -> object:
        encoded.append(len(images))
        return encode(images)

    def count_beginnings(*arguments: object) -> torch.Tensor:
        known = arguments[-1]
        assert isinstance(known, dict)
        before = len(known)
        result = logits(*arguments)  # type: ignore[arg-type]
        computed.append(len(known) - before)
        return result

    monkeypatch.setattr(engine._reader, "encode", count_pictures)
    monkeypatch.setattr(engine._reader, "logits", count_beginnings)
    for request in episode(context(1), 3, 11):
        Scorer(engine).score([request])
    assert encoded == [2 + 2 + 2 + 2, 2, 2]  # START and END, INIT, GOAL, and the frame's two views; then only these.
    assert computed == [
        3,
        1,
        1,
    ]  # The references, on them INIT and GOAL; then only the previous frame on the references.


def test_what_a_failed_answer_rests_on_is_not_kept(grm: GRM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(grm)
    images = pictures(3, 6)
    encode = engine._reader.encode

    def broken(images: np.ndarray) -> object:
        features = encode(images)
        features.tokens[3] = torch.nan
        return features

    monkeypatch.setattr(engine._reader, "encode", broken)
    prompts = [Prompt("push", (0, 1), (2,), (4,)), Prompt("push", (0, 1), (3,), (4,))]
    assert engine.estimate(images, prompts).valid.tolist() == [True, False]
    monkeypatch.setattr(engine._reader, "encode", encode)
    mended = engine.estimate(images, prompts)
    assert mended.valid.all()
    fresh = TransformersEngine(grm, cache_bytes=0).estimate(images, prompts)
    np.testing.assert_allclose(mended.hop, fresh.hop, atol=SLACK)


def test_an_error_leaves_nothing_behind(grm: GRM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(grm)

    def out_of_memory(*_: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine._reader, "logits", out_of_memory)
        with pytest.raises(RuntimeError, match="memory"):
            engine.estimate(pictures(3, 4), [Prompt("push", (0, 1), (2,), (3,))])
    assert engine.cached_bytes == 0
    assert engine.estimate(pictures(3, 4), [Prompt("push", (0, 1), (2,), (3,))]).valid.all()


def test_a_picture_changed_in_place_is_another_picture(grm: GRM) -> None:
    engine = TransformersEngine(grm)
    images = pictures(3, 4)
    prompts = [Prompt("push", (0, 1), (2,), (3,))]
    engine.estimate(images, prompts)
    images[2] = 255 - images[2]
    np.testing.assert_allclose(
        engine.estimate(images, prompts).hop, TransformersEngine(grm).estimate(images, prompts).hop, atol=SLACK
    )


def test_equal_pixels_are_encoded_once_and_transposed_ones_are_others(grm: GRM) -> None:
    engine = TransformersEngine(grm)
    wide = np.random.default_rng(5).integers(0, 256, (4, 56, 112, 3), dtype=np.uint8)
    images = [*wide, *(image.reshape(image.shape[1], image.shape[0], 3) for image in wide), wide[0].copy()]
    prompts = [
        Prompt("push", (0, 1), (2,), (3,)),
        Prompt("push", (4, 5), (6,), (7,)),
        Prompt("push", (8, 1), (2,), (3,)),
    ]
    answers = engine.estimate(images, prompts)
    assert answers.valid.all()
    assert answers.hop[0] == pytest.approx(answers.hop[2], abs=SLACK)
    fresh = [TransformersEngine(grm, cache_bytes=0).estimate(images, [prompt]).hop[0] for prompt in prompts]
    np.testing.assert_allclose(answers.hop, fresh, atol=SLACK)


def test_two_engines_share_nothing(grm: GRM) -> None:
    first, second = TransformersEngine(grm), TransformersEngine(build_grm(replace(TINY, seed=1)))
    prompts = [Prompt("push", (0, 1), (2,), (3,))]
    one = first.estimate(pictures(3, 4), prompts)
    assert second.cached_bytes == 0
    assert one.hop[0] != second.estimate(pictures(3, 4), prompts).hop[0]


def test_threads_wait_in_turn(grm: GRM) -> None:
    engine = TransformersEngine(grm, cache_bytes=60_000)
    requests = [request for seed in range(4) for request in episode(context(seed), 3, seed + 50)]
    replies: list[ScoreReply | None] = [None] * len(requests)

    def work(first: int) -> None:
        for place in range(first, len(requests), 4):
            replies[place] = Scorer(engine).score([requests[place]])[0]

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    check([reply for reply in replies if reply is not None], [afresh(grm, request) for request in requests])


def test_too_narrow_pictures_are_invalid(grm: GRM) -> None:
    strip = np.zeros((1, 400, 3), np.uint8)
    estimates: HopEstimates = TransformersEngine(grm).estimate([strip] * 4, [Prompt("push", (0, 1), (2,), (3,))])
    assert "narrow" in estimates.reasons[0]


def test_the_cache_forgets_what_was_used_least_recently() -> None:
    cache = TensorCache(3 * 16)
    for name in "abc":
        cache.put(name, torch.full((4,), float(ord(name))))
    assert cache.get("a") is not None
    cache.put("d", torch.zeros(4))
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert (cache.bytes, len(cache)) == (48, 3)
    cache.put("large", torch.zeros(13))
    assert cache.get("large") is None
    assert len(cache) == 3
    batch = torch.zeros(1000, 4)
    cache.put("row", batch[0])
    kept = cache.get("row")
    assert kept is not None
    assert kept.untyped_storage().nbytes() == 16
    with pytest.raises(BadInput, match="cache_bytes"):
        TensorCache(-1)


@pytest.mark.parametrize("cache_bytes", [0, 200_000, 2**28])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_in_text_do_not_depend_on_what_is_kept(
    architecture: Architecture, cache_bytes: int, tmp_path: Path
) -> None:
    folder = released_folder(tmp_path / "grm", architecture)
    scorer = Scorer(engine := TransformersEngine(folder, cache_bytes=cache_bytes))
    episodes = [
        episode(context(1), 3, 11),
        episode(context(1, "insert the peg"), 3, 11),
        episode(context(3, size=144, views=1), 3, 13),
    ]
    for requests in zip(*episodes, strict=True):
        check(scorer.score(requests), [afresh(engine._grm, request) for request in requests])
        assert engine.cached_bytes <= cache_bytes
    backwards = list(itertools.chain(*episodes))[::-1]
    check([scorer.score([request])[0] for request in backwards], [afresh(engine._grm, one) for one in backwards])
