"""Policies that learn from pictures: what their encoder sees, what trains it, and what is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dopamine_rl.encoders.encoder import SavedEncoder
from dopamine_rl.encoders.eyes import PROPRIOCEPTION, Eyes, Sight
from dopamine_rl.encoders.loading import load_encoder
from dopamine_rl.encoders.packing import Packing
from dopamine_rl.policy import DeterministicPolicy, load_eyes, load_policy, save_policy
from learner.algorithms.bc import BCResult, train_bc
from learner.algorithms.common import TrainingSetup
from learner.algorithms.rlpd import make_rlpd_config
from learner.algorithms.updater import Updater, build_agent
from learner.algorithms.vision import Vision, VisionShape, shifted
from learner.config import CloningConfig, LearnerConfig
from learner.demonstrations import ReplayEpisode, save_demonstrations, transition_columns

SIDE, VIEWS = 32, ("front", "wrist")
SIGHT = Sight(3, VIEWS, 40, 40)
CLONING = CloningConfig(updates=40, batch_size=16, check_every=20, learning_rate=4e-3)


def seen(points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures uint8 [T, V, 40, 40, 3] of points [T, 2] in [−1, 1]: a bright square, in the second view mirrored."""
    pictures = np.zeros((len(points), 2, 40, 40, 3), np.uint8)
    for picture, (x, y) in zip(pictures, np.round(14 * points + 14).astype(int), strict=True):
        picture[0, y : y + 12, x : x + 12] = 255
        picture[1, y : y + 12, 28 - x : 40 - x] = 255
    return pictures


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return Eyes(SIGHT, load_encoder(f"cnn:{SIDE}", seed=1).saved())


@pytest.fixture(scope="module")
def points() -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def packed(eyes: Eyes, points: NDArray[np.float32]) -> NDArray[np.uint8]:
    return eyes.given(np.zeros((len(points), 3), np.float32), seen(points))


@pytest.fixture(scope="module")
def cloned(eyes: Eyes, points: NDArray[np.float32], packed: NDArray[np.uint8]) -> BCResult:
    """A clone whose action is where the square is, which only the pictures show."""
    return train_bc(packed, 0.8 * points, np.array([40] * 5), (32,), CLONING, seed=0, eyes=eyes)


def with_weights(eyes: Eyes, weights: Any) -> Eyes:
    return replace(eyes, saved=SavedEncoder("cnn", eyes.saved.settings, weights))


