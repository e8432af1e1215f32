"""The vector form: what a vector of wrapped environments gives, but with frames asked together under one deadline."""

import functools
import itertools

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from actors.progress_reward import ProgressReward
from actors.vector_progress_reward import VectorProgressReward
from dopamine_rl.errors import BadInput, Overloaded, ScoringTimeout
from reward_service.local import BackgroundRewardClient
from reward_service.scorer import Scorer
from tests.actors.reaching import NAMES, REFERENCE, Reaching
from tests.actors.test_labeller import FaultyClient
from tests.actors.test_progress_reward import Clocked
from tests.fakes import FakeEngine

GAMMA = 0.9
HORIZONS = (5, 8, 8)


def make(gives="observation", horizons=HORIZONS, **kwargs):
    return [functools.partial(Reaching, gives, horizon, **kwargs) for horizon in horizons]


def client():
    """Refuses frames 4 and loses frames 6 of every episode; some others cannot be read."""
    unreadable = lambda before, after: 0.4 < after < 0.5  # noqa: E731
    return FaultyClient(FakeEngine(unreadable=unreadable), {4: Overloaded, 6: ScoringTimeout})


def of_each(make_env, mode, client, views):
    def wrapped(make_one):
        return ProgressReward(make_one(), client, REFERENCE, GAMMA, stride=2, views=views)

    return SyncVectorEnv([functools.partial(wrapped, one) for one in make_env], autoreset_mode=mode)


