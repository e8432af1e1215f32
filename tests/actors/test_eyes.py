"""Policies that see pictures: what the environment shows, how often it renders, and what the learner gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.demonstrations import record
from actors.envs import make_env
from actors.experts.peg import PegInsertionExpert
from actors.eyes import EncodedObservation, check_sight, sight_of
from actors.label_requests import Frame, Question, make_request
from actors.maniskill import PROPRIOCEPTION_SIZE, EnvConfig, PegInsertionEnv
from actors.workers import LatestObservation, PolicyExpert, load_acting
from dopamine_rl.encoders.eyes import PROPRIOCEPTION, Eyes, Sight
from dopamine_rl.encoders.loading import load_encoder
from dopamine_rl.encoders.recorded import encoded, shift, shifted
from dopamine_rl.errors import BadInput
from dopamine_rl.policy import save_policy
from dopamine_rl.types import EpisodeContext
from reward_service.engines.transformers import TransformersEngine
from reward_service.scorer import Scorer

CONFIG = EnvConfig(views=("front", "wrist"), observation="pictures", policy_views=("wrist",), horizon=9, stride=4)
STILL = np.zeros(6, np.float32)


@pytest.fixture(scope="module")
def env() -> Iterator[PegInsertionEnv]:
    env = make_env(CONFIG)
    yield env
    env.close()


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    sight = sight_of(CONFIG)
    assert sight is not None
    return Eyes(sight, load_encoder("grm:grm-mini").saved())


@pytest.fixture
def count_pictures(env: PegInsertionEnv, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every time that the scene was rendered."""
    calls: list[int] = []
    render = env._scene.pictures

    def counted() -> np.ndarray:
        calls.append(env.environment_step)
        return render()

    monkeypatch.setattr(env._scene, "pictures", counted)
    return calls


@pytest.mark.render
def test_every_step_is_seen_and_rendered_once(env: PegInsertionEnv, count_pictures: list[int]) -> None:
    observation, infos = env.reset(seed=1)
    seen, scored = [observation], [infos["scored_views"]]
    for _ in range(4):
        observation, _, _, _, infos = env.step(STILL)
        seen.append(observation)
        scored += [infos["scored_views"]] if "scored_views" in infos else []
    assert count_pictures == [0, 1, 2, 3, 4]
    assert all(env.observation_space.contains(one) for one in seen)
    assert set(observation) == {PROPRIOCEPTION, "wrist"}
    for step, views in ((0, scored[0]), (4, scored[1])):
        assert np.array_equal(seen[step]["wrist"], views[1])
    env.step(np.full(6, 1.0, np.float32))
    assert not np.array_equal(env.observe()["wrist"], seen[4]["wrist"])


@pytest.mark.render
def test_who_does_not_look_costs_no_picture(env: PegInsertionEnv, count_pictures: list[int]) -> None:
    observation, _ = env.reset(seed=1, options={"blind": True, "pictures": False})
    assert observation.shape == (PROPRIOCEPTION_SIZE,)
    assert env.step(STILL)[0].shape == (PROPRIOCEPTION_SIZE,)
    assert count_pictures == []
    demonstration = record(env, PegInsertionExpert(), 1, np.random.default_rng(0))
    assert len(count_pictures) == len(demonstration.frames) < len(demonstration.observations)
    assert demonstration.observations.shape[1] == PROPRIOCEPTION_SIZE


@pytest.mark.render
def test_each_view_is_encoded_once_and_scored_as_its_picture(env: PegInsertionEnv) -> None:
    sight, tower = sight_of(CONFIG), load_encoder("grm:grm-mini").saved()
    assert sight is not None
    seeing = EncodedObservation(env, Eyes(sight, tower), CONFIG.views)
    first = seeing.reset(seed=3)[1]["scored_views"]
    scored = []
    for step in range(1, CONFIG.horizon + 1):
        vector, _, _, _, infos = seeing.step(np.full(6, 0.3, np.float32))
        assert ("scored_tokens" in infos) == ("scored_views" in infos)
        if "scored_views" in infos:
            scored.append(Frame(step, infos["scored_views"], infos["scored_tokens"]))
            assert np.allclose(vector[PROPRIOCEPTION_SIZE:], infos["scored_tokens"].values[1].ravel(), atol=1e-2)
    assert [one.time for one in scored] == [4, 8, 9]
    assert seeing.encoded_pictures == 1 + CONFIG.horizon + 3  # wrist once a step, front where it is scored
    context = EpisodeContext("e", "insert the peg into the hole", first[0], first[0], first, scored[-1].views)
    scorer = Scorer(TransformersEngine("grm-mini"))
    question = Question(context, "", tuple(scored), Frame(0, first))
    requests = [make_request(question, 1e4), make_request(question, 1e4, tower.version)]
    pictures, tokens = scorer.score(requests)
    assert pictures.valid.all()
    assert np.ptp(pictures.hops) > 0.01
    assert np.allclose(pictures.hops, tokens.hops, atol=1e-3)


