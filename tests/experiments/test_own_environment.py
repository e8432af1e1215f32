"""The main job in an environment of a user's own: what is asked for, what is refused, and a whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.demonstrations import record_missing
from actors.envs import make_env, scripts_of
from actors.maniskill import EnvConfig
from dopamine_rl.config import dump_toml, load_preset
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.types import TaskReference
from experiments import peg_insert as train
from experiments.commands import env_check
from experiments.commands import evaluate as evaluation
from experiments.job import phases, report
from experiments.job import plans as episodes
from experiments.job.gate import gate
from experiments.job.prepared import Cloned, RewardModel
from experiments.job.recorded import raw_plans
from experiments.runtime.arguments import RunArguments, parse_settings
from experiments.runtime.console import Console
from experiments.settings import ExperimentConfig, check_run
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.actors.reaching import NAMES
from tests.dopamine_rl.test_gate import REFERENCE, failure, success
from tests.fakes import FakeEngine

MAKE, EXPERT = "tests.actors.broken_envs:Good", "tests.actors.reaching_expert:Forward"
WORDS = ["--env.make", MAKE, "--demonstrations.expert", EXPERT, "--env.views", *NAMES, "--env.instruction", "reach"]
SLOWLY = "tests.actors.reaching_expert:Slowly"
WITH_MODEL = """--reward grm --force --env.horizon 25 --env.stride 1 --demonstrations.policy 2
 --demonstrations.gate-successes 2 --demonstrations.gate-rollouts 12 --cloning.updates 1 --sft.train.updates 3"""
SHORT = """--preset own --reward sparse --env.horizon 12 --env.stride 3 --demonstrations.policy 3 --cloning.trials 2
 --cloning.widths 16 --cloning.updates 100 --training.environment-steps 60 --learner.learning-starts 20
 --learner.critic-warmup-updates 5 --learner.updates-per-step 0.5 --learner.steps-per-iteration 30
 --learner.hidden 16 --evaluation.episodes 4 --simulation.workers 1"""


def settings(*words: str) -> ExperimentConfig:
    return parse_settings(RunArguments, ExperimentConfig, words, "prog", "about")[1]


def test_the_preset_for_it_asks_for_nothing_that_only_simulated_tasks_have(tmp_path: Path) -> None:
    config = settings("--preset", "own", *WORDS, "--env.kwargs", '{"horizon": 7}')
    check_run(config)
    (tmp_path / "config.toml").write_text(dump_toml(config))
    assert load_preset(ExperimentConfig, tmp_path / "config.toml") == config
    plans = episodes.scripted_plans(config, tmp_path)
    assert {str(actor) for plan in plans.values() for actor in plan.actors} == {"expert"}
    compared = phases.policies(_run(config, tmp_path), _prepared())
    assert list(compared) == ["expert", "bc", "policy"]


def test_without_a_reward_model_any_preset_will_do() -> None:
    check_run(settings(*WORDS[:4], "--reward", "sparse"))


def _run(config: ExperimentConfig, path: Path) -> Any:
    return type("R", (), {"config": config, "path": path})()


def _prepared() -> Any:
    return type("P", (), {"cloned": Cloned(Path("bc"), "v", {})})()


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--env.make", "make_env"], "env.make = 'make_env': write MODULE:CALLABLE"),
        (["--env.make", "tests.actors.broken_envs:God"], "write tests.actors.broken_envs:Good"),
        (["--demonstrations.expert", ""], "demonstrations.folder = '': give a folder of recorded episodes"),
        (["--demonstrations.expert", "", "--demonstrations.folder", "nowhere"], "demonstrations.folder = 'nowhere'"),
        (["--demonstrations.folder", "raw"], "give this or demonstrations.expert, not both"),
        (["--env.kwargs", "front"], "env.kwargs = 'front': write a JSON object"),
        (["--env.instruction", ""], "env.instruction = '': say the task in words"),
        (["--reward", "oracle"], "reward = 'oracle': give grm or sparse"),
        (["--demonstrations.gate-failures", "3"], "demonstrations.gate_failures = 3: give 0: only simulated tasks"),
        (["--demonstrations.reward-model-failures", "3"], "demonstrations.reward_model_failures = 3: give 0"),
        (["--demonstrations.gate-behaviours", "1"], "demonstrations.gate_behaviours = 1: give 0"),
        (["--demonstrations.practice", "1", "--sft.failures", "path"], "demonstrations.practice = 1: give 0, and"),
        (["--demonstrations.reward-model-rollouts", "4"], "sft.failures = 'truth': write outcome"),
        (["--gate.probe", "required"], "gate.probe = 'required': write off"),
        (
            ["--demonstrations.gate-rollouts", "0"],
            "demonstrations.gate_failures = 0: give at least 1, or",
        ),
    ],
)
def test_what_it_cannot_have_is_refused_before_anything_starts(words: list[str], fix: str) -> None:
    with pytest.raises(BadInput) as refused:
        check_run(settings("--preset", "own", *WORDS, *words))
    assert fix in str(refused.value)


@pytest.mark.parametrize("name", ["expert", "folder"])
def test_a_simulated_task_has_its_own_script(name: str) -> None:
    with pytest.raises(BadInput, match=rf"demonstrations.{name} = 'a:b': leave it out, or name your environment"):
        settings(f"--demonstrations.{name}", "a:b")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Six successes and a failure, the last success without its actions."""
    env, folder = EnvConfig(make=MAKE, views=NAMES, horizon=9, stride=2, instruction="reach"), tmp_path / "raw"
    folder.mkdir()
    for seed in range(6):
        record_missing(make_env(env), "expert", scripts_of(env, EXPERT)["expert"](), seed, folder)
    short = replace(env, horizon=1, stride=1)
    record_missing(make_env(short), "near", scripts_of(env, EXPERT)["expert"](), 9, folder)
    np.savez(folder / "expert_000005" / "transitions.npz", success=True)
    return folder


