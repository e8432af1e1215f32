"""Studies: their files, their results, their pages, and one study for real."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.learning_curves import LearningCurve
from experiments.commands import compare
from experiments.comparison import contribution
from experiments.comparison import unit as units
from experiments.comparison.page import markdown, plot
from experiments.comparison.results import UnitResult, read_result, summarise, write_result
from experiments.comparison.study import STUDIES, load_study, study_names
from experiments.comparison.unit import gate_key, shared_config, shared_key
from experiments.job import phases
from experiments.job.plans import SETS, largest_set, scripted_plans
from experiments.job.run import Run
from experiments.runtime.console import Console
from experiments.runtime.storage import RunFolder

TEXT = """
about = "A question."
preset = "smoke"
seeds = [0, 1]
baseline = "sparse"
[curve]
every = 200
episodes = 4
[settings]
env.lateral_m = 0.03
cluster.num_cpus = 3
[arms.sparse]
reward = "sparse"
[arms.fine]
reward = "oracle"
oracle_target = "keyframes"
env.stride = 1
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.toml").write_text(TEXT)
    return load_study(str(tmp_path / "mine"))


def test_an_arm_has_the_settings_of_preset_study_and_its_own(study):
    units = {unit.name: unit for unit in study.units()}
    assert list(units) == ["sparse-0", "fine-0", "sparse-1", "fine-1"]
    fine = units["fine-1"].config
    assert (fine.reward, fine.oracle_target, fine.env.stride, fine.env.lateral_m) == ("oracle", "keyframes", 1, 0.03)
    assert units["sparse-0"].config.env.stride == study.stride == 2
    assert "cluster.num_cpus" not in units["fine-1"].settings  # where it runs does not matter
    assert units["fine-1"].settings["env.lateral_m"] == 0.03


@pytest.mark.parametrize("behaviours", [0, 20])  # four kinds of each: more than any other set has episodes
def test_no_two_seeds_share_an_episode(study, tmp_path, behaviours):
    more = TEXT.replace("[settings]", f"[settings]\ndemonstrations.gate_behaviours = {behaviours}")
    (tmp_path / "mine" / "study.toml").write_text(more)
    study = load_study(str(tmp_path / "mine"))
    configs = [unit.config for unit in study.units(["fine"], range(5))]
    plans = [plan for config in configs for plan in scripted_plans(config, tmp_path).values()]
    acted = [seed for plan in plans for seed in plan.seeds]
    assert len(acted) == len(set(acted))
    assert len({config.seed for config in configs}) == 5
    size = largest_set(configs[0])
    seen = [
        config.demonstrations.first_seed + 1000 * k + i
        for config in configs
        for k in range(len(SETS))
        for i in range(size)
    ]
    assert len(seen) == len(set(seen))
    assert not set(seen) & set(study.curve.seeds)
    with pytest.raises(BadInput, match="seeds"):
        list(study.units(seeds=[1000]))


def test_arms_share_what_is_equal(study):
    sparse, fine = (unit.config for unit in study.units(seeds=[0]))
    assert shared_key(shared_config(sparse, 2)) == shared_key(shared_config(fine, 2))
    model = replace(sparse, reward="grm")
    other = replace(model, sft=replace(model.sft, target="geometric"))
    keys = {shared_key(shared_config(config, 2)) for config in (sparse, model, other, replace(sparse, seed=1))}
    assert len(keys) == 4
    faster = replace(model, learner=replace(model.learner, updates_per_step=9.0), potential_scale=0.0)
    assert shared_key(shared_config(faster, 2)) == shared_key(shared_config(model, 2))


