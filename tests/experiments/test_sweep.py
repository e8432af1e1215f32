import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from dopamine_rl.config import load_preset
from dopamine_rl.errors import BadInput
from experiments.job.capacity import bundles, concurrency
from experiments.reports.tables import aligned
from experiments.runtime.arguments import PRESETS, RunArguments, parse_settings
from experiments.settings import ExperimentConfig
from experiments.sweep import main
from experiments.sweeps.report import HEADER, cells, end_line, merit, page, progress_line, row
from experiments.sweeps.space import Choice, Range, at_point, flags, rungs, sample, space
from experiments.sweeps.trial import figures
from learner.config import LearnerConfig
from tests.experiments.test_peg_insert import ROOT, TINY, environment

CONFIG = load_preset(ExperimentConfig, PRESETS / "smoke.toml")


def test_points_follow_from_the_seed_and_begin_with_the_preset():
    points = sample(CONFIG, 9, seed=3)
    assert points == sample(CONFIG, 9, seed=3)
    assert points != sample(CONFIG, 9, seed=4)
    assert points[0] == sample(CONFIG, 1, seed=5)[0]
    assert at_point(CONFIG, points[0]) == replace(CONFIG, labels=replace(CONFIG.labels, keep_frames=False))


@pytest.mark.parametrize("seed", range(5))
def test_however_few_points_cover_each_dimension_evenly(seed):
    drawn = sample(CONFIG, 13, seed)[1:]
    for name, dimension in space(CONFIG).items():
        values = [point[name] for point in drawn]
        if isinstance(dimension, Choice):
            assert {values.count(value) for value in dimension.values} == {12 / len(dimension.values)}
        else:
            width = (dimension.high - dimension.low) / 12
            slices = sorted(int((value - dimension.low) / width) for value in values)
            assert all(dimension.low <= value <= dimension.high for value in values)
            assert max(abs(a - b) for a, b in zip(slices, range(12), strict=True)) <= 1  # Values are rounded.


def test_strides_are_multiples_of_the_recorded_one_and_the_first_and_last_value_can_be_drawn():
    assert space(CONFIG)["env.stride"] == Choice((2, 4))
    assert "learner.updates_per_step" not in space(replace(CONFIG, learner=replace(CONFIG.learner, algorithm="ppo")))
    assert (Choice((1, 2, 4)).at(0.0), Choice((1, 2, 4)).at(0.999)) == (1, 4)
    assert (Range(0.95, 0.99).at(0.0), Range(0.95, 0.99).at(0.99999)) == (0.95, 0.99)


def test_a_point_is_the_same_as_its_flags_on_the_main_jobs_command_line():
    point = sample(CONFIG, 4, seed=0)[2]
    config = at_point(CONFIG, point)
    assert config != at_point(CONFIG, sample(CONFIG, 4, seed=0)[0])
    given = ["--preset", "smoke", *flags(point).split(), "--labels.keep-frames", "False"]
    assert parse_settings(RunArguments, ExperimentConfig, given, "prog", "about")[1] == config


@pytest.mark.parametrize(
    ("budget", "iteration", "starts", "expected"),
    [(400, 100, 100, [300]), (5000, 500, 1000, [3000]), (100_000, 500, 1000, [25_000, 50_000]), (160, 100, 60, [])],
)
def test_trials_are_compared_late_and_never_in_the_last_iteration(budget, iteration, starts, expected):
    learner = replace(CONFIG.learner, steps_per_iteration=iteration, learning_starts=starts)
    training = replace(CONFIG.training, environment_steps=budget)
    assert rungs(replace(CONFIG, learner=learner, training=training)) == expected


def test_a_trial_reserves_a_place_for_every_process():
    learner = LearnerConfig(num_env_runners=2, num_cpus_per_env_runner=0.5, actor_resource="sim")
    actor = {"CPU": 0.5, "sim": 1.0}
    assert bundles(learner) == [{"CPU": 0.5, "GPU": 0.0}, actor, actor]
    assert len(bundles(replace(learner, num_env_runners=0))) == 2  # The evaluation needs one.


def test_as_many_trials_at_once_as_there_is_room_for():
    assert concurrency(CONFIG, {"CPU": 2.0}, None) == 1
    assert concurrency(CONFIG, {"CPU": 8.0}, None) == 8
    assert concurrency(CONFIG, {"CPU": 8.0}, 3) == 3
    assert concurrency(CONFIG, {"CPU": 2.0}, 3) == 1
    with pytest.raises(BadInput, match="resources"):
        concurrency(CONFIG, {"CPU": 1.0}, None)
    resource = replace(CONFIG, learner=replace(CONFIG.learner, actor_resource="sim"))
    with pytest.raises(BadInput, match="sim"):
        concurrency(resource, {"CPU": 8.0}, None)
    assert concurrency(resource, {"CPU": 8.0, "sim": 2.0}, None) == 2


def curve_point(steps, episodes, successes):
    labels = {"asked": 52, "answered": 50, "invalid": 1, "late": 1, "rejected": 0}
    return {"environment_steps": steps, "episodes": episodes, "successes": successes, "updates": 300.0, **labels}


def test_success_is_a_number_from_the_first_report_on():
    first = figures([curve_point(104, 0, 0)], labelled=40)
    assert (first["success"], first["success_episodes"], first["demonstration_frames"]) == (0.0, 0, 40)
    curve = [curve_point(500, 10, 1), curve_point(1000, 30, 11), curve_point(1500, 50, 31)]
    latest = figures(curve, labelled=40)
    assert (latest["success"], latest["success_episodes"], latest["environment_steps"]) == (1.0, 20, 1500)


