"""The gymnasium wrapper: what it pays, what it does without an answer, and where it finds its pictures."""

import itertools
import math
import threading
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FrameStackObservation, RecordEpisodeStatistics, TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.labeller import Labeller, LabellerConfig
from actors.progress_reward import ProgressReward
from dopamine_rl.errors import BadInput, Overloaded, ScoringTimeout, ServiceUnavailable
from dopamine_rl.shaping import Shaping
from dopamine_rl.types import FusionConfig, TaskReference
from reward_service.http_client import HttpRewardClient
from reward_service.local import BackgroundRewardClient, LocalRewardClient, embedded_client
from reward_service.scorer import Scorer
from tests.actors.reaching import NAMES, REFERENCE, Reaching
from tests.actors.test_labeller import FaultyClient
from tests.fakes import FakeEngine, frame
from tests.reward_service.http import serving

GAMMA = 0.9
OUTCOMES = ("answered", "invalid", "late", "rejected")


def wrap(env=None, client=None, **kwargs):
    client = FaultyClient(FakeEngine()) if client is None else client
    kwargs = {"stride": 2, "deadline_s": 60.0, "views": NAMES} | kwargs
    return ProgressReward(env or Reaching(), client, REFERENCE, GAMMA, **kwargs)


def play(env, actions):
    """One episode: rewards, infos (the first is reset's), and whether it terminated."""
    _, info = env.reset(seed=0)
    rewards, infos, terminated = [], [info], False
    for action in actions:
        _, reward, terminated, truncated, info = env.step(np.array([action], np.float32))
        rewards.append(reward)
        infos.append(info)
        if terminated or truncated:
            break
    return np.array(rewards), infos, terminated


def column(infos, name):
    return [info[name] for info in infos[1:]]


def labelled(client, stride, xs, terminated, fusion, shaping):
    """What the Labeller makes of an episode whose frames show `xs`, told of it as a whole."""
    labeller = Labeller(LabellerConfig("grm", GAMMA, stride, fusion, 60.0, shaping=shaping), client)
    labeller.begin("episode", REFERENCE.context("episode", frame(xs[0])))
    steps = len(xs) - 1
    for t in range(1, steps + 1):
        if t % stride == 0 or t == steps:
            labeller.observe("episode", t, frame(xs[t]))
    task = np.zeros(steps, np.float32)
    task[-1] = float(terminated)
    return labeller.collect("episode", 0, task, terminated)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-1.0, 1.0, width=16), min_size=10, max_size=10),
    st.integers(1, 5),
    st.sampled_from([FusionConfig(), FusionConfig("consistency", chain="own")]),
    st.sampled_from([Shaping(), Shaping(0.5, 0.2)]),
)
def test_pays_what_the_labeller_pays_for_the_same_frames(actions, stride, fusion, shaping):
    rewards, infos, terminated = play(wrap(stride=stride, fusion=fusion, shaping=shaping), actions)
    xs = [0.0]
    for action in actions[: len(rewards)]:
        xs.append(float(np.clip(xs[-1] + np.float32(action) / 3, 0.0, 1.0)))
    expected, columns = labelled(FaultyClient(FakeEngine()), stride, xs, terminated, fusion, shaping)
    np.testing.assert_array_equal(rewards.astype(np.float32), expected)
    np.testing.assert_array_equal(column(infos, "task_reward"), columns.task_reward)
    np.testing.assert_array_equal(column(infos, "progress")[:-1], columns.potential[1:])
    assert column(infos, "progress_valid") == columns.valid.tolist()
    # What is added telescopes.
    if shaping == Shaping():
        total = np.sum(GAMMA ** np.arange(len(rewards)) * column(infos, "shaping"))
        end = 0.0 if terminated else GAMMA ** len(rewards) * infos[-1]["progress"]
        assert total == pytest.approx(end, abs=1e-5)


def test_a_termination_has_no_potential_and_a_truncation_keeps_it():
    rewards, infos, terminated = play(wrap(), [1.0] * 10)
    assert terminated
    before, after = infos[-2]["progress"], infos[-1]["progress"]
    assert after > 0.9  # what the model saw is still told
    assert rewards[-1] == pytest.approx(1.0 - before)
    assert infos[-1]["shaping"] == pytest.approx(-before)
    rewards, infos, terminated = play(wrap(), [0.1] * 10)
    assert not terminated
    before, after = infos[-2]["progress"], infos[-1]["progress"]
    assert after > before
    assert rewards[-1] == pytest.approx(GAMMA * after - before)


