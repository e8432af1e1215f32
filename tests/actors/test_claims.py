"""Success from pictures: claims end episodes, and whatever the simulator says of success changes nothing."""

import functools

import gymnasium
import numpy as np
import pytest

pytest.importorskip("ray")
from ray import cloudpickle
from ray.rllib.algorithms.ppo import PPOConfig

from actors.callbacks import LabellingCallback
from actors.claims import TRUE_SUCCESS, Claiming, EndsOnClaim, run_until_claim
from actors.labeller import Labeller, LabellerConfig
from dopamine_rl.errors import BadInput
from dopamine_rl.success import ClaimOutcome, SuccessRule
from dopamine_rl.types import TaskReference
from learner.algorithms.common import TrainingSetup, configure
from learner.algorithms.rlpd import store_fragment
from learner.config import LearnerConfig
from learner.replay import ColumnarReplay
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.actors.test_labeller import context
from tests.fakes import FakeEngine, frame

GAMMA, STRIDE, HORIZON = 0.9, 3, 30
RULE = SuccessRule(0.9, 2)
LIES = {"honest": lambda success: success, "inverted": lambda success: not success, "nan": lambda success: float("nan")}
"""What the simulator says of success and of progress."""


class Lying(gymnasium.Env):
    """A point that walks to 1 and stays there. It pays, ends and shows frames by its success, as a simulator does,
    unless it is told to go on; what it says of success may be a lie."""

    observation_space = gymnasium.spaces.Box(-1.0, 2.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, lie="honest", speed=0.08):
        self.lie, self.speed = LIES[lie], speed

    def reset(self, *, seed=None, options=None):
        self.t, self.x = 0, 0.0
        self.ends_on_success = (options or {}).get("ends_on_success", True)
        return self.observe(), {"scored_views": frame(self.x), **self.truth()}

    def step(self, action):
        self.t += 1
        self.x = min(1.0, self.x + self.speed + 0.02 * float(np.clip(action[0], 0, 1)))
        truth = self.truth()
        ended = bool(truth["success"]) and self.ends_on_success
        truncated = self.t >= HORIZON and not ended
        scored = ended or truncated or self.t % STRIDE == 0
        shown = {"scored_views": frame(self.x)} if scored else {}
        return self.observe(), float(bool(truth["success"])), ended, truncated, {**shown, **truth}

    def observe(self):
        return np.array([self.x], np.float32)

    def truth(self):
        success = self.lie(self.x >= 1.0)
        return {"success": success, "oracle_progress": float(success)}


class PaysTruth(EndsOnClaim):
    def step(self, action):
        result = list(super().step(action))
        result[1] += result[4][TRUE_SUCCESS]
        return tuple(result)


class EndsOnTruth(EndsOnClaim):
    def step(self, action):
        result = list(super().step(action))
        result[3] |= result[4][TRUE_SUCCESS]
        return tuple(result)


class ScoresTruth(EndsOnClaim):
    def step(self, action):
        result = list(super().step(action))
        if result[4][TRUE_SUCCESS]:
            result[4]["scored_views"] = frame(self.unwrapped.x)
        return tuple(result)


class TellsTruth(EndsOnClaim):
    def step(self, action):
        result = list(super().step(action))
        result[4]["success"] = result[4][TRUE_SUCCESS]
        return tuple(result)


class ClaimsTruth(EndsOnClaim):
    def step(self, action):
        result = super().step(action)
        if result[4][TRUE_SUCCESS]:
            self.claim()
        return result


def make_runner(env, make_client=None, hold_back=True, num_envs=1):
    """An env runner in the configuration that is shipped, with success from progress."""
    reference = TaskReference("walk", frame(0.0)[0], frame(1.0)[0], frame(1.0))
    make_client = make_client or (lambda: LocalRewardClient(Scorer(FakeEngine())))
    labelling = LabellerConfig("grm", GAMMA, STRIDE, deadline_s=60.0)
    callback = functools.partial(LabellingCallback, labelling, make_client, reference.context, hold_back, RULE)
    config = PPOConfig()
    learner = LearnerConfig(num_env_runners=0, num_envs_per_env_runner=num_envs)
    configure(config, TrainingSetup(lambda _: env(), {}, callback, GAMMA, seed=3), learner)
    return config.env_runner_cls(config=config, worker_index=0)


