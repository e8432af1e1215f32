import re
import subprocess
import sys
from pathlib import Path

import pytest

from dopamine_rl.config import dump_toml, load_preset, preset_names
from dopamine_rl.errors import BadInput
from experiments import peg_insert as train
from experiments import sweep
from experiments.benchmarks import service
from experiments.chaos import reward_service as chaos
from experiments.commands import audit, compare, evaluate, grm_eval, grm_exploit, grm_pairs, grm_score, serve
from experiments.runtime.arguments import PRESETS, RunArguments, parse_settings
from experiments.settings import ExperimentConfig

SEEDS = (
    "seed",
    "demonstrations.first-seed",
    "evaluation.first-seed",
    "env.geometry-seed",
    "grm.seed",
    "sft.train.seed",
    "sft.lora.seed",
)
ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / "tests/fixtures/old_run"
OLD_POLICY = str(OLD / "policy.safetensors")
PLUG = ["--env.task", "PlugCharger-v1", "--env.start", "standard"]
NO_POLICY = str(ROOT / "dopamine_rl/grm/shipped/grm-mini/model.safetensors")


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_every_preset_loads_and_its_resolved_form_reads_back(name, tmp_path):
    config = load_preset(ExperimentConfig, PRESETS / f"{name}.toml")
    (tmp_path / "config.toml").write_text(dump_toml(config))
    assert load_preset(ExperimentConfig, tmp_path / "config.toml") == config


def test_overrides_and_places():
    arguments, config = parse_settings(
        RunArguments, ExperimentConfig, ["--out", "here", "--gamma", "0.9", "--env.stride", "3"], "prog", "about"
    )
    assert arguments.out == "here"
    assert (config.gamma, config.env.stride) == (0.9, 3)


def test_one_demonstration_of_the_policy_is_accepted():
    _, config = parse_settings(RunArguments, ExperimentConfig, ["--demonstrations.policy", "1"], "prog", "about")
    assert config.demonstrations.policy == 1


LEARNED = ["--env.observation", "pictures", "--encoder"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--preset", "smok"], "smoke"),
        (["--gamma", "1.5"], r"gamma = 1.5"),
        (["--demonstrations.policy", "0"], "demonstrations"),
        (["--demonstrations.policy", "2000"], "1000"),
        (["--learner.choose"], r"critic_sees_potential = false"),
        (["--learner.algorithm", "ppo", "--learner.promote", "5"], r"learner.promote = 5"),
        (["--env.stride", "0"], "stride"),
        (["--evaluation.first-seed", "1000"], "evaluation.first_seed"),
        (["--evaluation.episodes", "0"], "evaluation.episodes"),
        (["--simulation.workers", "0"], "simulation.workers"),
        (["--training.environment-steps", "-5"], "training.environment_steps"),
        (["--service.replicas", "0"], "service.replicas"),
        (["--labels.deadline-s", "nan"], "labels.deadline_s"),
        (["--fusion.alpha", "nan"], "fusion.alpha"),
        (["--learner.actor-lr", "nan"], "learner.actor_lr"),
        (["--learner.hidden", "0"], "learner.hidden"),
        (["--sft.train.learning-rate", "nan"], "sft.train.learning_rate"),
        (["--cluster.num-cpus", "1"], "cluster.num_cpus"),
        (["--name", "../x"], "name"),
        (["--env.views"], "env.views"),
        (["--env.task", "Nope-v1"], r"env\.task = 'Nope-v1': give one of PickCube-v1"),
        (["--learner.replay-gb", "0"], r"learner\.replay_gb = 0"),
        ([*LEARNED, "cnn:16"], r"encoder = 'cnn:16'.*cnn:PIXELS"),
        ([*LEARNED, "cnn", "--learner.algorithm", "ppo"], r"encoder = 'cnn'.*rlpd"),
        ([*LEARNED, "cnn:128"], r"learner\.replay_capacity = 200000.*replay_gb"),
        *(
            ([f"--{name}", seed], f"{name.replace('-', '_')} = {seed}: give 0 to 2147483647")
            for name in SEEDS
            for seed in ("-1", "2147483648", "99999999999999999999")
        ),
    ],
)
def test_bad_input_is_met_before_anything_starts(flags, named, capsys):
    with pytest.raises((BadInput, SystemExit)) as caught:
        parse_settings(RunArguments, ExperimentConfig, flags, "prog", "about")
    text = str(caught.value) + capsys.readouterr().err + capsys.readouterr().out
    assert re.search(named, text), text


@pytest.mark.parametrize("how", [["experiments/peg_insert.py"], ["-m", "experiments.peg_insert"]])
def test_help_needs_neither_ray_nor_torch(how, tmp_path):
    watcher = "import sys,atexit; atexit.register(lambda: print('LOADED', {'ray','torch'} & set(sys.modules)))"
    (tmp_path / "sitecustomize.py").write_text(watcher)
    command = [sys.executable, *how, "--help"]
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "100"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "LOADED set()" in done.stdout
    assert "--storage" in done.stdout
    assert "--training.environment-steps" in done.stdout