def test_arms_that_fuse_otherwise_share_the_model_and_have_gates_of_their_own(study, tmp_path, monkeypatch):
    """Also arms that are judged by other bounds; an arm that fuses alike has the same gate."""
    model = replace(next(study.units(seeds=[0])).config, reward="grm")
    forward = replace(model, fusion=replace(model.fusion, kind="forward"))
    strict = replace(model, gate=replace(model.gate, voc_plus=0.99))
    configs = [shared_config(config, 2) for config in (model, forward, strict, replace(model, potential_scale=0.0))]
    assert len({shared_key(config) for config in configs}) == 1
    assert [gate_key(config) == gate_key(model) for config in configs] == [True, False, False, True]
    judged = []

    def gate(run, prepared):
        judged.append(run.path)
        return run.config.fusion, SimpleNamespace(passed=run.config.gate.voc_plus < 0.99)

    prepared = SimpleNamespace(model=SimpleNamespace(version="v1"), cloned=SimpleNamespace(version="c"))
    monkeypatch.setattr(phases, "prepare", lambda run: prepared)
    monkeypatch.setattr("experiments.job.gate.gate", gate)
    monkeypatch.setattr(phases, "policies", lambda run, prepared: {"bc": None})
    monkeypatch.setattr(phases, "outcomes_of", lambda run, specs, seeds: [[True] * len(seeds)])
    run = Run(configs[0], RunFolder(tmp_path), Console(), pool=SimpleNamespace())
    shared = units.prepare_shared(run, study.curve, configs)
    assert len(set(judged)) == len(judged) == 3  # none overwrites what another stored
    assert [shared.gate(config)["kind"] for config in configs] == ["mean", "forward", "mean", "mean"]
    assert [shared.gate(config)["passed"] for config in configs] == [True, True, False, True]
    prepared.model = None
    assert units.prepare_shared(run, study.curve, configs).gate(model) is None


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('baseline = "sparse"', 'baseline = "spares"', "baseline = 'spares': name an arm: write sparse; available:"),
        ("every = 200", "every = 0", "study.toml: curve.every = 0"),
        ("every = 200", "evry = 200", "study.toml: curve.evry = 200: write every"),
        ("env.stride = 1", "env.strid = 1", "study.toml: arms.fine.env.strid = 1: write env.stride"),
        ("env.stride = 1", "env.stride = 0", "study.toml: arms.fine.env.stride = 0"),
        ("env.stride = 1", "env = 1", "arms.fine.env = 1: write a section: a line [arms.fine.env] with its keys"),
        ('reward = "oracle"', 'reward = "orakel"', "reward = 'orakel': give one of grm, sparse"),
        ('reward = "sparse"', 'reward = "spare"', "arms.sparse.reward = 'spare': write sparse; available: grm"),
        ('preset = "smoke"', 'preset = "smok"', "preset = 'smok': write smoke; available: full"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds = [0, 0]"),
        ("seeds = [0, 1]", 'seeds = "0"', "seeds = '0': write a list"),
        ("[arms.fine]", "[arms.'f/../x']", "arms.f/../x"),
        ("[curve]", "[curves]", "curves = {'every': 200, 'episodes': 4}: write curve"),
        (
            "seeds =",
            "env.stride = 1\nseeds =",
            "env = {'stride': 1}: write settings.env, for all arms, or arms.",
        ),
        ("about =", "about", "give a readable TOML file"),
        ("[settings]", "[settings]\nseed = 4", "settings.seed = 4: remove it"),
        ("env.lateral_m = 0.03", "env.lateral_m = 3.0", "study.toml: settings.env.lateral_m = 3.0: choose 0 to"),
        ("env.lateral_m = 0.03", "lateral_m = 0.03", "study.toml: settings.lateral_m = 0.03: write env.lateral_m"),
        ("env.lateral_m = 0.03", "env = 'x'", "settings.env = 'x': write a section: a line [settings.env] with"),
        ('reward = "oracle"', 'reward = "oracle"\nname = "x"', "arms.fine.name = 'x': remove it"),
    ],
)
def test_a_bad_study_file_is_refused_with_field_and_fix(tmp_path, capsys, before, after, named):
    (tmp_path / "study.toml").write_text(TEXT.replace(before, after, 1))
    with pytest.raises(SystemExit) as ended:
        compare.main([str(tmp_path / "study.toml"), "--out", str(tmp_path / "out")])
    assert ended.value.code in (1, 2)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert named in line
    assert "study.toml" in line


@pytest.mark.parametrize(("first", "used"), [(50_001, "50000 to 500"), (9998, "1000 to 10999")])
def test_a_curve_on_seeds_used_elsewhere_is_refused(study, first, used):
    taken = replace(study, curve=replace(study.curve, first_seed=first))
    with pytest.raises(BadInput, match=rf"curve.first_seed = {first}: choose other seeds than {used}"):
        next(taken.units())


def test_settings_of_all_arms_may_need_an_arm_s_own(tmp_path):
    """`choose` alone is refused where critics see the potential; every arm says that they do not."""
    text = TEXT.replace("[settings]", "[settings]\nlearner.choose = true", 1)
    apart = text.replace("]\nreward", "]\nlearner.critic_sees_potential = false\nreward")
    (tmp_path / "study.toml").write_text(apart)
    study = load_study(str(tmp_path))
    assert [unit.config.learner.choose for unit in study.units(seeds=[0])] == [True, True]
    assert study.stride == 2
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(BadInput, match=r"settings\.learner\.choose|settings\.learner\.critic"):
        list(load_study(str(tmp_path)).units())