def sample(runner, calls=2, steps=12):
    """Fragments of so many calls, those that are held back included."""
    lengths = [steps] * calls + [0]
    return [chunk for length in lengths for chunk in runner.sample(num_timesteps=length, explore=False)]


def evidence(chunks):
    """Everything that a learner can get hold of, bit by bit."""
    replay = ColumnarReplay(1000, 1, 1, GAMMA, "grm")
    found = []
    for chunk in chunks:
        labels = chunk.custom_data[f"labels/{chunk.t_started}"]
        columns = [getattr(labels, name) for name in labels.__slots__ if name != "model_version"]
        arrays = [chunk.get_observations(), chunk.get_actions(), chunk.get_rewards(), *columns]
        found.append([np.asarray(array).tobytes() for array in arrays])
        found.append([chunk.t_started, chunk.is_terminated, chunk.is_truncated, [str(i) for i in chunk.get_infos()]])
        store_fragment(replay, chunk)
    return found, {name: values.tobytes() for name, values in replay.columns().items()}


@pytest.fixture(scope="module")
def act():
    """Chunks of episodes by the simulator's lie and the wrapper."""

    @functools.cache
    def chunks_of(lie, wrapper=EndsOnClaim):
        return sample(make_runner(lambda: wrapper(Lying(lie))))

    return chunks_of


@pytest.mark.parametrize("lie", ["inverted", "nan"])
def test_a_simulator_that_lies_of_success_changes_no_bit(act, lie):
    honest = act("honest")
    assert sum(chunk.is_terminated for chunk in honest) == 1
    assert not honest[-1].is_done  # and the next episode is under way
    assert evidence(act(lie)) == evidence(honest)


@pytest.mark.parametrize("leak", [PaysTruth, EndsOnTruth, ScoresTruth, TellsTruth, ClaimsTruth])
def test_the_poison_is_found_in_every_channel_that_is_opened(act, leak):
    assert evidence(act("inverted", leak)) != evidence(act("honest"))


def test_the_step_after_the_claim_ends_the_episode_and_alone_pays_the_task(act):
    first = [chunk for chunk in act("honest") if chunk.id_ == act("honest")[0].id_]
    rewards = np.concatenate([chunk.get_rewards() for chunk in first])
    labels = [chunk.custom_data[f"labels/{chunk.t_started}"] for chunk in first]
    task = np.concatenate([label.task_reward for label in labels])
    potential = np.concatenate([label.potential for label in labels])
    at = np.flatnonzero(potential >= RULE.threshold)[0] + STRIDE  # the second frame that stands so high
    assert first[-1].is_terminated
    assert len(task) == at + 1
    assert task.tolist() == [0.0] * at + [1.0]
    assert rewards[-1] == pytest.approx(1.0 - potential[-1], abs=1e-6)
    assert labels[-1].next_potential[-1] == 0.0


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("hold_back", [False, True])
def test_false_claims_and_missed_successes_are_reported(num_envs, hold_back):
    runner = make_runner(lambda: EndsOnClaim(Lying("inverted")), hold_back=hold_back, num_envs=num_envs)
    sample(runner, calls=4, steps=12 * num_envs)
    finished = runner.get_metrics()["finished"]
    ended = {name: [float(value) for value in finished[name].peek()] for name in ("claimed", "success", "reached")}
    assert len(ended["claimed"]) >= 2
    assert set(ended["claimed"]) == set(ended["reached"]) == {1.0}
    assert set(ended["success"]) == {0.0}  # it calls the walk a success, and its end a failure


def test_what_never_comes_near_is_not_claimed():
    slow = make_runner(lambda: EndsOnClaim(Lying("honest", speed=0.001)))
    sample(slow, calls=3)
    assert set(map(float, slow.get_metrics()["finished"]["claimed"].peek())) == {0.0}


class LateClient(LocalRewardClient):
    """Its answers are there from the third time on that somebody asks."""

    def submit(self, request):
        pending, asked, result = super().submit(request), [], super().submit(request).result
        pending.ready = lambda: len(asked) >= 3 or bool(asked.append(1))

        def counted(timeout_s):
            waited.append(len(asked) < 3)
            return result(timeout_s)

        waited = self.waited
        pending.result = counted
        return pending

    waited: list[bool] = []  # noqa: RUF012


