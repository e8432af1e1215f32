"""Every algorithm through the same labelling callback, in this process, with a fake model behind a real scorer."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from actors.callbacks import finish_records
from actors.label_records import LabelRecord
from actors.rescoring import audit
from dopamine_rl.policy import DeterministicPolicy, save_policy
from dopamine_rl.shaping import held_potential
from dopamine_rl.types import TaskReference
from experiments.job import training
from experiments.runtime.console import Console
from experiments.settings import ExperimentConfig, LabelsConfig, TrainingConfig
from learner.config import CloningConfig, LearnerConfig
from learner.demonstrations import ReplayEpisode, save_demonstrations, transition_columns
from learner.training import train
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.actors.test_callbacks import STRIDE, Walk
from tests.fakes import FakeEngine, frame

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def local_client(_: str) -> LocalRewardClient:
    return LocalRewardClient(Scorer(FakeEngine()))


def walks(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations [count, 11, 1] and actions [count, 10, 1] of walks at full speed."""
    positions = np.minimum(0.08 * np.arange(11), 1.0).astype(np.float32)
    return np.tile(positions[None, :, None], (count, 1, 1)), np.full((count, 10, 1), 0.9, np.float32)


@pytest.mark.parametrize("algorithm", ["rlpd", "ppo", "appo"])
@pytest.mark.usefixtures("cluster")
def test_algorithms_train_through_the_same_callback(tmp_path, monkeypatch, algorithm):
    from learner.algorithms.bc import train_bc

    monkeypatch.setattr(training, "make_training_env", lambda env_config: Walk({}))
    monkeypatch.setattr(training, "ServeRewardClient", local_client)
    learner = LearnerConfig(
        algorithm,
        hidden=(32, 32),
        num_env_runners=0,
        learning_starts=40,
        steps_per_iteration=50,
        batch_size=32,
        ppo_batch_size=50,
        ppo_minibatch_size=25 if algorithm == "ppo" else 256,
        vtrace_batch_size=40,
        ppo_epochs=2,
        rollout_fragment_length=10,
    )
    config = replace(
        ExperimentConfig(learner=learner, training=TrainingConfig(150), labels=LabelsConfig(60.0)),
        env=replace(ExperimentConfig().env, stride=STRIDE),
    )
    observations, actions = walks(4)
    episodes = [
        ReplayEpisode(f"demo_{i}", transition_columns(o, a, np.zeros(10), False, None), "")
        for i, (o, a) in enumerate(zip(observations, actions, strict=True))
    ]
    demonstrations, cloned = tmp_path / "demonstrations.npz", tmp_path / "bc.safetensors"
    save_demonstrations(demonstrations, episodes)
    cloning = CloningConfig(updates=50)
    flat = observations[:, :-1].reshape(-1, 1), actions.reshape(-1, 1)
    save_policy(cloned, train_bc(*flat, np.full(4, 10), (32, 32), cloning, seed=0).state)
    reference = TaskReference("walk", frame(0.0)[0], frame(1.0)[0], frame(1.0))

    algo = training.build_algorithm(config, "app", reference, demonstrations, cloned, tmp_path / "records")
    try:
        report = train(
            algo,
            config.training,
            tmp_path / "policy.safetensors",
            Console().progress,
            monitor=training.make_monitor(config),
            finish_records=lambda: finish_records(algo),
        )
    finally:
        algo.stop()

    labels = report["labels"]
    assert labels["asked"] == labels["answered"] >= 150 // STRIDE
    assert labels["invalid"] == labels["late"] == labels["rejected"] == labels["errors"] == 0
    assert report["environment_steps"] >= 150
    assert DeterministicPolicy.load(tmp_path / "policy.safetensors")(np.zeros((1, 1), np.float32)).shape == (1, 1)
    assert report["shadow"]["episodes"] == len((tmp_path / "episodes.jsonl").read_text().splitlines())
    assert report["curve"] == [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    records = [LabelRecord.load(path) for path in (tmp_path / "records").glob("*.npz")]
    found = audit(records, Scorer(FakeEngine()), "fake-1")
    assert found["episodes"] == report["records"]["written"] >= 14
    assert found["max_abs_difference"] == found["doubled"] == found["wrong_version"] == 0
    endings = [record.ending for record in records]
    assert sum(ending.success for ending in endings) <= report["curve"][-1]["successes"]
    for ending, record in zip(endings, records, strict=True):
        assert len(ending.rewards) == len(ending.task_rewards) == record.frames[-1].time
        held = [0.0, *held_potential([f.time for f in record.frames], [f.progress for f in record.frames], 10, 0.0)[1:]]
        paid = config.gamma * np.array(held[1:]) - held[:-1]
        np.testing.assert_allclose(ending.rewards[:-1], paid[:-1], atol=1e-5)
    acted = sum(sum(point["env_runner_steps"].values()) for point in report["curve"])
    assert 0 <= report["environment_steps"] - acted <= 10  # a fragment that is held back has not arrived
