"""`dopamine demos` of tasks without a scripted expert: by a policy, which every episode names."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes.raw import read_demonstration
from dopamine_rl.policy import DeterministicPolicy, policy_provenance, save_policy
from experiments.commands import demos
from experiments.examples.dense_policy import Arguments, train
from experiments.job.any_demonstrations import in_words


def policy(folder: Path, size: int = 35) -> Path:
    state = {
        "actor.mean.weight": np.zeros((7, size), np.float32),
        "actor.mean.bias": np.full(7, 0.1, np.float32),
        "actor.observation_mean": np.zeros(size, np.float32),
        "actor.observation_std": np.ones(size, np.float32),
    }
    path = folder / "policy.safetensors"
    save_policy(path, state, {"trained_on": "the dense reward"})
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["PushCube", "-n", "1"], "TASK = 'PushCube'"),
        (["PushCube", "-n", "1", "--failures", "2"], "--failures = 2: leave it out"),
        (["PushCube", "-n", "1", "--look", "light"], "--look = 'light': leave it out"),
        (["PushCube", "-n", "0"], "-n = 0: give at least 1"),
        (["PushCube"], "-n = None: say how many"),
        (["PushCub", "-n", "1"], "TASK = 'PushCub': write PushCube-v1"),
        (["PickCube", "-n", "1"], "--policy = .*: leave it out: PickCube has a scripted expert"),
    ],
)
def test_what_cannot_be_recorded_is_named(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if message == "TASK = 'PushCube'" else ["--policy", str(policy(tmp_path))]
    with pytest.raises(SystemExit) as ended:
        demos.main([*words, *given, "--out", str(tmp_path / "raw")])
    assert ended.value.code == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "raw").exists()


@pytest.mark.ray
@pytest.mark.render
@pytest.mark.long
def test_a_policy_is_recorded_and_every_episode_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["PushCube", "--policy", str(policy(tmp_path)), "-n", "1", "--size", "32", "--workers", "1"]
    demos.main([*words, "--out", str(tmp_path / "raw"), "--instruction", "push the cube"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["episodes"], result["failures"]) == (1, {"policy": 1})
    episode = tmp_path / "raw" / "policy_000000"
    actor = json.loads((episode / "actor.json").read_text())
    assert actor["trained_on"] == "the dense reward"
    assert json.loads((tmp_path / "raw" / "demos.json").read_text())["policy"] == actor
    recorded = read_demonstration(episode)
    assert (recorded.instructions, recorded.frames.shape) == (("push the cube",), (14, 1, 32, 32, 3))
    np.testing.assert_allclose(recorded.actions, np.tanh(0.1), atol=1e-6)


def test_words_of_a_name() -> None:
    assert in_words("LiftPegUpright-v1") == "lift peg upright"


def test_a_policy_is_trained_on_the_dense_reward_and_says_so(tmp_path: Path) -> None:
    """On the stand-in: points that go to the origin."""
    from actors.any_config import ManiSkillConfig
    from actors.batched_maniskill import BatchedManiSkill
    from actors.batched_stand_in import BatchedPoints

    config = ManiSkillConfig("Points-v1", cameras=(), reward="dense", terminates=False, horizon=10)
    env = BatchedManiSkill(config, BatchedPoints(4))
    path = tmp_path / "policy.safetensors"
    settings = {"steps": 1600, "num_envs": 4, "updates_per_step": 0.4, "batch": 64, "warm_up": 200, "hidden": (32, 32)}
    train(env, Arguments("Points-v1", path, **settings))
    act, (observations, _) = DeterministicPolicy.load(path), env.reset(seed=9)
    for _ in range(9):
        observations, *_ = env.step(act(observations))
    assert np.linalg.norm(observations, axis=1).max() < 0.3  # from 1
    about = policy_provenance(path)
    assert about is not None
    assert "dense reward" in about["trained_on"]