POINTS = sample(CONFIG, 4, seed=0)
REPORT = figures([curve_point(208, 10, 3)], labelled=40)
ROWS = [
    row(0, POINTS[0], {**REPORT, "success_final": 0.0, "time_total_s": 12.34}),
    row(1, POINTS[1], {**REPORT, "success": 0.9}),
    row(2, POINTS[2], {}, "Traceback …\n  File x\nValueError: a | b\n\n"),
    row(3, POINTS[3], {**REPORT, "success_final": 0.5}),
]


def test_finished_trials_come_first_then_those_stopped_early_then_failed_ones():
    ordered = sorted(ROWS, key=merit, reverse=True)
    assert [r["trial"] for r in ordered] == [3, 0, 1, 2]
    assert [r["outcome"] for r in ordered] == ["finished", "finished", "stopped early", "failed"]
    assert [r["stopped_early"] for r in ordered] == [False, False, True, False]
    assert ROWS[2]["error"] == "ValueError: a | b"
    assert all(r["labels"]["closed"] for r in ROWS)
    assert not row(0, POINTS[0], {**REPORT, "late": 0})["labels"]["closed"]
    json.dumps(ROWS, allow_nan=False)


def test_the_lines_say_what_became_of_a_trial():
    assert progress_line(ROWS[1]).startswith("trial 1:    208 environment steps | success 0.90 in the last 10 episodes")
    assert "50/52, 1 invalid, 1 late" in progress_line(ROWS[1])
    assert end_line(ROWS[3]) == "trial 3 finished after 208 environment steps: success 0.50 on held-out seeds"
    assert end_line(ROWS[0]).endswith("success 0.00 on held-out seeds")
    assert "other trials were better" in end_line(ROWS[1])
    assert "ValueError" in end_line(ROWS[2])


def test_the_table_is_aligned_and_the_page_names_what_was_shared():
    lines = aligned([HEADER, *map(cells, ROWS)]).splitlines()
    assert len({line.index(text) for line, text in zip(lines[1:3], ("finished", "stopped"), strict=True)}) == 1
    assert "0.50" in lines[4]
    report = {
        "name": "n",
        "trials": sorted(ROWS, key=merit, reverse=True),
        "application": "grm-n-1",
        "model_version": "abc",
        "clone_success": 0.2,
        "seeds": {"search": 7, "training": 0, "held_out": [4000, 4005]},
        "gate_passed": False,
    }
    text = page(report)
    assert len({line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    for wanted in ("abc", "grm-n-1", "4000 to 4005", "NOT passed", "6 development episodes", flags(POINTS[3])):
        assert wanted in text
    assert "no trial did better" not in text
    assert "no trial did better" in page({**report, "clone_success": 0.5})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--trials", "0"], "--trials"),
        (["--concurrent", "0"], "--concurrent"),
        (["--seed-of-search", "-1"], "--seed-of-search"),
        (["--reward", "sparse"], "reward"),
        (["--preset", "smok"], "smoke"),
    ],
)
def test_bad_input_is_met_before_anything_starts(given, named, capsys):
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("how", [["experiments/sweep.py"], ["-m", "experiments.sweep"]])
def test_help_needs_neither_ray_nor_torch(how, tmp_path):
    watcher = "import sys,atexit; atexit.register(lambda: print('LOADED', {'ray','torch'} & set(sys.modules)))"
    (tmp_path / "sitecustomize.py").write_text(watcher)
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "COLUMNS": "100"}
    command = [sys.executable, *how, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "LOADED set()" in done.stdout
    for flag in ("--trials", "--concurrent", "--seed-of-search", "--storage", "--learner.updates-per-step"):
        assert flag in done.stdout


@pytest.mark.ray
@pytest.mark.render
@pytest.mark.slow
@pytest.mark.long
def test_two_trials_share_a_service_and_the_loss_of_one_does_not_end_the_sweep(tmp_path):
    out = tmp_path / "sweep"
    command = [sys.executable, str(ROOT / "experiments" / "sweep.py"), "--out", str(out), "--trials", "2", *TINY]
    command += ["--learner.steps-per-iteration", "40"]
    killed = []
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if not killed and re.search(r"trial 0: .*environment steps \|", line):
                killed += kill_trial(process.pid)
        assert process.wait(timeout=60) == 0, "".join(lines[-60:])
    assert killed, "".join(lines)
    report = json.loads((out / "sweep.json").read_text())
    finished, failed = report["trials"]
    assert (finished["trial"], finished["outcome"]) == (1, "finished")
    assert 0.0 <= finished["success_final"] <= 1.0
    assert finished["environment_steps"] >= 160
    assert (failed["trial"], failed["outcome"]) == (0, "failed")
    assert failed["error"]
    for trial in report["trials"]:
        assert trial["labels"]["closed"]
        assert trial["labels"]["answered"] > 0
        assert trial["demonstration_frames"] > 0
    assert "".join(lines).count("Reward service:") == 1
    last = json.loads(lines[-1])
    assert (last["trials"], last["best"]) == (2, finished)
    page = (out / "sweep.md").read_text()
    assert report["application"] in page
    assert report["model_version"] in page


def kill_trial(driver):
    """Tune calls the process of any function that; no other is among the driver's."""
    trials = [p for p in psutil.Process(driver).children(recursive=True) if "ImplicitFunc" in " ".join(p.cmdline())]
    for process in trials[:1]:
        process.send_signal(signal.SIGKILL)
    return trials[:1]
