from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, CheckpointError, Diverged
from dopamine_rl.grm.batches import AHEAD, BatchSampler, Picture, from_memory, in_memory
from dopamine_rl.grm.config import BatchPlan, Control, GRMConfig, Loss, TrainConfig
from dopamine_rl.grm.evaluate import episode_hops, evaluate
from dopamine_rl.grm.labels import LabelledEpisode
from dopamine_rl.grm.losses import CONSTANT_HOP, binned_losses, question_losses, soft_labels, target_hops
from dopamine_rl.grm.model import build_grm
from dopamine_rl.grm.readout import HOPS, Reader
from dopamine_rl.grm.train import TrainProgress, train
from dopamine_rl.progress import hop
from dopamine_rl.types import Demonstration
from tests.dopamine_rl.grm_toys import TINY, labelled, make_trainer, moving_square

SMALL_PLAN = BatchPlan(episodes=1, runs=2, run_length=3, neighbours=4, balanced=4)


def demonstration(success: bool = True, true_progress: np.ndarray | None = None) -> Demonstration:
    frames = np.random.default_rng(0).integers(0, 256, (11, 2, 56, 56, 3), dtype=np.uint8)
    return Demonstration(
        episode_id="one",
        instructions=("push the block", "move it"),
        frames=frames,
        frame_steps=np.arange(0, 22, 2),
        keyframes=np.array([0, 2, 10]),
        stages=("align", "insert"),
        observations=np.zeros((21, 3), np.float32),
        actions=np.zeros((20, 2), np.float32),
        task_rewards=np.zeros(20, np.float32),
        terminated=success,
        success=success,
        seed=0,
        true_progress=true_progress,
    )


def test_stages_share_progress_evenly() -> None:
    (label,) = labelled(demonstration())
    np.testing.assert_allclose(label.progress[[0, 1, 2, 6, 10]], [0.0, 0.25, 0.5, 0.75, 1.0])
    assert label.success


def test_failures_are_labelled_on_the_scale_of_the_successes() -> None:
    true = np.linspace(0.2, 1.0, 11).astype(np.float32)
    stuck = np.full(11, 0.6, np.float32)
    stuck[0] = 0.2
    success, failure = labelled(demonstration(True, true), demonstration(False, stuck))
    assert success.success
    assert not failure.success
    assert failure.progress[0] == pytest.approx(0.0, abs=0.02)
    assert failure.progress[-1] == pytest.approx(float(success.progress[5]), abs=0.02)


def test_failures_without_truth_are_refused() -> None:
    with pytest.raises(BadInput, match="true progress"):
        labelled(demonstration(), demonstration(False))
    with pytest.raises(BadInput, match="true_progress"):
        labelled(demonstration(True, np.linspace(0, 1, 11)), demonstration(False))
    with pytest.raises(BadInput, match="give successes"):
        labelled(demonstration(False))


@pytest.fixture(scope="module")
def episodes() -> list[LabelledEpisode]:
    """Frame f of episode e is one colour, (e, f, view): a picture says where it comes from."""
    made = []
    for e in range(3):
        frames = np.zeros((20, 2, 4, 4, 3), np.uint8)
        frames[..., 0], frames[..., 1] = e + 1, np.arange(20)[:, None, None, None]
        frames[..., 2] = np.arange(2)[None, :, None, None]
        success = e < 2
        states = np.arange(20) if success else np.zeros(0, np.int64)
        progress = np.linspace(0.0, 1.0 if success else 0.4, 20).astype(np.float32)
        made.append(LabelledEpisode(("a", "b"), frames, progress, states))
    return made


def test_every_question_has_its_right_answer_and_every_kind_is_asked(episodes: list[LabelledEpisode]) -> None:
    batches = in_memory(episodes, TrainConfig(plan=BatchPlan(blank_reference=0.0)))
    kinds = {"forward": 0, "backward": 0, "near": 0, "back": 0}
    for batch in batches(range(20)):
        assert len({image.tobytes() for image in batch.images}) == len(batch.images)
        for prompt, answer in zip(batch.prompts, batch.hops, strict=True):
            places = [tuple(int(c) for c in batch.images[index][0, 0]) for index in prompt.images]
            (start_e, start_f, _), (end_e, end_f, _) = places[:2]
            assert start_e == end_e
            assert (start_f, end_f) == (0, 19)
            assert start_e in (1, 2)  # never a failure
            (be, bf, bv), second, (ae, af, av), fourth = places[2:]
            assert second == (be, bf, 1)
            assert fourth == (ae, af, 1)
            assert bv == av == 0
            truth = hop(episodes[be - 1].progress[bf], episodes[ae - 1].progress[af])
            assert answer == pytest.approx(float(truth))
            kinds["forward"] += be == ae and bf == 0
            kinds["backward"] += be != ae and bf == 19
            kinds["near"] += be == ae and 0 < af - bf <= 3
            kinds["back"] += be == ae and af < bf
    assert min(kinds.values()) > 50


