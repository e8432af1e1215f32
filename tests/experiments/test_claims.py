"""Success from progress in the main job: choices and verdicts rest on what a user has, and claims lead the report."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from dopamine_rl.config import load_preset
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.gate import decide
from dopamine_rl.success import ClaimOutcome, SuccessConfig
from experiments.job import claims, phases, report
from experiments.job import plans as episodes
from experiments.job.gate import gate
from experiments.job.prepared import RewardModel
from experiments.reports.claims import claims_section
from experiments.runtime.arguments import PRESETS
from experiments.runtime.console import Console
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig
from learner.demonstrations import replay_episode
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.dopamine_rl.test_gate import REFERENCE, failure, success
from tests.experiments.test_report import finished
from tests.fakes import FakeEngine


def laptop(**changes):
    config = load_preset(ExperimentConfig, PRESETS / "laptop.toml")
    return replace(config, success="progress", **changes)


def a_run(tmp_path, config):
    """A run that performs every phase; its simulators must not be asked."""
    client = LocalRewardClient(Scorer(FakeEngine()))
    keys = {}

    def phase(name, title, depends_on, work):
        keys[name] = depends_on
        return json.loads(json.dumps(work()))

    return SimpleNamespace(
        config=config,
        path=tmp_path,
        preset="",
        console=Console(),
        phase=phase,
        service=lambda _: ("", client),
        keys=keys,
    )


def written(folder, *demonstrations):
    for number, demonstration in enumerate(demonstrations):
        write_demonstration(folder, replace(demonstration, episode_id=f"episode_{number:03d}"))
    return [folder / f"episode_{number:03d}" for number in range(len(demonstrations))]


def poisoned(demonstration):
    """The same pictures with a lie about success, progress, end and pay."""
    return replace(
        demonstration,
        success=not demonstration.success,
        terminated=not demonstration.terminated,
        task_rewards=1.0 - demonstration.task_rewards,
        true_progress=np.full(len(demonstration.frames), 0.123, np.float32),
        near_miss=True,
    )


def judged(tmp_path, lie, config=None):
    """The gate, with a simulator's exam that may be lied about."""
    tell = poisoned if lie else lambda demonstration: demonstration
    exam = written(tmp_path / "exam", *map(tell, (success(), success(16), failure(), failure(0.6))))
    shown = written(tmp_path / "shown", success(), success(14))
    tries = written(tmp_path / "tries", failure(0.5), failure(0.3))
    run = a_run(tmp_path, config or laptop(gate=replace(ExperimentConfig().gate, probe="off")))
    model = RewardModel(tmp_path / "grm", "v1", REFERENCE)
    sources = ("expert", "expert", "failure", "failure")
    prepared = SimpleNamespace(
        gate_episodes=list(zip(exam, sources, strict=True)),
        behaviours=[],
        model=model,
        policy_episodes=shown,
        tries=tries,
    )
    figures, verdict = gate(run, prepared)
    return figures, verdict, run


def test_the_verdict_is_about_the_users_episodes_and_the_simulators_figures_stand_beside(tmp_path):
    honest, verdict, _ = judged(tmp_path / "honest", lie=False)
    lied, same, _ = judged(tmp_path / "lied", lie=True)
    assert replace(lied, simulator=None) == replace(honest, simulator=None)
    assert (verdict.checks, verdict.notes, verdict.passed) == (same.checks, same.notes, True)
    assert (lied.simulator, same.advisory) == (None, ())  # no success to judge by: said, and no reason to stop
    assert {check.name for check in verdict.advisory} >= {"simulator auc", "simulator false_success"}
    assert (honest.successes, honest.failures, honest.simulator["failures"]) == (2, 2, 2)
    assert honest.simulator_mae is None
    assert "simulator auc" in verdict.table()


def test_the_poison_reaches_a_verdict_that_asks_the_simulator(tmp_path):
    by_env = replace(laptop(), success="env", gate=replace(ExperimentConfig().gate, probe="off"))
    assert judged(tmp_path / "honest", False, by_env)[1].passed
    with pytest.raises(BadInput, match="gate episodes"):
        judged(tmp_path / "lied", True, by_env)


def test_the_rule_is_fitted_on_the_users_episodes(tmp_path):
    *_, run = judged(tmp_path, lie=False)
    client = run.service(None)[1]
    fit = claims.fit(client, [success(), success(14)], [failure(0.5)], REFERENCE, run.config)
    assert fit.rule.threshold == pytest.approx(0.95, abs=0.01)
    assert (fit.rule.frames, fit.demonstrations, fit.tries, fit.missed_if_left_out) == (1, 2, 1, 0)
    assert "fitted on 2 demonstrations" in str(fit)
    assert run.keys["claims"] != run.keys["gate"]
    with pytest.raises(BadInput, match=r"claims\.frames"):
        claims.fit(client, [success()], [failure(0.97, count=200)], REFERENCE, run.config)


