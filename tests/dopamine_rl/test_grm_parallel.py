"""Two processes train as one does: shared gradients (DDP), and shards of gradients and optimiser state (FSDP)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from dopamine_rl.grm.checkpoint import load_grm, save_grm
from dopamine_rl.grm.config import BatchPlan, TrainConfig
from dopamine_rl.grm.evaluate import evaluate
from dopamine_rl.grm.model import build_grm
from dopamine_rl.grm.train import Trainer
from tests.dopamine_rl.grm_toys import TINY, make_trainer, moving_square
from tests.dopamine_rl.released import released_folder

CONFIG = TrainConfig(
    budget_s=0, updates=6, batches=4, vision_rate=0.5, plan=BatchPlan(episodes=1, runs=2, run_length=2, neighbours=2)
)
UPDATES = 3


def begin(sharded: bool = False, start_from: Path | None = None, **changes: object) -> Trainer:
    torch.set_num_threads(1)
    grm = load_grm(start_from) if start_from else build_grm(TINY)
    config = TrainConfig(**{**CONFIG.__dict__, **changes})
    return make_trainer(grm, [moving_square(seed, count=12) for seed in range(3)], config, sharded)


def go(trainer: Trainer, until: int) -> Trainer:
    while trainer.update < until:
        trainer.step(trainer.fraction())
    return trainer


def work(rank: int, folder: Path) -> None:
    """One of two processes: both ways, a state saved by each and resumed by the other, a released checkpoint."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for sharded in (False, True):
        trainer = go(begin(sharded), UPDATES)
        state = trainer.state_dict()
        if rank == 0:
            torch.save((state, trainer.progress().loss), folder / f"{sharded}.pt")
        with trainer.gathered():
            if rank == 0:  # alone: the weights are all there
                judged = evaluate(trainer.grm, [moving_square(9, count=12)], moving_square(0, count=12))
                torch.save(judged, folder / f"judged_{sharded}.pt")
        distributed.barrier()
        other = begin(not sharded)
        other.load_state_dict(torch.load(folder / f"{sharded}.pt", weights_only=True)[0])
        weights = go(other, CONFIG.updates).weights()
        if rank == 0:
            torch.save(weights, folder / f"after_{sharded}.pt")
    tied = go(begin(True, folder / "released", precision="bfloat16", recompute=True, loss="text"), 1).weights()
    if rank == 0:
        finished = load_grm(folder / "released")
        finished.model.load_state_dict(tied)
        save_grm(finished, folder / "trained", {})
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("parallel")
    released_folder(made / "released", "qwen2_5_vl")
    multiprocessing.spawn(work, (made,), nprocs=2)
    return made


def assert_near(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_make_the_updates_of_one(folder: Path, sharded: bool) -> None:
    alone = go(begin(), UPDATES)
    state, loss = torch.load(folder / f"{sharded}.pt", weights_only=True)
    assert_near(state["model"], alone.weights())
    assert loss == pytest.approx(alone.progress().loss, rel=1e-4)
    judged = torch.load(folder / f"judged_{sharded}.pt", weights_only=True)
    expected = evaluate(alone.grm, [moving_square(9, count=12)], moving_square(0, count=12))
    assert judged == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_a_state_is_gone_on_from_by_any_number_of_processes_either_way(folder: Path, sharded: bool) -> None:
    expected = go(begin(), CONFIG.updates).weights()
    assert_near(torch.load(folder / f"after_{sharded}.pt", weights_only=True), expected)
    alone = begin()
    alone.load_state_dict(torch.load(folder / f"{sharded}.pt", weights_only=True)[0])
    assert alone.update == UPDATES
    assert_near(go(alone, CONFIG.updates).weights(), expected)


@pytest.mark.slow
def test_a_sharded_training_leaves_a_checkpoint_as_any_other(folder: Path) -> None:
    before, after = load_grm(folder / "released"), load_grm(folder / "trained")
    assert before.model_version != after.model_version
    assert after.model.dtype == before.model.dtype
    assert all(torch.isfinite(weight).all() for weight in after.model.parameters())