def of_all(env, client, views=NAMES, **kwargs):
    return VectorProgressReward(env, client, REFERENCE, GAMMA, **{"stride": 2, "views": views} | kwargs)


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, tuple) or (isinstance(expected, np.ndarray) and expected.dtype == object):
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours, theirs)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("gives", ["observation", "infos"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("copy", [True, False])
def test_rewards_and_infos_are_those_of_wrapped_environments(copy, mode, gives):
    views = NAMES if gives == "observation" else None
    expected, found = client(), client()
    each = of_each(make(gives, start=0.2), mode, expected, views)
    together = of_all(SyncVectorEnv(make(gives, start=0.2), copy, autoreset_mode=mode), found, views)
    assert_same(together.reset(seed=3), each.reset(seed=3))
    rng, ends = np.random.default_rng(0), np.zeros((2, 3), int)
    for _ in range(40):
        actions = rng.uniform(-0.5, 1.0, (3, 1)).astype(np.float32)
        ours, theirs = together.step(actions), each.step(actions)
        assert_same(ours, theirs)
        ends += np.stack(ours[2:4])
    assert ends.sum(axis=1).min() > 2  # terminated and truncated ones
    counts = together.counts
    assert counts.closed
    assert min(counts.answered, counts.invalid, counts.late, counts.rejected) > 0
    totals = [env.counts for env in each.envs]
    for name in ("asked", "answered", "invalid", "late", "rejected"):
        assert getattr(counts, name) == sum(getattr(total, name) for total in totals)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_both_reset_modes_pay_an_episode_as_the_single_form_does(mode):
    env = of_all(SyncVectorEnv(make(horizons=(5,)), autoreset_mode=mode), FaultyClient(FakeEngine()))
    env.reset(seed=0)
    rewards = [float(env.step(np.full((1, 1), 0.3, np.float32))[1][0]) for _ in range(12)]
    alone = ProgressReward(Reaching(horizon=5), FaultyClient(FakeEngine()), REFERENCE, GAMMA, stride=2, views=NAMES)
    alone.reset(seed=0)
    episode = [alone.step(np.full(1, 0.3, np.float32))[1] for _ in range(5)]
    pause = [0.0] if mode is AutoresetMode.NEXT_STEP else []
    assert rewards == [*episode, *pause, *episode, *pause, *episode][:12]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_environments_in_processes_of_their_own_are_paid_the_same(mode):
    found = of_all(AsyncVectorEnv(make(horizons=(3, 4)), autoreset_mode=mode), FaultyClient(FakeEngine()))
    expected = of_all(SyncVectorEnv(make(horizons=(3, 4)), autoreset_mode=mode), FaultyClient(FakeEngine()))
    try:
        assert_same(found.reset(seed=0), expected.reset(seed=0))
        for _ in range(10):
            actions = np.full((2, 1), 0.2, np.float32)
            assert_same(found.step(actions), expected.step(actions))
    finally:
        found.close()


def test_a_learner_that_resets_by_itself_says_which():
    env = of_all(SyncVectorEnv(make(horizons=(2, 4)), autoreset_mode="Disabled"), FaultyClient(FakeEngine()))
    env.reset(seed=0)
    actions = np.full((2, 1), 0.3, np.float32)
    env.step(actions)
    *_, truncated, infos = env.step(actions)
    assert truncated.tolist() == [True, False]
    assert infos["_labels"].tolist() == [True, False]
    _, infos = env.reset(options={"reset_mask": np.array([True, False])})
    assert infos["_progress"].tolist() == [True, False]
    for _ in range(2):
        *_, truncated, infos = env.step(actions)
    assert truncated.tolist() == [True, True]
    assert infos["labels"]["asked"].tolist() == [1, 2]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_all_frames_are_asked_before_anything_waits_and_all_wait_under_one_deadline(mode):
    events = []
    slow = Clocked(events)
    env = of_all(SyncVectorEnv(make(horizons=(4,) * 5), autoreset_mode=mode), slow, deadline_s=3.0, clock=slow.clock)
    env.reset(seed=0)
    for step in range(1, 5):
        events.clear()
        before = slow.now
        env.step(np.zeros((5, 1), np.float32))
        kinds = [event[0] for event in events]
        assert kinds == (["asked"] * 5 + ["waited"] * 5 if step % 2 == 0 else [])
        assert slow.now - before == (3.0 if step % 2 == 0 else 0.0)
    assert env.counts.late == env.counts.asked == 10


def test_a_beginning_asks_for_the_version_once_for_all():
    class Asked(FaultyClient):
        asked = 0

        def model_version(self, timeout_s):
            self.asked += 1
            return super().model_version(timeout_s)

    service = Asked(FakeEngine())
    env = of_all(SyncVectorEnv(make(horizons=(2,) * 5), autoreset_mode=AutoresetMode.SAME_STEP), service)
    env.reset()
    assert service.asked == 1
    for _ in range(4):
        env.step(np.zeros((5, 1), np.float32))
    assert service.asked == 3


def test_a_beginning_waits_no_longer_than_a_step_may():
    class Nameless(Clocked):
        """Names its version only at first, and waits as long as it may."""

        named = False

        def model_version(self, timeout_s):
            if self.named:
                self.now += timeout_s
                raise ScoringTimeout("on purpose")
            self.named = True
            return "v"

    def of(service):
        vector = SyncVectorEnv(make(horizons=(2,) * 5), autoreset_mode=AutoresetMode.SAME_STEP)
        return of_all(vector, service, deadline_s=3.0, clock=service.clock)

    known, unknown = Nameless(), Nameless()
    env = of(known)
    env.reset()
    for _ in range(2):
        env.step(np.zeros((5, 1), np.float32))
    assert known.now == 3.0  # the frames took it all
    unknown.named = True
    env = of(unknown)
    env.reset()
    assert unknown.now == 3.0
    for _ in range(2):
        env.step(np.zeros((5, 1), np.float32))
    assert env.counts.rejected == 5


def test_a_model_of_this_process_scores_them_together():
    engine = FakeEngine()
    env = of_all(
        SyncVectorEnv(make(horizons=(9,) * 6, start=0.5)),
        BackgroundRewardClient(Scorer(engine), batch_wait_s=0.5, max_batch_frames=6),
        deadline_s=60.0,
    )
    env.reset(seed=0)
    for _ in range(4):
        *_, infos = env.step(np.full((6, 1), 0.1, np.float32))
    assert infos["progress_valid"].all()
    assert len(engine.calls) == 2


def test_statistics_may_be_outside():
    env = RecordEpisodeStatistics(of_all(SyncVectorEnv(make()), FaultyClient(FakeEngine())))
    env.reset(seed=0)
    total = 0.0
    for _ in range(5):
        _, rewards, *_, infos = env.step(np.full((3, 1), 0.2, np.float32))
        total += rewards[0]
    assert infos["episode"]["r"][0] == pytest.approx(total, abs=1e-5)


def test_the_mode_is_the_environment_s_own_and_one_without_is_refused():
    """Gymnasium writes the mode into metadata that all environments of a class share."""
    first = SyncVectorEnv(make(), autoreset_mode=AutoresetMode.SAME_STEP)
    SyncVectorEnv(make(), autoreset_mode=AutoresetMode.NEXT_STEP)
    env = of_all(first, FaultyClient(FakeEngine()))
    env.reset(seed=0)
    paid = [float(env.step(np.full((3, 1), 0.3, np.float32))[1][0]) for _ in range(10)]
    assert paid[:5] == paid[5:]

    class Silent(VectorEnv):
        num_envs = 2

    with pytest.raises(BadInput, match=r"env.metadata\['autoreset_mode'\] = None: the environment must say"):
        of_all(Silent(), FaultyClient(FakeEngine()))


def test_pictures_that_cannot_be_used_are_named_at_the_first_reset():
    for gives, views, message in [
        ("nowhere", None, "there are no pictures"),
        ("observation", None, "name some of front, wrist"),
        ("observation", ("front", "left"), "views = 'left'"),
    ]:
        env = of_all(SyncVectorEnv(make(gives)), FaultyClient(FakeEngine()), views)
        with pytest.raises(BadInput, match=message):
            env.reset()


def test_what_is_added_telescopes_in_every_episode():
    env = of_all(SyncVectorEnv(make(), autoreset_mode=AutoresetMode.SAME_STEP), FaultyClient(FakeEngine()))
    env.reset(seed=0)
    rng, added, episodes = np.random.default_rng(1), [[] for _ in HORIZONS], 0
    for _ in range(40):
        actions = rng.uniform(-0.5, 1.0, (3, 1)).astype(np.float32)
        _, rewards, terminated, truncated, infos = env.step(actions)
        for i, sums in enumerate(added):
            ended = terminated[i] or truncated[i]
            info = infos["final_info"] if ended else infos
            sums.append(info["shaping"][i])
            assert rewards[i] == pytest.approx(info["task_reward"][i] + info["shaping"][i])
            if ended:
                end = 0.0 if terminated[i] else GAMMA ** len(sums) * info["progress"][i]
                assert np.dot(GAMMA ** np.arange(len(sums)), sums) == pytest.approx(end, abs=1e-5)
                sums.clear()
                episodes += 1
    assert episodes > 10
    assert len({*itertools.chain(*added)}) > 1