def test_a_claim_waits_for_its_answer_and_the_actor_does_not(act, monkeypatch):
    monkeypatch.setattr(LateClient, "waited", [])
    runner = make_runner(lambda: EndsOnClaim(Lying()), lambda: LateClient(Scorer(FakeEngine())))
    assert runner.sample(num_timesteps=28, explore=False) == []  # held back: nothing is awaited yet
    assert LateClient.waited
    assert not any(LateClient.waited)
    late = runner.sample(num_timesteps=0, explore=False)
    prompt = sum(len(chunk) for chunk in act("honest") if chunk.id_ == act("honest")[0].id_)
    assert late[0].is_terminated
    assert prompt < len(late[0]) <= prompt + 12  # each answer is read when the one before it is


@pytest.mark.parametrize(
    ("lie", "speed", "outcome"),
    [
        ("honest", 0.08, ClaimOutcome(claimed=True, success=True, reached=True)),
        ("inverted", 0.08, ClaimOutcome(claimed=True, success=False, reached=True)),
        ("honest", 0.001, ClaimOutcome(claimed=False, success=False, reached=False)),
        ("inverted", 0.001, ClaimOutcome(claimed=False, success=True, reached=True)),
    ],
)
def test_an_evaluation_ends_by_claim_and_compares_it_with_the_truth(lie, speed, outcome):
    labelling = LabellerConfig("grm", GAMMA, STRIDE, deadline_s=60.0)
    reference = TaskReference("walk", frame(0.0)[0], frame(1.0)[0], frame(1.0))
    client = LocalRewardClient(Scorer(FakeEngine()))
    claiming = Claiming(labelling, functools.partial(LocalRewardClient, Scorer(FakeEngine())), reference, RULE)
    claiming = cloudpickle.loads(cloudpickle.dumps(claiming))
    stands = np.zeros(1, np.float32)
    assert run_until_claim(Lying(lie, speed), lambda _: stands, 0, claiming, client) == outcome


def test_answers_are_read_in_order_and_asked_for_again_without_waiting():
    engine = FakeEngine(unreadable=lambda before, after: before != after and abs(after - 0.5) < 0.01)
    labeller = Labeller(LabellerConfig("grm", GAMMA, STRIDE, deadline_s=60.0), LocalRewardClient(Scorer(engine)))
    labeller.begin("episode", context())
    assert labeller.arrived("episode") == []
    for time, progress in ((3, 0.25), (6, 0.5), (9, 0.75)):
        labeller.observe("episode", time, frame(progress))
    outcomes = [(found.time, found.outcome) for found in labeller.arrived("episode")]
    assert outcomes == [(3, "answered"), (6, "invalid"), (9, "answered")]
    assert labeller.arrived("episode") == []
    assert labeller.counts.retried == 1
    _, columns = labeller.collect("episode", 0, np.zeros(5, np.float32), False)
    assert columns.potential.tolist() == pytest.approx([0, 0, 0, 0.25, 0.25], abs=0.01)


def test_a_claim_is_forgotten_with_its_episode_and_time_runs_out_without_one():
    env = EndsOnClaim(Lying())
    env.reset()
    env.claim()
    env.reset()
    steps = [env.step(np.zeros(1, np.float32)) for _ in range(HORIZON)]
    assert [step[2] for step in steps] == [False] * HORIZON
    assert [step[3] for step in steps] == [False] * (HORIZON - 1) + [True]
    assert not any(step[1] for step in steps)
    env.reset()
    for step in range(HORIZON):
        if step == HORIZON - 1:
            env.claim()
        *_, terminated, truncated, infos = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated) == (True, False)
    assert set(infos) == {"scored_views", TRUE_SUCCESS}


def test_an_environment_that_ends_by_its_own_success_is_refused():
    class Deaf(Lying):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)

    env = EndsOnClaim(Deaf("inverted"))
    env.reset()
    with pytest.raises(BadInput, match="success = 'progress': give an environment that goes on after success"):
        env.step(np.zeros(1, np.float32))