@pytest.mark.parametrize("name", study_names())
def test_studies_that_ship_are_whole(name):
    study = load_study(name)
    units = list(study.units())
    assert units
    for unit in units:
        read_result(STUDIES / name, study, unit)  # raises where the study file was changed since


def result(rates, final="0101", gate=None):
    points = [{"environment_steps": 200 * i, "outcomes": "1" * rate + "0" * (4 - rate)} for i, rate in enumerate(rates)]
    return {"curve": points, "final": final, "gate": gate, "seconds": 1.5}


def test_a_result_is_read_back_and_known_by_its_settings(study, tmp_path):
    unit = next(study.units(["fine"]))
    assert read_result(tmp_path, study, unit) is None
    path = write_result(tmp_path, study, unit, result([1, 2, 4]))
    stored = read_result(tmp_path, study, unit)
    assert stored.curve.success.tolist() == [0.25, 0.5, 1.0]
    assert stored.final == (False, True, False, True)
    changed = replace(unit, config=replace(unit.config, env=replace(unit.config.env, stride=2)))
    with pytest.raises(BadInput, match=r"env.stride 1, now 2.*delete it"):
        read_result(tmp_path, study, changed)
    before = json.loads(path.read_text())
    assert before["settings"].pop("learner.promote") == 0
    path.write_text(json.dumps(before))
    assert read_result(tmp_path, study, unit)  # a setting that came later has its default
    before["settings"]["learner.batch_size"] = 64  # of the preset, which the study file does not name
    path.write_text(json.dumps(before))
    with pytest.raises(BadInput, match=r"learner.batch_size 64, now 256"):
        read_result(tmp_path, study, unit)
    path.write_text(path.read_text()[:50])
    with pytest.raises(BadInput, match="delete it to run the unit again"):
        read_result(tmp_path, study, unit)


@pytest.mark.parametrize(
    ("learned", "sparse", "told"),
    [
        ([0, 4, 4], [0, 0, 0], "The learned reward makes the policy learn faster"),
        ([0, 0, 0], [0, 4, 4], "The learned reward makes the policy learn more slowly"),
        ([0, 2, 2], [0, 2, 2], "No difference in the speed of learning was found"),
    ],
)
def test_what_the_reward_contributes_is_said_in_words(tmp_path, monkeypatch, learned, sparse, told):
    text = TEXT.replace("[arms.fine]", '[arms.grm]\nreward = "grm"\n[arms.fine]')
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "study.toml").write_text(text)
    study = load_study(str(tmp_path / "rewards"))
    monkeypatch.setattr(contribution, "load_study", lambda name: study)
    assert "There are none for preset `smoke`" in contribution.contribution("smoke")
    for unit in study.units(["sparse", "grm"], [1]):
        write_result(tmp_path / "rewards", study, unit, result(learned if unit.arm == "grm" else sparse))
    words = contribution.contribution("smoke")
    assert told in words
    assert "on 1 seed" in words
    assert "There are none for preset `laptop`" in contribution.contribution("laptop")
    study = load_study(str(_with(tmp_path, text.replace("env.lateral_m = 0.03", "env.lateral_m = 0.02"))))
    assert "There are none for preset `smoke`" in contribution.contribution("smoke")  # made with other settings


def _with(folder, text):
    path = folder / "rewards" / "study.toml"
    path.write_text(text)
    return path


def test_the_report_has_every_arm_and_seed(study, tmp_path):
    for unit in study.units():
        if unit.name != "fine-1":
            rates = [1, 1, 1] if unit.arm == "sparse" else [1, 3, 3]
            write_result(tmp_path, study, unit, result(rates, gate={"passed": False} if unit.arm == "fine" else None))
    results = [found for unit in study.units() if (found := read_result(tmp_path, study, unit))]
    table = summarise(results, list(study.arms), study.baseline)
    fine = table["fine"]
    assert fine["area_minus_baseline"]["seeds"] == [0]
    assert fine["area_minus_baseline"]["value"] == pytest.approx(0.375)
    assert fine["steps_ratio_0.5"] == {"value": 0.5, "at_most": True}
    assert table["sparse"]["steps_to_0.5"] == [None, None]
    page = markdown(study, table, ["fine-1"])
    assert "Not complete" in page
    assert "at most 0.50" in page
    assert "| failed |" in page
    plot(tmp_path / "curves.png", results, list(study.arms))
    assert (tmp_path / "curves.png").stat().st_size > 1000
    json.dumps(table, allow_nan=False)