@pytest.mark.render
def test_a_recorded_episode_is_what_the_learner_would_have_seen(env: PegInsertionEnv, eyes: Eyes) -> None:
    seeing = EncodedObservation(env, eyes)
    live = [seeing.reset(seed=3)[0]] + [seeing.step(STILL)[0] for _ in range(CONFIG.horizon)]
    assert seeing.observation_space.contains(live[0])
    recorded = record(
        env, PolicyExpert(lambda _: STILL, LatestObservation(env)), 3, np.random.default_rng(0), stride=1, looks=True
    )
    assert np.allclose(encoded(recorded, eyes, CONFIG.views).observations, live, atol=2e-2)
    moved = shifted(recorded, eyes, CONFIG.views, seed=0).observations
    assert np.array_equal(moved[:, :PROPRIOCEPTION_SIZE], recorded.observations)
    assert not np.allclose(moved, live, atol=0.1)
    assert np.array_equal(moved, shifted(recorded, eyes, CONFIG.views, seed=0).observations)
    with pytest.raises(BadInput, match="a frame at every environment step"):
        encoded(replace(recorded, observations=recorded.observations[:-1]), eyes, CONFIG.views)
    with pytest.raises(BadInput, match="record wrist too"):
        encoded(recorded, eyes, ("front", "close"))


@pytest.mark.render
def test_a_saved_policy_acts_on_pictures(env: PegInsertionEnv, eyes: Eyes, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "policy.safetensors"
    state = {
        "actor.mean.weight": rng.normal(0, 0.01, (6, eyes.size)).astype(np.float32),
        "actor.mean.bias": np.zeros(6, np.float32),
        "actor.observation_mean": np.zeros(eyes.size, np.float32),
        "actor.observation_std": np.ones(eyes.size, np.float32),
    }
    save_policy(path, state, eyes=eyes)
    act = load_acting(path, env, CONFIG)
    env.reset(seed=1)
    first = act(env.observe())
    env.step(np.full(6, 1.0, np.float32))
    assert first.shape == (6,)
    assert not np.array_equal(first, act(env.observe()))
    save_policy(path, state)
    with pytest.raises(BadInput, match="it sees no pictures"):
        load_acting(path, env, CONFIG)


def test_a_policy_is_refused_where_it_sees_something_else() -> None:
    saved = load_encoder("grm:grm-mini").saved()
    for sight in (Sight(14, ("front",), 112, 112), Sight(14, ("wrist",), 64, 64)):
        with pytest.raises(BadInput, match=r"shows \(wrist, 112 × 112 pixels\).*it sees"):
            check_sight(Eyes(sight, saved), sight_of(CONFIG), "policy.safetensors")
    with pytest.raises(BadInput, match="no pictures"):
        check_sight(Eyes(Sight(14, ("front",), 112, 112), saved), None, "policy.safetensors")
    check_sight(None, None, "policy.safetensors")


def test_what_a_policy_sees_is_checked_early() -> None:
    with pytest.raises(BadInput, match=r"policy_views.*at least one camera"):
        EnvConfig(observation="pictures", policy_views=())
    with pytest.raises(BadInput, match=r"policy_views.*each view once"):
        EnvConfig(policy_views=("front", "front"))
    with pytest.raises(BadInput, match=r"policy_views.*front"):
        EnvConfig(policy_views=("frnt",))
    with pytest.raises(BadInput, match="observation"):
        EnvConfig(observation="picture")  # type: ignore[arg-type]
    assert EnvConfig(views=(), observation="pictures", policy_views=("wrist",)).cameras == ("wrist",)
    assert CONFIG.cameras == ("front", "wrist")


def test_a_shift_moves_every_picture_by_a_few_pixels() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 2, 56, 56, 3), np.uint8)
    moved = shift(pictures, np.random.default_rng(1))
    assert moved.shape == pictures.shape
    offsets = set()
    for before, after in zip(pictures.reshape(-1, 56, 56, 3), moved.reshape(-1, 56, 56, 3), strict=True):
        places = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
        matches = [
            at
            for at in places
            if np.array_equal(after[8:48, 8:48], before[8 + at[0] : 48 + at[0], 8 + at[1] : 48 + at[1]])
        ]
        assert len(matches) == 1
        offsets.add(matches[0])
    assert len(offsets) > 3