def test_infos_tell_the_parts_and_the_last_one_the_counts():
    env = wrap(stride=4)
    rewards, infos, _ = play(env, [0.1] * 10)
    assert infos[0] == {"progress": 0.0, "progress_valid": True}
    for reward, info in zip(rewards, infos[1:], strict=True):
        assert info["task_reward"] + info["shaping"] == pytest.approx(reward, abs=1e-12)
        assert {name: type(info[name]) for name in ("progress", "progress_valid", "task_reward", "shaping")} == {
            "progress": float,
            "progress_valid": bool,
            "task_reward": float,
            "shaping": float,
        }
    assert ["labels" in info for info in infos] == [False] * 10 + [True]
    # Steps 4, 8 and the last.
    assert infos[-1]["labels"] == {"asked": 3, "answered": 3, "invalid": 0, "late": 0, "rejected": 0}
    held = column(infos, "progress")
    assert held[:3] == [0.0] * 3
    assert held[3:7] == [held[3]] * 4
    assert held[3] > 0.0
    play(env, [0.1] * 10)
    assert (env.counts.asked, env.counts.answered, env.counts.closed) == (6, 6, True)


def unreadable(before, after):
    return 0.16 < after < 0.25


@pytest.mark.parametrize(
    ("client", "outcome"),
    [
        (lambda: FaultyClient(FakeEngine(), {4: ScoringTimeout}), "late"),
        (lambda: FaultyClient(FakeEngine(), {4: ServiceUnavailable}), "rejected"),
        (lambda: FaultyClient(FakeEngine(), {4: Overloaded}), "rejected"),
        (lambda: FaultyClient(FakeEngine(), {4: ValueError}), "rejected"),
        (lambda: FaultyClient(FakeEngine(unreadable=unreadable)), "invalid"),
    ],
    ids=["late", "unavailable", "refused", "broken", "invalid"],
)
def test_without_an_answer_the_potential_is_held_and_the_frame_counted(client, outcome):
    env = wrap(client=client())
    rewards, infos, _ = play(env, [0.15] * 10)
    progress, valid = [info["progress"] for info in infos], column(infos, "progress_valid")
    assert progress[2:6] == [progress[2]] * 4  # step 4 has none
    assert progress[6] > progress[2] > 0.0
    assert valid == [True] * 3 + [False] * 2 + [True] * 5
    np.testing.assert_allclose(rewards, [GAMMA * b - a for a, b in itertools.pairwise(progress)], atol=1e-6)
    counts = {"asked": 5, "answered": 4, **dict.fromkeys(("invalid", "late", "rejected"), 0), outcome: 1}
    assert infos[-1]["labels"] == counts
    assert env.counts.closed
    assert getattr(env.counts, outcome) == 1


class Replaced(LocalRewardClient):
    """Serves `versions`, the last one first; the requests of each are answered by its own engine."""

    def __init__(self, *versions):
        self.versions, self.asked = list(versions), []

    def model_version(self, timeout_s):
        if not self.versions:
            raise ServiceUnavailable("gone")
        return self.versions[-1]

    def submit(self, request):
        self.asked.append(request.context.model_version)
        version = self.asked[-1] if self.asked[-1] in self.versions else self.versions[-1]
        return LocalRewardClient(Scorer(FakeEngine(version))).submit(request)


def test_an_episode_keeps_the_version_it_began_with():
    client = Replaced("old")
    env = wrap(client=client)
    env.reset()
    env.step(np.zeros(1))
    client.versions.append("new")
    for _ in range(9):
        *_, info = env.step(np.full(1, 0.1))
    assert info["labels"]["answered"] == 5
    _, infos, _ = play(env, [0.1] * 10)
    assert infos[-1]["labels"]["answered"] == 5
    assert client.asked == ["old"] * 5 + ["new"] * 5


