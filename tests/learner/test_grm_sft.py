"""The Ray Train job: in memory or streamed, in one process or two, and through the death of a process."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dopamine_rl.episodes.stored import list_stored
from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.checkpoint import load_grm, model_version
from dopamine_rl.grm.config import BatchPlan, SFTConfig, TrainConfig
from dopamine_rl.grm.fit import STATE, TrainingJob
from tests.dopamine_rl.grm_toys import TINY, record_squares
from tests.waiting import wait_until

PLAN = BatchPlan(
    episodes=1,
    runs=2,
    run_length=2,
    neighbours=2,
    balanced=2,
    paused=1,
    mismatched=0.2,
    other_instructions=("lift it",),
)
CONFIG = SFTConfig(
    train=TrainConfig(budget_s=0, updates=40, batches=2, plan=PLAN), num_cpus=0.4, threads=1, checkpoint_updates=4
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_squares(tmp_path_factory.mktemp("raw"), 4, 2)


def make_job(raw: Path, work: Path, config: SFTConfig) -> TrainingJob:
    stored = list_stored(raw)
    return TrainingJob(config, TINY, (*stored[:3], stored[4]), (stored[3], stored[5]), work, {"seed": 0})


@pytest.fixture(scope="module")
def unbroken(cluster: None, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained in one go with all pictures in memory."""
    from learner.grm_sft import train_grm

    folder = tmp_path_factory.mktemp("unbroken")
    return train_grm(make_job(raw, folder / "work", CONFIG), folder / "grm")


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_ends_with_a_model_and_its_figures(unbroken: Path) -> None:
    content = json.loads((unbroken / "grm.json").read_text())
    assert content["model_version"] == model_version(unbroken) == load_grm(unbroken).model_version
    assert content["card"]["result"]["update"] == 40
    assert content["card"]["result"]["mfu"] > 0
    assert content["card"]["episodes"] == 4
    assert {"voc_plus", "voc_minus", "mae", "end", "auc"} <= set(content["card"]["held_out"])
    assert not (unbroken.parent / "work").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_streamed_and_killed_a_job_ends_with_the_same_weights(unbroken: Path, raw: Path, tmp_path: Path) -> None:
    from learner.grm_sft import train_grm

    job = make_job(raw, tmp_path / "work", replace(CONFIG, memory_mb=0))
    killed: list[int] = []

    def kill_a_process() -> None:
        wait_until((job.work / STATE).exists, 300.0, "the first saved state")
        for process in psutil.Process().children(recursive=True):
            if "TrainWorker" in process.name() or "TrainWorker" in " ".join(process.cmdline()):
                killed.append(process.pid)
                process.kill()

    killer = threading.Thread(target=kill_a_process, daemon=True)
    killer.start()
    out = train_grm(job, tmp_path / "grm")
    killer.join(timeout=10)
    assert killed
    assert model_version(out) == model_version(unbroken)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_share_a_job(unbroken: Path, raw: Path, tmp_path: Path, sharded: bool) -> None:
    from learner.grm_sft import train_grm

    config = replace(CONFIG, workers=2, sharded=sharded, train=replace(CONFIG.train, updates=7))
    out = train_grm(make_job(raw, tmp_path / "work", config), tmp_path / "grm")
    content = json.loads((out / "grm.json").read_text())
    assert content["card"]["result"]["update"] == 7
    assert "auc" in content["card"]["held_out"]
    assert load_grm(out).model_version == content["model_version"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_what_a_process_of_the_job_raises_on_purpose_is_said_without_a_traceback(
    cluster: None, raw: Path, tmp_path: Path
) -> None:
    from learner.grm_sft import train_grm

    job = make_job(raw, tmp_path / "work", SFTConfig(start_from=str(tmp_path / "nowhere"), threads=1, max_failures=0))
    with pytest.raises(CheckpointError, match="nowhere is not a folder") as error:
        train_grm(job, tmp_path / "grm")
    assert "Traceback" not in str(error.value)
    assert not (tmp_path / "grm").exists()


def test_a_job_without_another_instruction_is_refused_before_it_starts(raw: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, other_instructions=("Push the block.",))
    with pytest.raises(BadInput, match=r"plan\.other_instructions.*another task than 'push the block'"):
        make_job(raw, tmp_path, replace(CONFIG, train=replace(CONFIG.train, plan=plan)))


def test_no_episodes_no_job(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="episodes"):
        TrainingJob(CONFIG, TINY, (), (), tmp_path, {})


def test_processes_share_the_batches_of_an_update() -> None:
    with pytest.raises(BadInput, match=r"sft\.train\.batches.*multiple of sft\.workers, 3"):
        replace(CONFIG, workers=3)