@pytest.mark.parametrize("source", ["progress", "env"])
def test_the_clone_is_chosen_without_the_simulator(tmp_path, source):
    """Only with success from the simulator is it asked."""
    rng, asked = np.random.default_rng(0), []

    def moving(count):
        steps = len(success(count).actions)
        observations = rng.normal(size=(steps + 1, 30)).astype(np.float32)
        actions = np.tanh(observations[:-1, :6]).astype(np.float32)
        return replace(success(count), observations=observations, actions=actions)

    base = ExperimentConfig()
    cloning = replace(base.cloning, widths=(8, 64), updates=60, trials=2)
    config = replace(base, success=source, cloning=cloning, sft=replace(base.sft, failures="outcome"))
    run = a_run(tmp_path, config)

    class Pool:
        def map(self, jobs, on_progress, what):
            asked.extend(jobs)
            return [{"success": True}] * len(jobs)

    run.pool = Pool()
    cloned = phases._clone(run, written(tmp_path, moving(8), moving(9), moving(10)), None)
    assert bool(asked) == (source == "env")
    assert cloned.path.is_file()
    assert len(cloned.trials) == 2
    if source == "progress":
        assert min(cloned.trials.values()) < max(cloned.trials.values()) < 2.0


def test_demonstrations_are_recorded_by_claims_and_lie_apart(tmp_path):
    config = laptop()
    by_env = replace(config, success="env")
    demonstration = tmp_path / "demonstration"
    plans = [
        {**episodes.scripted_plans(each, tmp_path), "tries": episodes.tries_plan(each, tmp_path, demonstration)}
        for each in (config, by_env)
    ]
    for name in ("reward_model", "policy", "tries"):
        claimed, asked = (each[name] for each in plans)
        assert (claimed.claims, asked.claims) == (True, False)
        assert {job.args[-1] for job in claimed.jobs} == {True}
        assert not set(claimed.paths) & set(asked.paths)
    assert plans[0]["gate"] == plans[1]["gate"]
    assert len(plans[0]["tries"].jobs) == config.claims.tries
    practised = episodes.practice_plan(config, tmp_path, demonstration)
    assert not set(practised.seeds) & set(plans[0]["tries"].seeds)


def test_a_claimed_demonstration_is_a_success_in_the_replay():
    shown = success()
    shown = replace(shown, task_rewards=np.eye(len(shown.actions), dtype=np.float32)[-1])
    columns = replay_episode(shown, None).columns
    assert columns["task_reward"].sum() == columns["task_reward"][-1] == columns["terminated"][-1] == 1.0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reward": "sparse"}, "reward = 'sparse': write grm"),
        ({"success": "human"}, "success = 'human': write env or progress"),
        ({"gate": replace(ExperimentConfig().gate, probe="required")}, "gate.probe = 'required': write shown"),
    ],
)
def test_settings_that_would_need_the_truth_are_refused(changes, told):
    with pytest.raises(BadInput, match=told):
        replace(laptop(), **changes)


def test_reward_models_trained_on_the_truth_are_refused():
    config = laptop()
    rollouts = replace(config.demonstrations, reward_model_rollouts=2)
    with pytest.raises(BadInput, match=r"reward_model_rollouts = 2: give 0"):
        replace(config, demonstrations=rollouts)
    with pytest.raises(BadInput, match=r"gate_behaviours = 1: give 0"):
        replace(config, demonstrations=replace(config.demonstrations, gate_behaviours=1))
    scripted = replace(config.demonstrations, reward_model_failures=2, practice=0)
    with pytest.raises(BadInput, match=r"sft.failures = 'truth': write path or outcome"):
        replace(config, demonstrations=scripted, sft=replace(config.sft, failures="truth"))


def results():
    outcomes = {
        "bc": [ClaimOutcome(True, False, False), ClaimOutcome(False, True, True), ClaimOutcome(True, True, True)],
        "policy": [ClaimOutcome(True, True, True)] * 3,
    }
    within = {"bc": [False, True, True], "policy": [True, True, True], "expert": [True] * 3}
    curves = claims.fit(
        LocalRewardClient(Scorer(FakeEngine())), [success()], [failure()], REFERENCE, laptop(claims=SuccessConfig())
    )
    return claims.summary(outcomes, within, curves)


def test_the_result_holds_false_claims_missed_successes_and_true_success():
    found = results()
    bc = {name: rate["mean"] for name, rate in found["policies"]["bc"].items()}
    assert bc == pytest.approx(
        {"false_claims": 1 / 3, "missed_successes": 1 / 3, "true_success": 1 / 3, "within_horizon": 2 / 3}
    )
    assert found["policies"]["policy"]["true_success"]["mean"] == 1.0
    assert found["policy_minus_bc"]["mean"] == pytest.approx(2 / 3)
    assert found["missed_if_left_out"] is None
    assert json.loads(json.dumps(found)) == found


def test_the_report_leads_with_them(tmp_path):
    figures, verdict, _ = judged(tmp_path / "gate", lie=False)
    told = {"claims": results(), "gate": asdict(figures), "bc_trials": {"128": 0.0123}}
    result = finished() | told
    text = report.write_report(RunFolder(tmp_path), result, verdict, [], "").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[2] == "## Success, claimed from progress"
    assert "| trained policy | 0.00" in text
    assert text.index("false claims") < text.index("Reward `")
    assert "One demonstration cannot tell" in text
    assert "simulator's sparse success" not in text
    assert "loss on held-out demonstrations, by layer sizes: 128 0.012" in text
    assert "by the simulator (`simulator auc`)" in text
    assert claims_section(None, {}) == ""
    before = report.write_report(RunFolder(tmp_path), finished(), decide(figures, laptop().gate), [], "").read_text(
        encoding="utf-8"
    )
    assert before.splitlines()[2].startswith("The policy sees")