def test_a_version_that_is_gone_and_a_service_that_is_gone_are_counted():
    client = Replaced("old")
    env = wrap(client=client)
    env.reset()
    client.versions = ["new"]
    for _ in range(10):
        _, reward, *_, info = env.step(np.full(1, 0.1))
        assert reward == 0.0
    assert info["labels"]["rejected"] == info["labels"]["asked"] == 5
    rewards, infos, _ = play(wrap(client=Replaced()), [0.1] * 10)
    assert infos[-1]["labels"]["rejected"] == 5
    assert not rewards.any()


class Clocked:
    """A client that is always late, on a clock of its own; every answer waits as long as it may."""

    def __init__(self, events=None):
        self.now, self.events = 0.0, [] if events is None else events

    def clock(self):
        return self.now

    def model_version(self, timeout_s):
        return "v"

    def submit(self, request):
        self.events.append(("asked", request.times, request.remaining_ms))
        return self

    retries = 0

    def result(self, timeout_s):
        self.events.append(("waited", timeout_s))
        self.now += timeout_s
        raise ScoringTimeout("on purpose")


def test_a_step_waits_at_scored_frames_only_and_not_beyond_the_deadline():
    client = Clocked()
    env = wrap(client=client, stride=4, deadline_s=3.0, clock=client.clock)
    env.reset()
    waited = []
    for _ in range(10):
        before = client.now
        *_, info = env.step(np.full(1, 0.1))
        waited.append(client.now - before)
    assert waited == [0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 3.0, 0.0, 3.0]
    assert info["labels"]["late"] == 3


class Stuck(FakeEngine):
    """An engine that does not answer until it may."""

    def __init__(self):
        super().__init__()
        self.go_on = threading.Event()

    def estimate(self, images, prompts):
        assert self.go_on.wait(60.0)
        return super().estimate(images, prompts)


def test_a_model_of_this_process_that_hangs_does_not_hold_up_a_step():
    engine = Stuck()
    env = wrap(client=BackgroundRewardClient(Scorer(engine)), deadline_s=0.02)
    _, infos, _ = play(env, [0.1] * 10)
    engine.go_on.set()
    assert infos[-1]["labels"]["late"] == 5


def test_a_service_behind_an_address_pays_the_same():
    with serving(LocalRewardClient(Scorer(FakeEngine()))) as url:
        rewards, infos, _ = play(wrap(client=HttpRewardClient(url)), [0.2, -0.1, 0.3] * 4)
    np.testing.assert_array_equal(rewards, play(wrap(), [0.2, -0.1, 0.3] * 4)[0])
    assert infos[-1]["labels"]["answered"] == 5


def test_an_episode_that_is_given_up_leaves_nothing_behind():
    env = wrap()
    env.reset()
    for _ in range(3):
        env.step(np.full(1, 0.5))
    fresh, infos, _ = play(env, [0.2] * 10)
    expected, _, _ = play(wrap(), [0.2] * 10)
    np.testing.assert_array_equal(fresh, expected)
    assert infos[-1]["labels"]["asked"] == 5
    assert env.counts.asked == 6
    assert env.counts.closed


def test_a_step_without_an_episode_is_refused():
    env = wrap()
    play(env, [1.0] * 3)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(1))


@pytest.mark.parametrize(
    ("env", "views"),
    [
        (lambda: Reaching("infos", stride=2), None),
        (lambda: Reaching("infos", stride=1), None),
        (lambda: Reaching("nowhere"), lambda env, observation, info: frame(env.unwrapped.x)),
        (lambda: Reaching(reuses=True), NAMES),
        (lambda: Reaching("infos", reuses=True), None),
    ],
    ids=["infos", "more infos", "callable", "same array", "same array in infos"],
)
def test_pictures_are_found_wherever_they_are(env, views):
    rewards, infos, _ = play(wrap(env(), views=views), [0.2, -0.1, 0.3] * 4)
    expected, expected_infos, _ = play(wrap(), [0.2, -0.1, 0.3] * 4)
    np.testing.assert_array_equal(rewards, expected)
    assert column(infos, "progress") == column(expected_infos, "progress")