@pytest.fixture(scope="module")
def file(cloned: BCResult, eyes: Eyes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clone") / "bc.safetensors"
    save_policy(path, cloned.state, eyes=with_weights(eyes, cloned.encoder))
    return path


def test_cloning_trains_the_encoder_and_its_file_acts(
    file: Path, cloned: BCResult, eyes: Eyes, points: NDArray[np.float32]
) -> None:
    assert cloned.validation_loss < 0.05
    assert cloned.encoder is not None
    assert all(not np.array_equal(cloned.encoder[name], value) for name, value in eyes.saved.arrays.items())
    sees, policy = load_eyes(file), DeterministicPolicy.load(file)
    assert sees is not None
    pictures = seen(points[:20])
    joints = np.zeros(3, np.float32)
    actions = [
        policy(sees.vector({PROPRIOCEPTION: joints, "front": front, "wrist": wrist})) for front, wrist in pictures
    ]
    assert np.abs(np.stack(actions) - 0.8 * points[:20]).mean() < 0.2
    with pytest.raises(AssertionError):
        assert np.abs(np.stack(actions)).mean() < 0.2


def test_the_learner_sees_what_an_evaluation_sees(eyes: Eyes, points: NDArray[np.float32]) -> None:
    vision, joints = Vision(VisionShape.of(eyes)), np.arange(12, dtype=np.float32).reshape(4, 3)
    vision.start_from(eyes)
    pictures = seen(points[:4])
    vectors = vision(torch.from_numpy(eyes.given(joints, pictures)))
    assert vectors.shape == (4, eyes.size) == (4, 3 + 2 * 50)
    np.testing.assert_allclose(vectors.detach(), eyes.vectors(joints, pictures), atol=2e-3)
    np.testing.assert_array_equal(vectors[:, :3].detach(), joints)


def test_frozen_features_reach_the_learner_as_they_were() -> None:
    packing, rng = Packing(3, 40, "float16"), np.random.default_rng(0)
    vectors = rng.normal(size=(5, 43)).astype(np.float32)
    vectors[:, 3:] = vectors[:, 3:].astype(np.float16)  # as `Eyes.vectors` rounds them; joints stay float32
    packed = torch.from_numpy(packing.packed(vectors))
    assert packed.shape == (5, 3 * 4 + 40 * 2)
    vision = Vision(VisionShape(packing))
    assert torch.equal(vision(packed), torch.from_numpy(vectors))
    assert torch.equal(vision(torch.from_numpy(vectors)), torch.from_numpy(vectors))


def test_shifts_move_pictures_by_whole_pixels() -> None:
    pictures = torch.randint(0, 256, (40, 56, 56, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = shifted(pictures, torch.Generator().manual_seed(1))
    offsets = set()
    for before, after in zip(pictures, moved, strict=True):
        places = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
        at = [p for p in places if torch.equal(after[8:48, 8:48], before[8 + p[0] : 48 + p[0], 8 + p[1] : 48 + p[1]])]
        assert len(at) == 1
        assert torch.equal(after[0, 20], before[max(0, at[0][0]), 20 + at[0][1]])  # the edge is repeated
        offsets.add(at[0])
    assert len(offsets) > 10


def batch(packed: NDArray[np.uint8], count: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = ("rewards", "terminated", "potential", "next_potential", "phase", "next_phase")
    columns = {name: torch.rand(count, generator=generator) for name in numbers}
    observations = {"obs": torch.from_numpy(packed[:count]), "next_obs": torch.from_numpy(packed[1 : count + 1])}
    return {**observations, **columns, "actions": torch.rand((count, 2), generator=generator)}


@pytest.mark.parametrize("residual", [0.0, 0.3])
def test_it_starts_as_the_clone_and_the_critics_loss_alone_trains_the_encoder(
    residual: float, file: Path, packed: NDArray[np.uint8], points: NDArray[np.float32]
) -> None:
    eyes = load_eyes(file)
    assert eyes is not None
    config = LearnerConfig(hidden=(16,), residual_scale=residual, actor_every=2, batch_size=16)
    agent = build_agent(packed.shape[1], 2, config, (32,), VisionShape.of(eyes, bool(residual)))
    assert agent.vision is not None
    cnn = agent.vision.cnn
    assert cnn is not None
    agent.vision.start_from(eyes)
    clone = load_policy(file)
    agent.policy.start_from(agent.vision.widened(clone))
    updater = Updater(agent, config, 0.97, 0)
    pictures = torch.from_numpy(packed[:8])
    expected = DeterministicPolicy(clone)(eyes.vectors(np.zeros((8, 3), np.float32), seen(points[:8])))
    with torch.no_grad():
        acted = agent.policy.act(agent.policy.actor.normalise(agent.vision(pictures)))
    np.testing.assert_allclose(acted, expected, atol=5e-3)
    assert not torch.equal(updater._see(pictures), agent.vision(pictures))  # it shifts them
    before = [weight.clone() for weight in cnn.towers[-1].parameters()]
    kept = [weight.clone() for weight in cnn.towers[0].parameters()]
    updater.update(batch(packed))
    assert not any(torch.equal(a, b) for a, b in zip(before, cnn.towers[-1].parameters(), strict=True))
    if residual:
        assert all(torch.equal(a, b) for a, b in zip(kept, cnn.towers[0].parameters(), strict=True))
    updater._update_critic = lambda *_: torch.zeros(2)  # type: ignore[method-assign]
    before = [weight.clone() for weight in cnn.parameters()]
    assert updater.update(batch(packed)).isfinite().all()  # this one trains the actor
    assert all(torch.equal(a, b) for a, b in zip(before, cnn.parameters(), strict=True))


class Pictures(gymnasium.Env[Any, Any]):
    """A square that must be moved to the middle, seen in packed pictures alone."""

    def __init__(self, env_config: Any = None) -> None:
        self.eyes = Eyes(SIGHT, load_encoder(f"cnn:{SIDE}").saved())
        self.observation_space = gymnasium.spaces.Box(0, 255, (self.eyes.packing.width,), np.uint8)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _look(self) -> NDArray[np.uint8]:
        return np.asarray(self.eyes.given(np.zeros((1, 3), np.float32), seen(self.point[None]))[0])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.point, self.time = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.point = np.clip(self.point - 0.3 * np.asarray(action, np.float32), -1, 1)
        self.time += 1
        return self._look(), 0.0, False, self.time >= 6, {}


@pytest.mark.ray
def test_rlpd_learns_acts_resumes_and_saves_with_its_encoder(
    cluster: None, file: Path, eyes: Eyes, packed: NDArray[np.uint8], points: NDArray[np.float32], tmp_path: Path
) -> None:
    columns = transition_columns(packed[:9], 0.8 * points[:8], np.zeros(8), True, None)
    save_demonstrations(tmp_path / "demos.npz", [ReplayEpisode("demo", columns, "")])
    learner = LearnerConfig(
        hidden=(16,),
        residual_scale=0.3,
        choose=True,
        critic_sees_potential=False,
        batch_size=8,
        updates_per_step=0.5,
        learning_starts=12,
        replay_capacity=200,
        steps_per_iteration=24,
        num_env_runners=1,
        num_cpus_per_env_runner=0.5,
    )
    task = TrainingSetup(Pictures, seed=1)
    config = make_rlpd_config(task, learner, "sparse", str(tmp_path / "demos.npz"), str(file))
    algorithm: Any = config.build_algo()
    algorithm.train()
    sees = algorithm.sees_with(eyes)
    assert sees.saved.settings == {"side": SIDE, "towers": 2}
    clone = load_eyes(file)
    assert clone is not None
    for name, weight in clone.saved.arrays.items():
        learned = sees.saved.arrays[name.replace("towers.0", "towers.1")]
        np.testing.assert_array_equal(sees.saved.arrays[name], weight)
        assert not np.array_equal(learned, weight)
    columns = algorithm.feed.online.columns()
    assert columns["obs"].dtype == np.uint8
    assert "GB when it is full" in algorithm.memory()
    save_policy(tmp_path / "policy.safetensors", algorithm.policy_state(), eyes=sees)
    saved, look = DeterministicPolicy.load(tmp_path / "policy.safetensors"), load_eyes(tmp_path / "policy.safetensors")
    assert look is not None
    module = algorithm.learner_group._learner.module["default_policy"]
    expected = module._forward_inference({"obs": torch.from_numpy(packed[:30])})["actions"]
    acted = saved(look.vectors(np.zeros((30, 3), np.float32), seen(points[:30])))
    assert np.abs(acted - expected.numpy()).max() < 0.02
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    state = algorithm.feed.get_state()["online"]
    algorithm.stop()
    again: Any = config.copy(copy_frozen=False).build_algo()
    again.restore_from_path(checkpoint)
    np.testing.assert_array_equal(again.feed.get_state()["online"]["observations"], state["observations"])
    np.testing.assert_array_equal(again.sees_with(eyes).saved.arrays["towers.1.0.weight"], learned_weight(sees))
    again.train()
    again.stop()


def learned_weight(eyes: Eyes) -> NDArray[Any]:
    return np.asarray(eyes.saved.arrays["towers.1.0.weight"])