def test_recorded_successes_are_shared_out_and_those_without_actions_serve_the_reward_model(recorded: Path) -> None:
    config = ExperimentConfig(env=EnvConfig(make=MAKE, views=NAMES))
    counts = replace(config.demonstrations, folder=str(recorded), policy=3, gate_successes=2, reward_model=1)
    config = replace(config, demonstrations=counts)
    plans = raw_plans(config, recorded)
    names = {name: [path.name[-1] for path in plan.paths] for name, plan in plans.items()}
    assert names == {"policy": list("012"), "gate": list("34"), "reward_model": ["5"], "gate_behaviours": []}
    assert not any(plan.jobs for plan in plans.values())
    reference = phases.task_reference(plans["reward_model"].paths[0])
    assert isinstance(reference, TaskReference)
    assert (reference.instruction, reference.goal.shape) == ("reach", (2, 8, 8, 3))
    with pytest.raises(BadInput, match=r"5 with actions': record 6 successes with actions"):
        raw_plans(replace(config, demonstrations=replace(counts, policy=4)), recorded)
    with pytest.raises(BadInput, match=r"6 successes': record 1 more, or lower demonstrations.reward_model"):
        raw_plans(replace(config, demonstrations=replace(counts, reward_model=2)), recorded)
    sparse = replace(config, reward="sparse", demonstrations=replace(counts, policy=5))
    assert len(raw_plans(sparse, recorded)["policy"].paths) == 5


def test_the_report_says_what_was_not_measured() -> None:
    result = {"own_environment": True, "environment": "a:b", "model_version": "v", "reward": "grm"}
    assert "none of them was measured here" in report._own_environment(result)
    assert "simulator" not in report._reward_words(result)
    assert "none of them" not in report._own_environment(result | {"model_version": None})
    assert report._own_environment({"own_environment": False}) == ""


def test_the_gate_judges_unseen_experts_and_the_clones_failures_and_asks_no_simulator(tmp_path: Path) -> None:
    config = settings("--preset", "own", *WORDS, "--gate.probe", "shown")
    unseen = []
    for demonstration, source in ((success(), "expert"), (replace(failure(), near_miss=None), "policy")):
        write_demonstration(tmp_path, replace(demonstration, true_progress=None, tool_poses=None))
        unseen.append((tmp_path / demonstration.episode_id, source))
    client = LocalRewardClient(Scorer(FakeEngine()))
    run: Any = SimpleNamespace(
        config=config,
        path=tmp_path,
        console=Console(),
        pool=None,
        phase=lambda name, title, depends_on, work: work(),
        service=lambda path: ("", client),
    )
    model = RewardModel(tmp_path / "grm", "v1", REFERENCE)
    prepared: Any = SimpleNamespace(gate_episodes=unseen, behaviours=[], model=model)
    figures, verdict = gate(run, prepared)
    assert (figures.successes, figures.failures, figures.near_misses, figures.cut_off) == (1, 1, 0, 0)
    assert figures.near_miss_false_success is figures.probe_rank is figures.simulator_mae is None
    assert "no failure was a near miss: whether jams are told apart is not known" in verdict.notes
    assert figures.instruction is not None


def test_the_command_prints_a_table_and_json_and_its_status_tells(capsys: pytest.CaptureFixture[str]) -> None:
    env_check.main([MAKE])
    *table, last = capsys.readouterr().out.strip().splitlines()
    assert json.loads(last)["ok"]
    assert any("action space" in line and "bounded" in line for line in table)
    with pytest.raises(SystemExit) as ended:
        env_check.main(["tests.actors.broken_envs:Unbounded", "--kwargs", "{}"])
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["broken"] == ["action space"]


@pytest.mark.ray
@pytest.mark.long
def test_a_policy_is_trained_evaluated_and_reported_in_an_environment_of_ones_own(tmp_path: Path) -> None:
    train.main(["--out", str(tmp_path / "run"), *SHORT.split(), *WORDS])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["expert_success"]["mean"] == 1.0
    assert "straight_push_success" not in result
    assert (result["own_environment"], result["environment"], result["gate"]) == (True, MAKE, None)
    text = (tmp_path / "run" / "report.md").read_text()
    assert MAKE in text
    assert "straight push" not in text
    assert (tmp_path / "run" / "policy.mp4").stat().st_size > 1000
    assert evaluation.with_run_settings([str(tmp_path / "run" / "policy.safetensors")])[1] == "--preset"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_reward_model_is_judged_on_what_a_user_has(tmp_path: Path) -> None:
    own = [*WORDS, "--demonstrations.expert", SLOWLY, "--env.kwargs", '{"horizon": 100, "larger": 4}']
    train.main(["--out", str(tmp_path / "run"), *SHORT.split(), *WITH_MODEL.split(), *own])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    gate = result["gate"]
    assert (gate["successes"] >= 2, gate["failures"] >= 1, gate["near_misses"]) == (True, True, 0)
    assert gate["simulator_mae"] is gate["probe_rank"] is gate["near_miss_false_success"] is None
    assert result["labels"]["closed"]
    assert result["labels"]["asked"] > 0
    assert "none of them was measured here" in (tmp_path / "run" / "report.md").read_text()