def test_a_batch_is_a_function_of_seed_and_number(episodes: list[LabelledEpisode]) -> None:
    draw, again, other = (in_memory(episodes, TrainConfig(seed=seed)) for seed in (4, 4, 5))
    first, second, third = draw([0, 1, 2])
    (alone,) = again([2])
    assert alone.prompts == third.prompts
    np.testing.assert_array_equal(alone.images, third.images)
    assert first.prompts != second.prompts
    assert not np.array_equal(next(other([0])).hops, first.hops)


def test_batches_are_prepared_a_bounded_number_ahead(episodes: list[LabelledEpisode]) -> None:
    sampler = BatchSampler([episode.labels for episode in episodes], TrainConfig())
    fetch, asked, failing = from_memory([episode.frames for episode in episodes]), [0], [False]

    def counted(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
        asked[0] += 1
        if failing[0]:
            raise BadInput("pictures", 0, "give pictures that can be read")
        return fetch(pictures)

    endless = sampler.batches(counted, threads=2)(count())
    next(endless)
    assert asked[0] <= 2 * AHEAD + 1
    failing[0] = True
    with pytest.raises(BadInput, match="can be read"):
        list(islice(endless, 2 * AHEAD + 2))


def test_views_and_references_can_be_blank(episodes: list[LabelledEpisode]) -> None:
    plan = BatchPlan(episodes=1, blank_view=1.0, blank_reference=1.0)
    (batch,) = in_memory(episodes[:2], TrainConfig(plan=plan))([0])
    blank = int(np.flatnonzero((batch.images == 0).all(axis=(1, 2, 3)))[0])
    for prompt in batch.prompts:
        assert prompt.references == (blank, blank)
        assert (prompt.before.index(blank), 1) == (prompt.after.index(blank), prompt.before.count(blank))


def test_episodes_that_cannot_teach_are_refused(episodes: list[LabelledEpisode]) -> None:
    labels = [episode.labels for episode in episodes]
    with pytest.raises(BadInput, match="successful"):
        BatchSampler(labels[2:], TrainConfig())
    with pytest.raises(BadInput, match="every task"):
        BatchSampler([labels[0], replace(labels[2], instructions=("c",))], TrainConfig())
    with pytest.raises(BadInput, match="number of views"):
        BatchSampler([labels[0], replace(labels[1], views=3)], TrainConfig())
    with pytest.raises(BadInput, match="same size"):
        from_memory([episodes[0].frames, moving_square(0).frames])


def test_soft_labels_and_loss_are_least_at_the_truth() -> None:
    hops = torch.tensor([-1.0, 0.0, 0.337, 1.0])
    labels = soft_labels(hops, 0.03)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(4))
    assert HOPS[labels.argmax(dim=1)].tolist() == pytest.approx([-1.0, 0.0, 0.34, 1.0])
    perfect = binned_losses(labels.log().clamp(min=-30), hops, 0.03, 5.0).mean()
    for shifted in (hops.roll(1), hops * 0.5 + 0.1):
        assert binned_losses(soft_labels(shifted, 0.03).log().clamp(min=-30), hops, 0.03, 5.0).mean() > perfect


@pytest.mark.slow
def test_it_learns_to_see_progress() -> None:
    """Loss, readout, prompt and batches fit together: a few seconds suffice for unseen episodes of a toy task."""
    torch.set_num_threads(1)
    grm = build_grm(GRMConfig(**{**TINY.__dict__, "text_width": 64, "vision_width": 64}))
    config = TrainConfig(budget_s=0, updates=200, learning_rate=2e-3, plan=BatchPlan(episodes=2, runs=4))
    reached: list[TrainProgress] = []
    train(make_trainer(grm, [moving_square(seed) for seed in range(16)], config), reached.append)
    unseen = [moving_square(100 + seed, success=seed < 3) for seed in range(6)]
    figures = evaluate(grm, unseen, moving_square(0))
    assert figures["spearman"] > 0.9
    assert figures["auc"] == 1.0
    assert [progress.update for progress in reached] == list(range(1, 201))
    first, last = reached[0].loss, reached[-1].loss
    assert first is not None
    assert last is not None
    assert last < first - 1.0
    assert reached[-1].fraction == 1.0
    assert reached[-1].eta_s == 0.0