def test_areas_are_taken_up_to_the_shortest_budget(study):
    long = replace(study, curve=study.curve)
    results = []
    for arm, rates in (("sparse", [0, 0, 0, 0, 0]), ("fine", [0, 4, 4])):
        curve = result(rates)["curve"]
        outcomes = np.array([[d == "1" for d in point["outcomes"]] for point in curve])
        steps = tuple(point["environment_steps"] for point in curve)
        results.append(UnitResult(arm, 0, LearningCurve(steps, outcomes), (True,), None, 1.0))
    table = summarise(results, list(long.arms), "sparse")
    assert table["sparse"]["budget"] == table["fine"]["budget"] == 400
    assert table["fine"]["area"]["value"] == pytest.approx(0.75)


def test_practice_is_counted_beside_the_figures_without_it():
    results = []
    for arm, rates, practice in (("sparse", [0, 0, 4, 4, 4], 0), ("grm", [0, 4, 4], 200)):
        steps = tuple(200 * i for i in range(len(rates)))
        outcomes = np.array([[i < rate for i in range(4)] for rate in rates])
        results.append(UnitResult(arm, 0, LearningCurve(steps, outcomes), (True,), None, 1.0, practice))
    table = summarise(results, ["sparse", "grm"], "sparse")
    assert "with_practice" not in table["sparse"]
    assert table["grm"]["practice_steps"] == 200
    assert table["grm"]["area_minus_baseline"]["value"] == pytest.approx(0.75 - 0.25)
    assert table["grm"]["steps_ratio_0.5"]["value"] == 0.5
    counted = table["grm"]["with_practice"]
    assert counted["area_minus_baseline"]["value"] == pytest.approx(0.0)
    assert counted["steps_ratio_0.5"]["value"] == 1.0
    page = markdown(load_study("one_demonstration"), table, [])
    assert "with the 200 environment steps of its practice counted" in page


def test_the_steps_of_practice_are_those_that_the_reward_model_saw(tmp_path):
    study = load_study("one_demonstration")
    units = {unit.arm: unit for unit in study.units(["grm", "sparse", "simulator", "unpractised"]) if unit.seed == 5}
    for unit in units.values():
        write_result(tmp_path, study, unit, result([1, 2, 4]))
    counts = {arm: read_result(tmp_path, study, unit).practice_steps for arm, unit in units.items()}
    assert counts == {"grm": 2160, "sparse": 0, "simulator": 0, "unpractised": 0}


REAL = """
about = "Tiny."
preset = "smoke"
seeds = [0]
[curve]
every = 100
episodes = 2
[settings]
training.environment_steps = 200
learner.critic_warmup_updates = 20
evaluation.episodes = 2
cloning.trials = 2
cloning.widths = [32]
cloning.updates = 50
cluster.num_cpus = 3
demonstrations.reward_model = 2
demonstrations.reward_model_failures = 0
demonstrations.gate_successes = 1
demonstrations.gate_failures = 1
demonstrations.gate_rollouts = 0
demonstrations.policy = 3
sft.train.updates = 3
[arms.sparse]
reward = "sparse"
[arms.fine]
reward = "oracle"
oracle_target = "keyframes"
env.stride = 1
[arms.grm]
reward = "grm"
"""


@pytest.mark.ray
@pytest.mark.render
@pytest.mark.slow
@pytest.mark.long
def test_a_study_runs_and_what_is_done_is_not_done_again(tmp_path, capsys):
    (tmp_path / "study.toml").write_text(REAL)
    command = [str(tmp_path / "study.toml"), "--storage", str(tmp_path / "runs"), "--concurrent", "2"]
    compare.main(command)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["missing"] == []
    assert set(summary["arms"]) == {"sparse", "fine", "grm"}
    stored = json.loads((tmp_path / "results" / "grm-0.json").read_text())
    assert stored["curve"][0]["environment_steps"] == 0
    assert stored["curve"][-1]["environment_steps"] == stored["environment_steps"] >= 200
    assert {len(point["outcomes"]) for point in stored["curve"]} == {2}
    assert stored["labels"]["closed"]
    assert stored["labels"]["asked"] > 0
    assert stored["gate"]["passed"] is False
    assert stored["provenance"]["seed"] == 0
    assert (tmp_path / "report.md").read_text().count("| fine |")
    shutil.rmtree(tmp_path / "runs")
    before = (tmp_path / "results" / "grm-0.json").stat().st_mtime_ns
    compare.main(command)
    assert (tmp_path / "results" / "grm-0.json").stat().st_mtime_ns == before