def test_the_only_picture_of_an_observation_needs_no_name():
    class OneView(gymnasium.ObservationWrapper):
        def observation(self, observation):
            return {name: observation[name] for name in ("proprioception", "front")}

    reference = TaskReference("reach", REFERENCE.reference_start, REFERENCE.reference_end, REFERENCE.goal[:1])
    env = ProgressReward(OneView(Reaching()), FaultyClient(FakeEngine()), reference, GAMMA)
    assert play(env, [0.1] * 10)[1][-1]["labels"]["answered"] == 3


def test_an_end_without_pictures_is_not_scored():
    """As where a TimeLimit ends the episode of an environment that renders by its own horizon."""
    env = wrap(TimeLimit(Reaching("infos", stride=2), 7), views=None)
    rewards, infos, _ = play(env, [0.1] * 10)
    assert len(rewards) == 7
    assert infos[-1]["labels"]["asked"] == 3
    assert infos[-1]["progress"] == infos[-2]["progress"] > 0.0


class Changed(gymnasium.ObservationWrapper):
    """Changes the front picture."""

    def __init__(self, env, change):
        super().__init__(env)
        self.change = change

    def observation(self, observation):
        return observation | {"front": self.change(observation["front"])}


@pytest.mark.parametrize(
    ("env", "views", "message"),
    [
        (lambda: Reaching("nowhere"), None, "views = None: there are no pictures: name pictures of the observation"),
        (lambda: Reaching("nowhere"), NAMES, r"views = \('front', 'wrist'\): the observation is no Dict"),
        (Reaching, None, "views = None: name some of front, wrist, in the order of reference.goal"),
        (Reaching, ("front", "wirst"), "views = 'wirst': .*wrist"),
        (Reaching, "front", r"views = \(1, 8, 8, 3\): give the views of reference.goal, \(2, 8, 8, 3\)"),
        (Reaching, (), r"views = \(\): name at least one"),
        (Reaching, ("front", "proprioception"), r"observation\['proprioception'\] = dtype\('float32'\): .*uint8"),
        (lambda: Changed(Reaching(), lambda p: p / 255), NAMES, r"observation\['front'\] = dtype\('float64'\)"),
        (lambda: Changed(Reaching(), lambda p: p[..., 0]), NAMES, r"observation\['front'\] = \(8, 8\): .*\[H, W, 3\]"),
        (
            lambda: Changed(Reaching(), lambda p: p[:4]),
            NAMES,
            r"observation\['wrist'\] = \(8, 8, 3\): give \(4, 8, 3\)",
        ),
        (lambda: Reaching("nowhere"), lambda *_: None, "give the pictures of the episode's first frame"),
        (lambda: Reaching("nowhere"), lambda *_: frame(0.0)[0], r"views = \(8, 8, 3\): .*\[V, H, W, 3\]"),
    ],
)
def test_pictures_that_cannot_be_used_are_named_at_the_first_reset(env, views, message):
    with pytest.raises(BadInput, match=message):
        wrap(env(), views=views).reset()