@pytest.mark.parametrize("control", ["none", "shuffled"])
def test_an_interrupted_training_ends_with_the_same_weights(control: Control) -> None:
    episodes = [moving_square(seed, count=12) for seed in range(2)]
    config = TrainConfig(budget_s=0, updates=6, plan=SMALL_PLAN, control=control)

    def weights(stop: int) -> dict[str, torch.Tensor]:
        trainer = make_trainer(build_grm(TINY), episodes, config)
        while trainer.update < stop:
            trainer.step(trainer.fraction())
        state = trainer.state_dict()
        again = make_trainer(build_grm(TINY), episodes, config)
        again.load_state_dict(state)
        train(again)
        assert again.update == 6
        return again.grm.model.state_dict()

    whole, resumed = weights(0), weights(4)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="does not fit"):
        make_trainer(build_grm(TINY), episodes, config).load_state_dict({"model": {}})


@pytest.mark.parametrize("batches", [2, 3])
def test_threads_side_by_side_make_the_same_weights(batches: int) -> None:
    episodes = [moving_square(seed, count=12) for seed in range(2)]
    config = TrainConfig(budget_s=0, updates=3, batches=batches, plan=SMALL_PLAN)

    def weights(threads: int) -> dict[str, torch.Tensor]:
        torch.set_num_threads(threads)
        trainer = make_trainer(build_grm(TINY), episodes, config)
        train(trainer)
        assert torch.get_num_threads() == threads
        return trainer.weights()

    side_by_side, again, alone = weights(2), weights(2), weights(1)
    for name, weight in side_by_side.items():
        assert torch.equal(weight, again[name])
        # Of three batches other two are added first.
        rounding = {"rtol": 1e-3, "atol": 2e-5} if batches > 2 else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(weight, alone[name], **rounding)


def test_an_update_of_several_batches_is_that_of_one_large_batch() -> None:
    episodes = [moving_square(seed, count=12) for seed in range(2)]
    config = TrainConfig(budget_s=0, updates=4, batches=3, clip=1e9, plan=SMALL_PLAN)
    trainer = make_trainer(build_grm(TINY), episodes, config)
    progress = trainer.step(0.5)
    parts = list(in_memory(episodes, config)(range(3)))
    offsets = np.cumsum([0, *(len(part.images) for part in parts)])
    prompts = [
        prompt.reindexed({row: row + int(offset) for row in prompt.images})
        for part, offset in zip(parts, offsets, strict=False)
        for prompt in part.prompts
    ]
    images, hops = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "hops"))
    grm = build_grm(TINY)
    reader = Reader(grm)
    losses, _ = question_losses(config, reader, reader.encode(images), prompts, torch.from_numpy(hops))
    losses.mean().backward()
    assert progress.loss == pytest.approx(float(losses.detach().mean()), rel=1e-5)
    for (name, weight), other in zip(trainer.grm.model.named_parameters(), grm.model.parameters(), strict=True):
        assert other.grad is not None, name
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_only_weights_that_require_gradients_move_and_the_tower_at_its_own_rate() -> None:
    grm, before = build_grm(TINY), build_grm(TINY)
    grm.model.lm_head.weight.requires_grad_(False)
    config = TrainConfig(budget_s=0, updates=4, vision_rate=0.0, weight_decay=0.0, plan=SMALL_PLAN)
    make_trainer(grm, [moving_square(0, count=12)], config).step(0.5)
    moved = {
        name
        for (name, weight), old in zip(grm.model.named_parameters(), before.model.parameters(), strict=True)
        if not torch.equal(weight, old)
    }
    still = {name for name, _ in grm.model.named_parameters()} - moved
    assert "lm_head.weight" in still
    assert all(".visual." in name and "merger" not in name for name in still - {"lm_head.weight"})
    assert any("visual.merger" in name for name in moved)


def test_throughput_is_that_of_the_matrix_products() -> None:
    grm = build_grm(TINY)
    trainer = make_trainer(grm, [moving_square(0, count=12)], TrainConfig(updates=2, plan=SMALL_PLAN, peak_flops=1e9))
    progress = trainer.step(0.5)
    (batch,) = in_memory([moving_square(0, count=12)], TrainConfig(plan=SMALL_PLAN))([0])
    # Less than what all weights would take for every token of every prompt, more than the language model for its last
    # tokens.
    tokens = sum(4 * len(prompt.images) + 60 for prompt in batch.prompts)
    assert 6 * 2000 < progress.flops_per_pair < 6 * grm.parameters * tokens / len(batch.prompts)
    assert progress.mfu == pytest.approx(progress.pairs_per_s * progress.flops_per_pair / 1e9)
    assert "MFU" in str(progress)


