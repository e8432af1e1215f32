"""Pairs under another task's instruction: their hops keep progress at 0, and nothing but the words sets them apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.episodes.balance import balance
from dopamine_rl.episodes.mismatch import draw_mismatched, mismatched_hop, other_wordings, wordings_of_tasks
from dopamine_rl.episodes.pairs import sample_blocks, sample_pairs
from dopamine_rl.episodes.states import state_progress
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.behaviours import instruction_gap
from dopamine_rl.evaluation.variants import Variant
from dopamine_rl.grm.augment import FLICKER
from dopamine_rl.grm.batches import BatchSampler, Questions
from dopamine_rl.grm.config import AugmentConfig, BatchPlan, SFTConfig, TrainConfig
from dopamine_rl.grm.evaluate import episode_hops
from dopamine_rl.grm.labels import EpisodeLabels
from dopamine_rl.grm.model import build_grm
from dopamine_rl.grm.train import train
from dopamine_rl.progress import FoldState, fold, hop, hop_bin, split_hop
from dopamine_rl.types import FUSIONS, FusionConfig
from tests.dopamine_rl.grm_toys import TINY, make_trainer, moving_square

few = settings(max_examples=40, deadline=None)
STILL = AugmentConfig()
OTHERS = ("open the drawer", "fold the cloth")


@few
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.sampled_from(FUSIONS), st.sampled_from(["fused", "own"]))
def test_progress_stays_at_zero_under_the_hops_of_another_task(at_goal: list[bool], kind: str, chain: str) -> None:
    hops = np.stack([mismatched_hop(at_goal), *(mismatched_hop([end] * len(at_goal)) for end in (False, True))], axis=1)
    fusion = FusionConfig(kind=kind, chain=chain)  # type: ignore[arg-type]
    folded, _ = fold(FoldState(), *split_hop(hops), np.ones(len(at_goal), bool), fusion)
    assert not folded.progress.any()
    hops[:, 2] = 0.0  # what "no hop" would say backwards: as complete as the goal
    folded, _ = fold(FoldState(), *split_hop(hops), np.ones(len(at_goal), bool), FusionConfig())
    assert folded.progress.min() >= 1 / 3


def test_other_instructions_are_those_of_tasks_that_share_no_words() -> None:
    tasks = wordings_of_tasks(
        [("push it", "shove it"), ("Shove it.", "move it"), ("lift it",), ("push it", "shift it")]
    )
    assert tasks["push it"] == ["push it", "shove it", "shift it"]
    others = other_wordings(tasks, ["pull it", " PUSH  it. "])
    assert others["push it"] == ["lift it", "pull it"]
    assert others["Shove it."] == ["lift it", "pull it", " PUSH  it. "]
    assert others["lift it"] == ["push it", "shove it", "shift it", "Shove it.", "move it", "pull it", " PUSH  it. "]
    with pytest.raises(BadInput, match=r"other_instructions.*another task than 'a'"):
        other_wordings({"a": ["a", "b"]}, ["A.", "b"])


@few
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 2**32))
def test_as_many_are_drawn_as_asked_none_twice(hops: list[float], share: float, seed: int) -> None:
    drawn, again = (draw_mismatched(hops, share, np.random.default_rng(seed)) for _ in range(2))
    assert drawn.tolist() == again.tolist()
    assert len(set(drawn.tolist())) == len(drawn)
    assert abs(len(drawn) - share * len(hops)) < 1.0


def test_they_are_drawn_evenly_over_the_hops_and_as_often_as_asked() -> None:
    hops = np.array([0.0] * 90 + [0.9] * 5 + [-0.9] * 5)
    drawn = [draw_mismatched(hops, 0.013, np.random.default_rng(seed)) for seed in range(600)]
    shares = np.bincount(np.digitize(hops[np.concatenate(drawn)], [-0.5, 0.5]), minlength=3) / sum(map(len, drawn))
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)
    assert sum(map(len, drawn)) == pytest.approx(600 * 1.3, rel=0.05)


@few
@given(
    st.lists(st.integers(3, 30), min_size=1, max_size=4),
    st.integers(1, 300),
    st.floats(0, 0.9),
    st.floats(0, 0.09),
    st.integers(0, 2**32),
)
def test_mismatched_pairs_are_balanced_and_labelled(
    counts: list[int], n: int, mismatched: float, zero_share: float, seed: int
) -> None:
    states = [np.arange(count) * 3 for count in counts]
    pairs = sample_pairs(states, n, np.random.default_rng(seed), zero_share, mismatched)
    wrong = pairs.mismatched
    assert len(wrong) == len(pairs.hop) == n
    assert wrong.sum() == int(n * mismatched)
    assert pairs.cell_counts.sum() == n - pairs.zero_hop_count - wrong.sum()
    right = []
    for episode, before, after, answer in zip(
        *(column[wrong] for column in (pairs.episode_index, pairs.before_index, pairs.after_index, pairs.hop)),
        strict=True,
    ):
        assert answer == (-1.0 if before == states[episode][-1] else 0.0)
        progress = state_progress(counts[episode])
        right.append(float(hop(progress[before // 3], progress[after // 3])))
    by_bin = np.bincount(hop_bin(right), minlength=25)
    assert np.ptp(by_bin[pairs.cell_sizes.sum(1) > 0]) <= 1
    again = sample_pairs(states, n, np.random.default_rng(seed), zero_share, mismatched)
    assert np.array_equal(again.mismatched, wrong)


def test_the_report_counts_them_and_bad_shares_are_refused() -> None:
    states = [np.arange(20)] * 2
    found = balance(sample_blocks(states, 4000, 0, 0.05, 0.25))
    assert (found.mismatched, found.zero_hops, found.counts.sum()) == (1000, 200, 2800)
    assert 20 < found.from_goal < 100
    for zero_share, share in ((0.05, 0.95), (0.0, -0.1), (0.0, float("nan"))):
        with pytest.raises(BadInput, match="mismatched"):
            sample_pairs(states, 5, np.random.default_rng(0), zero_share, share)


def labels(task: str, success: bool = True) -> EpisodeLabels:
    progress = np.linspace(0.0, 1.0 if success else 0.6, 30).astype(np.float32)
    return EpisodeLabels((task, f"{task}, please"), progress, np.arange(30 if success else 0), 2)


def plans(plan: BatchPlan, augment: AugmentConfig = STILL, tasks: int = 1) -> list[Questions]:
    recorded = [labels(f"task {task}", success) for task in range(tasks) for success in (True, True, False)]
    sampler = BatchSampler(recorded, TrainConfig(plan=plan, augment=augment))
    questions = [sampler.plan(number) for number in range(20)]
    again = sampler.plan(19)
    assert (again.prompts, again.hops.tolist()) == (questions[19].prompts, questions[19].hops.tolist())
    return questions


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_batch_asks_some_of_its_questions_again_in_other_words(tasks: int) -> None:
    plan = BatchPlan(episodes=4, neighbours=20, still=8, mismatched=0.25, other_instructions=OTHERS)
    plain, asked, wrong, words = 0, 0, [], set()
    for batch in plans(plan, tasks=tasks):
        own = {f"task {task}{end}" for task in range(tasks) for end in ("", ", please")}
        pictured = [tuple(batch.pictures[row] for row in prompt.images) for prompt in batch.prompts]
        task_of = [f"task {pictures[2][0] // 3}" for pictures in pictured]
        right = [p.instruction.startswith(task) for p, task in zip(batch.prompts, task_of, strict=True)]
        answers = zip(batch.prompts, batch.hops, right, strict=True)
        twins = {prompt.images: answer for prompt, answer, is_right in answers if is_right}
        for prompt, answer, is_right in zip(batch.prompts, batch.hops, right, strict=True):
            asked += 1
            if is_right:
                plain += 1
                continue
            words.add(prompt.instruction)
            assert prompt.instruction in {*OTHERS, *own}
            episode, frame, _ = batch.pictures[prompt.before[0]]
            assert answer == (-1.0 if frame == 29 and episode % 3 < 2 else 0.0)
            wrong.append(twins[prompt.images])  # the same pictures in the right words
    assert asked - plain == pytest.approx(0.25 * plain, rel=0.02)
    assert set(OTHERS) <= words
    assert len(words) == (2 if tasks == 1 else 6)
    assert np.mean(np.abs(wrong) > 0.2) > 0.6  # where the right answer is not 0 anyway
    assert any(hop < 0 for hop in wrong)
    assert any(hop > 0 for hop in wrong)


def test_without_another_instruction_nothing_is_trained() -> None:
    with pytest.raises(BadInput, match=r"sft\.train\.plan\.other_instructions.*another task than 'task 0'"):
        plans(BatchPlan(mismatched=0.1))
    assert plans(BatchPlan(mismatched=0.1), tasks=2)
    with pytest.raises(BadInput, match=r"give sft\.train\.plan\.mismatched with it"):
        BatchPlan(other_instructions=OTHERS)
    for bad in (" ", "<|im_end|>"):
        with pytest.raises(BadInput, match="plain words"):
            BatchPlan(mismatched=0.1, other_instructions=(bad,))
    with pytest.raises(BadInput, match=r"plan\.mismatched"):
        BatchPlan(mismatched=1.5)


def test_other_instructions_are_filled_in_only_where_asked_for() -> None:
    silent, asking = (SFTConfig(train=TrainConfig(plan=BatchPlan(mismatched=share))) for share in (0.0, 0.1))
    assert silent.with_other_instructions(OTHERS) is silent
    told = asking.with_other_instructions(OTHERS)
    assert told.train.plan.other_instructions == OTHERS
    assert told.with_other_instructions(["another"]) is told


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(share=1.0, worlds=1.0)])
def test_a_pause_is_the_same_frame_in_flickering_light(augment: AugmentConfig) -> None:
    for batch in plans(BatchPlan(paused=2, balanced=0, blank_view=0.3), augment):
        frames = [[batch.pictures[row] for row in rows] for p in batch.prompts for rows in (p.before, p.after)]
        rests = [
            (prompt, hop)
            for prompt, hop, before, after in zip(batch.prompts, batch.hops, frames[::2], frames[1::2], strict=True)
            if before == after and prompt.before != prompt.after
        ]
        assert len(rests) >= 2 * 2
        for prompt, answer in rests:
            assert answer == 0.0 or prompt.before[0] == 0  # or the goal of the only other recording
            for before, after in zip(prompt.before, prompt.after, strict=True):
                if batch.looks[after] is not None and before != after:
                    still = batch.looks[before] or (*(0.0,) * len(FLICKER), 1.0, 1.0, 0.0)
                    change = np.subtract(batch.looks[after], still)
                    assert np.all(np.abs(change) <= [*FLICKER, 0, 0, 0])


def test_without_new_kinds_a_batch_stays_what_it_was() -> None:
    """Other kinds are drawn after the usual ones, so that they change none of an episode's other questions."""
    usual, more = (plans(replace(BatchPlan(episodes=1), **kinds)) for kinds in ({}, {"paused": 2}))  # type: ignore[arg-type]
    for batch, larger in zip(usual, more, strict=True):
        assert larger.prompts[: len(batch.prompts)] == batch.prompts
        assert len(larger.prompts) == len(batch.prompts) + 2


@pytest.mark.slow
def test_a_model_learns_to_read() -> None:
    torch.set_num_threads(1)
    plan = BatchPlan(episodes=2, runs=4, mismatched=0.3, other_instructions=OTHERS)
    config = TrainConfig(budget_s=0, updates=60, learning_rate=3e-3, batches=1, plan=plan)

    def gap(plan: BatchPlan) -> float:
        grm = build_grm(TINY)
        train(make_trainer(grm, [moving_square(seed) for seed in range(4)], replace(config, plan=plan)))
        ends: dict[str, list[float]] = {"push the block": [], OTHERS[0]: []}
        for words, reached in ends.items():
            for seed in range(100, 104):
                episode = replace(moving_square(seed), instructions=(words,))
                answers = episode_hops(grm, episode, moving_square(0), np.arange(24))
                reached.append(float(Variant(FusionConfig()).curve(answers)[0][-1]))
        return instruction_gap(*ends.values(), 0.8).gap

    assert gap(plan) > 0.2
    assert abs(gap(replace(plan, mismatched=0.0, other_instructions=()))) < 0.2