def test_an_environment_whose_stride_does_not_fit_is_named_at_the_step():
    env = wrap(Reaching("infos", stride=4), views=None)
    env.reset()
    env.step(np.zeros(1))
    with pytest.raises(BadInput, match="stride = 2: there are no pictures at step 2: give a multiple"):
        env.step(np.zeros(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"client": "grm-mini"}, "client = 'grm-mini': give a RewardClient"),
        ({"reference": frame(1.0)}, "reference = .*ndarray.*: give TaskReference.of"),
        ({"gamma": 99}, r"gamma = 99: give a discount in \(0, 1\]"),
        ({"stride": 0}, "stride = 0: give a number of environment steps"),
        ({"stride": 2.5}, "stride = 2.5: give a number of environment steps"),
        ({"deadline_s": 0.0}, "deadline_s = 0.0: give seconds above 0"),
        ({"deadline_s": math.inf}, "deadline_s = inf: give seconds above 0"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(BadInput, match=message):
        ProgressReward(
            **{"env": Reaching(), "client": FaultyClient(FakeEngine()), "reference": REFERENCE, "gamma": 0.9} | change
        )


def test_a_task_reward_that_is_no_number_is_refused():
    env = wrap(gymnasium.wrappers.TransformReward(Reaching(), lambda reward: float("nan")))
    env.reset()
    with pytest.raises(BadInput, match="task_reward"):
        env.step(np.zeros(1))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_passes_gymnasiums_checks(monkeypatch):
    check_env(wrap(Reaching(start=0.3)), skip_render_check=True)
    spec = gymnasium.envs.registration.EnvSpec("Reaching-v0", entry_point=Reaching, max_episode_steps=7)
    monkeypatch.setitem(gymnasium.registry, "Reaching-v0", spec)
    env = wrap(gymnasium.make("Reaching-v0"))
    check_env(env)  # also makes it anew from its spec
    rewards, infos, _ = play(env.spec.make(), [0.1] * 10)
    assert len(rewards) == 7
    assert infos[-1]["labels"] == {"asked": 4, "answered": 4, "invalid": 0, "late": 0, "rejected": 0}


def test_other_wrappers_may_be_outside():
    env = FrameStackObservation(RecordEpisodeStatistics(TimeLimit(wrap(), 6)), 3)
    observation, _ = env.reset(seed=0)
    assert observation["front"].shape == (3, 8, 8, 3)
    rewards = []
    for _ in range(6):
        _, reward, _, truncated, info = env.step(np.full(1, 0.2, np.float32))
        rewards.append(reward)
    assert truncated
    assert info["episode"]["r"] == pytest.approx(sum(rewards), abs=1e-5)
    assert "labels" not in info  # it did not see this end
    env.reset()
    assert env.get_wrapper_attr("counts").closed


def textured(progress):
    """Synthetic pictures for a real model, uint8 [2, 112, 112, 3]: a bright square wanders over a pattern."""
    y, x = np.mgrid[:112, :112]
    views = []
    for view in range(2):
        pixels = np.stack([(x + 40 * view) % 256, (y * 2) % 256, (x + y) % 256], -1).astype(np.uint8)
        left = 8 + round(progress * 80)
        pixels[40:64, left : left + 16] = 255
        views.append(pixels)
    return np.stack(views)


def test_a_real_model_in_this_process_pays_what_the_labeller_pays():
    client = embedded_client("grm-mini")
    reference = TaskReference("insert the peg", textured(0.0)[0], textured(1.0)[0], textured(1.0))
    xs = [0.0, 0.2, 0.4, 0.6, 0.8, 0.9]
    env = ProgressReward(
        Reaching("nowhere", horizon=5),
        client,
        reference,
        GAMMA,
        stride=2,
        deadline_s=60.0,
        views=lambda env, observation, info: textured(env.unwrapped.x),
    )
    rewards, infos, _ = play(env, [3 * (b - a) for a, b in itertools.pairwise(xs)])
    assert infos[-1]["labels"] == {"asked": 3, "answered": 3, "invalid": 0, "late": 0, "rejected": 0}
    labeller = Labeller(LabellerConfig("grm", GAMMA, 2, deadline_s=60.0), client)
    labeller.begin("episode", reference.context("episode", textured(0.0)))
    for t in (2, 4, 5):
        labeller.observe("episode", t, textured(xs[t]))
    expected, columns = labeller.collect("episode", 0, np.zeros(5, np.float32), False)
    np.testing.assert_allclose(rewards, expected, atol=1e-5)
    np.testing.assert_allclose(column(infos, "progress"), columns.next_potential, atol=1e-5)
    assert len({*column(infos, "progress")}) > 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"instruction": " "}, r"reference.instruction = ' ': give the task in words"),
        ({"instruction": None}, r"reference.instruction = None: give the task in words"),
        (
            {"reference_start": np.zeros((8, 9, 3), np.uint8)},
            r"reference.reference_start = \(8, 9, 3\): give \(8, 8, 3\)",
        ),
        ({"goal": np.zeros((4, 8, 8, 3), np.uint8)}, r"reference.goal = .*: give at most 3 views"),
        ({"goal": np.zeros((8, 8, 3), np.uint8)}, r"reference.goal"),
    ],
)
def test_a_reference_that_no_model_can_read_is_refused_at_once(change, named):
    picture = np.zeros((8, 8, 3), np.uint8)
    reference = replace(TaskReference("reach", picture, picture, picture[None]), **change)
    with pytest.raises(BadInput, match=named):
        ProgressReward(Reaching(), FaultyClient(FakeEngine()), reference, GAMMA)