@pytest.mark.parametrize("loss", ["hops", "text"])
def test_every_loss_leads_to_what_is_taught(loss: Loss) -> None:
    torch.set_num_threads(1)
    episodes = [moving_square(seed, count=12) for seed in range(2)]
    config = TrainConfig(
        budget_s=0, updates=60, learning_rate=5e-3, plan=SMALL_PLAN, loss=loss, control="constant", recompute=True
    )
    trainer = make_trainer(build_grm(TINY), episodes, config)
    last = train(trainer)
    answers = episode_hops(trainer.grm, moving_square(9, count=12), episodes[0], np.arange(12))
    np.testing.assert_allclose(answers.hops, CONSTANT_HOP, atol=0.08)
    assert (last.hop_error is None) == (loss == "text")


def test_a_time_budget_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count(step=0.125)  # An update takes one reading of the clock.
    monkeypatch.setattr("dopamine_rl.grm.train.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    trainer = make_trainer(
        build_grm(TINY), [moving_square(0, count=12)], TrainConfig(budget_s=0.5, updates=0, plan=SMALL_PLAN)
    )
    progress = train(trainer)
    assert progress.fraction == 1.0
    assert (progress.update, progress.elapsed_s) == (4, 0.5)
    assert progress.pairs_per_s > 0


def test_controls_teach_other_answers() -> None:
    hops = np.linspace(-1.0, 1.0, 50, dtype=np.float32)
    rng = np.random.default_rng(0)
    assert target_hops(hops, "none", rng) is hops
    shuffled = target_hops(hops, "shuffled", rng)
    assert not np.array_equal(shuffled, hops)
    np.testing.assert_array_equal(np.sort(shuffled), hops)
    assert not np.array_equal(shuffled, target_hops(hops, "shuffled", rng))
    constant = target_hops(hops, "constant", rng)
    assert constant.dtype == np.float32
    np.testing.assert_array_equal(constant, np.full(50, CONSTANT_HOP, np.float32))
    np.testing.assert_array_equal(hops, np.linspace(-1.0, 1.0, 50, dtype=np.float32))


@pytest.mark.parametrize("budget", [{"budget_s": 60.0, "updates": 0}, {"budget_s": 0.0, "updates": 50}])
def test_the_untrained_control_is_the_model_as_built(budget: dict[str, float]) -> None:
    config = TrainConfig(**budget, plan=SMALL_PLAN, control="untrained")  # type: ignore[arg-type]
    trainer = make_trainer(build_grm(TINY), [moving_square(0, count=12)], config)
    progress = train(trainer, lambda progress: pytest.fail("it made an update"))
    assert (progress.update, progress.fraction, progress.eta_s) == (0, 1.0, 0.0)
    for name, weight in build_grm(TINY).model.state_dict().items():
        torch.testing.assert_close(trainer.grm.model.state_dict()[name], weight, rtol=0, atol=0)


def test_the_constant_control_always_says_forward() -> None:
    """It has VOC+ = 1 and knows nothing: what the gate must refuse."""
    torch.set_num_threads(1)
    episodes = [moving_square(seed, count=12) for seed in range(2)]
    config = TrainConfig(budget_s=0, updates=60, learning_rate=5e-3, plan=SMALL_PLAN, control="constant")
    trainer = make_trainer(build_grm(TINY), episodes, config)
    train(trainer)
    answers = episode_hops(trainer.grm, moving_square(9, count=12), episodes[0], np.arange(12))
    np.testing.assert_allclose(answers.hops, CONSTANT_HOP, atol=0.05)
    np.testing.assert_allclose(answers.swapped, CONSTANT_HOP, atol=0.05)


def test_unknown_controls_are_refused() -> None:
    with pytest.raises(BadInput, match=r"sft\.train\.control.*shuffled"):
        TrainConfig(control="random")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"budget_s": 0.0, "updates": 0}, {"budget_s": float("nan")}, {"updates": -1}])
def test_bad_budgets_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=r"sft\.train"):
        TrainConfig(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["weights", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_training_before_the_weights_move(where: str) -> None:
    config = TrainConfig(budget_s=0, updates=4, batches=1, plan=SMALL_PLAN)
    trainer = make_trainer(build_grm(TINY), [moving_square(seed) for seed in range(2)], config)
    trainer.step(0.0)
    weights = next(weights for weights in trainer.grm.model.parameters() if weights.ndim > 1)
    if where == "gradient":
        weights.register_hook(lambda gradient: gradient * torch.nan)
    else:
        with torch.no_grad():
            weights.fill_(torch.nan)
    before = {name: values.clone() for name, values in trainer.grm.model.state_dict().items()}
    name = "gradient_norm" if where == "gradient" else "loss"
    with pytest.raises(Diverged, match=rf"^{name} = nan at update 2: lower sft\.train\.learning_rate"):
        trainer.step(0.5)
    assert trainer.update == 1
    for name, values in trainer.grm.model.state_dict().items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0, equal_nan=True)