@pytest.mark.parametrize(
    ("main", "words", "named"),
    [
        (sweep.main, ["--seed-of-search", "2147483648"], "--seed-of-search = 2147483648: give 0 to 2147483647"),
        (train.main, ["--service.engine", "nope:Nope"], "service.engine = 'nope:Nope': there is no module 'nope'"),
        (sweep.main, ["--service.engine", "nope.a:Nope"], "service.engine = 'nope.a:Nope': there is no module"),
        (audit.main, ["nowhere"], "RUN = 'nowhere': there is no such folder"),
        (evaluate.main, [NO_POLICY], "give a policy that `dopamine train` wrote, RUN/policy.safetensors"),
        (evaluate.main, [NO_POLICY], "is a reward model's file, not a policy)"),
        (evaluate.main, [str(Path(NO_POLICY).parent)], "this is a reward model's folder: give a policy"),
        (evaluate.main, [str(OLD)], f"POLICY = '{OLD}': write {OLD}/policy.safetensors"),
        (
            evaluate.main,
            [OLD_POLICY, "--preset", "full"],
            "policy.safetensors': it reads 30 numbers and acts with 6",
        ),
        (evaluate.main, [OLD_POLICY, "--preset", "full"], "give --preset with the settings it was trained with"),
        (evaluate.main, [OLD_POLICY, *PLUG], "(PlugCharger-v1, standard start) gives 10 and takes 7"),
        (evaluate.main, ["none.safetensors"], "POLICY = 'none.safetensors': there is no such file: give a policy"),
        (evaluate.main, ["policy.pt"], "; or a policy that `dopamine train` wrote, RUN/policy.safetensors"),
        (evaluate.main, ["drop"], "POLICY = 'drop': nothing can be dropped from the insertion start"),
        (evaluate.main, ["drop"], "add --env.start standard, or give one of expert, near_miss"),
        (evaluate.main, ["near_mis"], "POLICY = 'near_mis': write near_miss; available: expert"),
        (evaluate.main, ["straight_push", *PLUG], "POLICY = 'straight_push': give one of expert, near_miss"),
        (service.main, ["--views", "9"], "--views = 9: give 1 to 3"),
        (serve.main, ["grm-mini", "--engine", "nope:Nope"], "--engine = 'nope:Nope': there is no module 'nope'"),
        (compare.main, ["--seeds", "11"], "seeds = 11: give at most 10: each takes 90 of a set's 1000 seeds"),
        (compare.main, ["nothing"], "STUDY = 'nothing': there is no such study or file: give one of"),
        (compare.main, ["nope.toml"], "STUDY = 'nope.toml': there is no such study or file: give one of one_demo"),
        (compare.main, ["seperation"], "there is no such study or file: write separation; available: one_demo"),
        (compare.main, [str(ROOT)], f"STUDY = '{ROOT}': there is no study.toml in this folder: give one of"),
        (compare.main, ["--arms", "gmr"], "--arms = 'gmr': write grm; available: sparse, grm"),
        (grm_score.main, ["raw", "--model", "grm-mini", "--fragment", "0"], "--fragment = 0: give at least 1"),
        (
            grm_score.main,
            ["raw", "--model", "grm-mini", "--deadline-s", "-1"],
            "--deadline-s = -1.0: give seconds above 0",
        ),
        (grm_score.main, ["raw", "--model", "grm-mini", "--token-file", "t"], "--token-file = 't': leave it out"),
        (grm_score.main, ["raw", "--model", "grm-mini", "--insecure"], "--insecure = 'True': leave it out"),
        (
            grm_exploit.main,
            ["nope"],
            "RUN = 'nope': give the folder of a run with a reward model: there is no config.toml",
        ),
        (grm_exploit.main, ["nope", "--episodes", "0"], "--episodes = 0: give at least 1"),
        (
            grm_exploit.main,
            [str(OLD), "--out", str(OLD)],
            "give another folder: this is a run's, which would be overwritten",
        ),
        (grm_score.main, ["raw", "--url", "foo"], "--url = 'foo': write http://HOST:PORT"),
        (grm_eval.main, ["raw", "--url", "ftp://a:1"], "--url = 'ftp://a:1': write http://HOST:PORT"),
        (grm_score.main, ["raw", "--url", "http://me:secret@a:1"], "--url = 'http://…@a': leave out user and"),
        (grm_score.main, ["raw", "--url", "https://a:1", "--ca-file", "nowhere"], "--ca-file = 'nowhere': give a PEM"),
        (grm_pairs.main, ["raw", "--seed", "2147483648"], "--seed = 2147483648: give 0 to 2147483647"),
        (chaos.main, ["--seed", "2147483648"], "--seed = 2147483648: give 0 to 2147483647"),
    ],
)
def test_every_command_refuses_at_once(main, words, named, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (1, 2)
    assert named in capsys.readouterr().err
