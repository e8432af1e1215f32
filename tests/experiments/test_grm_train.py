"""`dopamine grm train`: what is held out, how it goes on, and that ten kills change no bit of the result."""

from __future__ import annotations

import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dopamine_rl.config import dump_toml, load_preset, preset_names
from dopamine_rl.episodes.listing import passed_over
from dopamine_rl.episodes.stored import list_stored
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.checkpoint import load_grm, model_version, save_grm
from dopamine_rl.grm.fit import CURVE, STATE
from dopamine_rl.grm.model import build_grm
from experiments.commands import convert, grm_adapt, grm_train
from experiments.commands import grm_pairs as pairs
from experiments.commands.grm_train import main, parse
from experiments.job.reward_model import PRESETS, GRMTrainingConfig, _check_replaceable, run, split
from experiments.runtime.ending import UsageError
from experiments.runtime.storage import only_writer
from tests.dopamine_rl.grm_toys import TINY, record_squares
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--local",
    "--held-out",
    "1",
    *[word for name, value in TINY.__dict__.items() for word in (f"--grm.{name.replace('_', '-')}", str(value))],
    *shlex.split("--sft.threads 1 --sft.train.budget-s 0 --sft.train.plan.episodes 1 --sft.train.plan.run-length 2"),
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_squares(tmp_path_factory.mktemp("raw"), 4, 2)


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_every_preset_loads_and_its_resolved_form_reads_back(name: str, tmp_path: Path) -> None:
    config = load_preset(GRMTrainingConfig, PRESETS / f"{name}.toml")
    (tmp_path / "config.toml").write_text(dump_toml(config))
    assert load_preset(GRMTrainingConfig, tmp_path / "config.toml") == config


def test_the_last_of_each_kind_and_task_are_held_out(raw: Path, tmp_path: Path) -> None:
    other = record_squares(tmp_path, 2, 0, task="push the other block")
    stored = [*list_stored(raw), *list_stored(other)]
    training, unseen = split(stored, 1)
    assert [episode.info.episode_id[-3:] for episode in unseen] == ["003", "005", "001"]
    assert len(training) + len(unseen) == 8
    assert split(stored, 0) == (stored, [])
    with pytest.raises(BadInput, match=r"--held-out = 2: give at most 1, .* 'push the other block'"):
        split(stored, 2)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["raw"], "--out"),
        (["--out", "m"], "DATA"),
        (["raw", "--out", "m", "--held-out", "-1"], "--held-out"),
        (["raw", "--out", "m", "--preset", "lapto"], "laptop"),
        (["raw", "--out", "m", "--sft.train.loss", "tokens"], "binned"),
        (["raw", "--out", "m", "--sft.train.updates", "0", "--sft.train.budget-s", "0"], "sft.train.updates = 0"),
    ],
)
def test_bad_input_is_named(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((BadInput, SystemExit)) as caught:
        parse(words)
    assert named in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize("shots", ["0", "-1"])
def test_an_adaptation_needs_a_demonstration(shots: str) -> None:
    with pytest.raises(UsageError, match=f"--shots = {shots}: give at least 1"):
        grm_adapt.parse(["raw", "--out", "m", "--shots", shots])


def test_nothing_but_a_model_is_replaced(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "grm.json").write_text("{}")
    (tmp_path / "mixed").mkdir()
    for name in ("grm.json", "model.safetensors", "my notes.txt"):
        (tmp_path / "mixed" / name).write_text("{}")
    with pytest.raises(BadInput, match=r"my notes\.txt"):
        parse([str(raw), "--out", str(tmp_path / "mixed")])
    for out in (raw, raw / "grm", raw.parent, tmp_path / "thesis", tmp_path / "thesis" / "thesis.tex"):
        with pytest.raises(BadInput, match="--out"):
            parse([str(raw), "--out", str(out)])
    for out in ("new", "empty", "model"):
        parse([str(raw), "--out", str(tmp_path / out)])


def test_paths_are_checked_before_anything_heavy_is_imported(raw: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "file", str(tmp_path / "out")
    file.touch()
    cases = {
        "--out = '/proc/x': give a writable folder": [raw, "--out", "/proc/x"],
        f"--out = '{file}': this is a file: give a folder": [raw, "--out", file],
        f"--out = '{file}/below': {file} is a file": [raw, "--out", f"{file}/below"],
        "DATA = 'nowhere': there is no such folder": ["nowhere", "--out", out],
        f"DATA = '{file}': this is a file": [file, "--out", out],
        "--start-from = 'nowhere/': it is not a folder": [raw, "--out", out, "--start-from", "nowhere/"],
        f"--start-from = '{raw}': it is not a model's folder": [raw, "--out", out, "--start-from", raw],
    }
    lines = [list(map(str, words)) for words in cases.values()]
    for command in (grm_train, grm_adapt):
        for told, words in zip(cases, lines, strict=True):
            with pytest.raises(BadInput) as raised:
                command.parse(words)
            assert told in str(raised.value)
    program = (
        "import contextlib, json, sys\n"
        "from experiments.commands.grm_adapt import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    with contextlib.suppress(SystemExit): main(words)\n"
        "assert 'torch' not in sys.modules\n"
    )
    command_line = [sys.executable, "-c", program, json.dumps(lines)]
    errors = subprocess.run(command_line, capture_output=True, text=True, check=True).stderr.splitlines()
    assert [told in error for told, error in zip(cases, errors, strict=True)] == [True] * len(cases), errors
    assert not (tmp_path / "out").exists()


def test_every_file_of_a_model_is_known_as_one(tmp_path: Path) -> None:
    save_grm(build_grm(TINY), tmp_path / "model", {})
    (tmp_path / "model" / CURVE).write_text("")
    _check_replaceable(tmp_path / "model", [])


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
@pytest.mark.parametrize("name", ["thesis.tex", "settings.json/x", "settings.json", "model.tex"])
def test_a_folder_that_is_called_like_the_trainings_is_not_removed(
    raw: Path, tmp_path: Path, fresh: list[str], name: str
) -> None:
    precious = tmp_path / "grm.train" / name
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with pytest.raises(BadInput, match=r"grm\.train"):
        run(*parse([str(raw), "--out", str(tmp_path / "grm"), *SMALL, *fresh]))
    assert precious.read_text() == "precious"


def test_another_training_is_not_gone_on_with(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grm"
    command = [str(raw), "--out", str(out), *SMALL, "--sft.train.updates", "4", "--sft.checkpoint-updates", "2"]
    figures = run(*parse(command))
    assert figures is not None
    assert figures["version"] == model_version(out)
    assert not out.with_name("grm.train").exists()
    curve = (out / CURVE).read_text()
    rows = [json.loads(line) for line in curve.splitlines()]
    assert [row["update"] for row in rows] == [2, 4]
    assert rows[-1]["voc_plus"] == figures["voc_plus"]
    said = capsys.readouterr().out
    assert "update 2, held out: voc_plus" in said

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dopamine_rl.grm.fit.save_grm", interrupt)
        with pytest.raises(Interrupted):
            run(*parse(command))
    assert (out.with_name("grm.train") / STATE).exists()
    with pytest.raises(BadInput, match=r"sft\.train\.learning_rate.*0\.0015.*--fresh"):
        run(*parse([*command, "--sft.train.learning-rate", "0.01"]))
    again = run(*parse(command))
    assert again is not None
    assert again["version"] == figures["version"]
    assert (out / CURVE).read_text() == curve
    assert run(*parse([*command, "--fresh", "--start-from", str(out)])) is not None


def test_a_failure_of_unknown_progress_is_left_out_by_name(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(raw, tmp_path / "raw")
    failed = next(stored.info.episode_id for stored in list_stored(folder) if not stored.info.success)
    np.savez(folder / failed / "transitions.npz", success=False)
    figures = run(
        *parse([str(folder), "--out", str(tmp_path / "grm"), *SMALL, "--sft.train.updates", "1", "--held-out", "1"])
    )
    assert figures is not None
    said = [line for line in capsys.readouterr().out.splitlines() if "skipping failures" in line]
    assert len(said) == 1
    assert failed in said[0]
    with pytest.raises(BadInput, match="each folder once"):
        parse([str(raw), str(raw), "--out", str(tmp_path / "grm")])


def test_a_success_that_pauses_is_left_out_by_name(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(raw, tmp_path / "raw")
    paused = [stored.info.episode_id for stored in list_stored(folder) if stored.info.success][-1]
    keyframes = folder / paused / "annotated_keyframes.json"
    [segment, *others] = json.loads(keyframes.read_text())
    keyframes.write_text(json.dumps([{**segment, "anotation": "pause"}, *others]))
    words = [str(folder), "--out", str(tmp_path / "grm"), *SMALL, "--sft.train.updates", "1", "--held-out", "1"]
    assert run(*parse(words)) is not None
    said = capsys.readouterr().out
    assert f"skipping successes that pause or retreat: {paused}" in said


def test_every_task_is_judged_by_its_own_demonstration(raw: Path, tmp_path: Path) -> None:
    other = record_squares(tmp_path / "other", 2, 0, task="push the other block")
    words = [str(raw), str(other), "--out", str(tmp_path / "grm"), *SMALL, "--sft.train.updates", "1"]
    figures = run(*parse(words))
    card = json.loads((tmp_path / "grm" / "grm.json").read_text())["card"]
    assert set(card["held_out_tasks"]) == {"push the block", "push the other block"}
    assert {"push the block", "push the other block"} <= set(card["instructions"])
    assert figures is not None
    assert figures["mae"] == pytest.approx(sum(task["mae"] for task in card["held_out_tasks"].values()) / 2)
    assert "auc" in card["held_out_tasks"]["push the block"]
    assert "auc" not in figures  # one of the tasks has no failures


def test_the_words_of_other_tasks_come_from_the_card_of_the_model_to_start_from(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = record_squares(tmp_path / "other", 2, 0, task="push the other block")
    run(*parse([str(other), "--out", str(tmp_path / "start"), *SMALL, "--sft.train.updates", "1"]))
    words = [*SMALL, "--sft.train.updates", "1", "--sft.train.plan.mismatched", "0.5"]
    start = ["--start-from", str(tmp_path / "start")]
    run(*parse([str(raw), "--out", str(tmp_path / "grm"), *start, *words]))
    assert "instructions of other tasks, besides those of DATA: push the other block" in capsys.readouterr().out
    plan = json.loads((tmp_path / "grm" / "grm.json").read_text())["card"]["training"]["plan"]
    assert plan["other_instructions"] == ["push the other block"]
    for refused in ([str(other), *start], [str(raw)]):  # the model's own task; a new model knows none
        with pytest.raises(BadInput, match=r"plan\.other_instructions"):
            run(*parse([*refused, "--out", str(tmp_path / "none"), *words]))


def test_with_shots_only_the_first_successes_are_trained_on(raw: Path) -> None:
    stored = list_stored(raw)
    training, unseen = split(stored, held_out=1, shots=1)
    successes = [episode.info.episode_id for episode in stored if episode.info.success]
    failures = [episode.info.episode_id for episode in stored if not episode.info.success]
    assert [episode.info.episode_id for episode in training] == successes[:1]
    assert [episode.info.episode_id for episode in unseen] == [successes[1], failures[0]]
    with pytest.raises(BadInput, match="--shots"):
        split(stored, held_out=0, shots=len(successes) + 1)
    training, unseen = split(stored, held_out=1, shots=1, failures=True)
    assert {episode.info.episode_id for episode in training} == {successes[0], *failures}
    assert [episode.info.episode_id for episode in unseen] == [successes[1]]


def test_the_trainer_needs_torch_and_transformers_alone_and_the_command_neither_ray_nor_a_simulator(
    raw: Path, tmp_path: Path
) -> None:
    """One process, as most of its time goes into importing torch; what the command needs besides is released then."""
    code = """
import json, sys
HEAVY, BESIDES = ["ray", "gymnasium", "mani_skill", "scipy", "msgpack"], ["av", "tyro", "pyarrow", "h5py"]
for name in HEAVY + BESIDES:
    sys.modules[name] = None
import numpy as np
from dopamine_rl.grm.batches import in_memory
from dopamine_rl.grm.config import BatchPlan, GRMConfig, TrainConfig
from dopamine_rl.grm.labels import LabelledEpisode
from dopamine_rl.grm.model import build_grm
from dopamine_rl.grm.train import Trainer, train
frames = np.random.default_rng(0).integers(0, 256, (8, 1, 56, 56, 3), dtype=np.uint8)
episode = LabelledEpisode(("push",), frames, np.linspace(0, 1, 8, dtype=np.float32), np.arange(8))
config = TrainConfig(updates=1, plan=BatchPlan(episodes=1, runs=1))
grm = build_grm(GRMConfig(image_size=56, patch=14, vision_width=32, vision_depth=1, text_width=32, text_depth=1))
print("alone:", train(Trainer(grm, in_memory([episode], config), config)).update)
for name in BESIDES:
    del sys.modules[name]
from experiments.cli import main
main(sys.argv[1:])
"""
    words = ["grm", "train", str(raw), "--out", str(tmp_path / "grm"), *SMALL, "--sft.train.updates", "2"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == "alone: 1"
    assert json.loads(last)["update"] == 2


@pytest.mark.slow
@pytest.mark.long
def test_ten_kills_change_no_bit_of_the_weights(raw: Path, tmp_path: Path) -> None:
    """SIGKILL within the update after a random one, and one Ctrl-C; the same command goes on each time."""
    updates = 80

    def command(name: str) -> list[str]:
        words = [str(raw), "--out", str(tmp_path / name), *SMALL, "--sft.memory-mb", "0"]
        words += ["--sft.train.updates", str(updates), "--sft.checkpoint-updates", "3"]
        return [sys.executable, "-m", "experiments.cli", "grm", "train", *words]

    state = tmp_path / "broken.train" / STATE

    def reached() -> int:
        return int(torch.load(state, weights_only=True)["counters"][0]) if state.exists() else 0

    rng = random.Random(0)
    for strike, wanted in enumerate(sorted(rng.sample(range(1, updates - 10), 10))):
        blow = signal.SIGINT if strike == 5 else signal.SIGKILL
        with subprocess.Popen(command("broken"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            wait_until(lambda n=wanted, p=process: reached() >= n or p.poll() is not None, 300.0)  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 0.05))  # A moment somewhere in the update.
            process.send_signal(blow)
            output, _ = process.communicate(timeout=60)
            assert process.returncode == (130 if blow is signal.SIGINT else -9), output.decode()
        assert not (tmp_path / "broken").exists()
    for name in ("broken", "unbroken"):
        subprocess.run(command(name), cwd=ROOT, check=True, capture_output=True)
    broken, unbroken = (load_grm(tmp_path / name) for name in ("broken", "unbroken"))
    assert broken.model_version == unbroken.model_version
    for name, weight in unbroken.model.state_dict().items():
        assert torch.equal(weight, broken.model.state_dict()[name]), name


def test_errors_end_the_command_with_their_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "data"), "--out", str(tmp_path / "grm")])
    assert ended.value.code == 1
    assert "LeRobotDataset" in capsys.readouterr().err


def test_a_short_episode_loses_a_figure_and_not_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = record_squares(tmp_path / "raw", 3, 2)
    words = [str(raw), "--out", str(tmp_path / "grm"), *SMALL, "--sft.train.updates", "1", "--sft.stride", "3"]
    figures = run(*parse(words))
    assert figures is not None
    assert load_grm(tmp_path / "grm").model_version == figures["version"]
    assert {"mae", "end", "auc"} <= set(figures)
    assert not {"voc_plus", "voc_minus"} & (set(figures) | set(figures["demonstration"]))
    said = [line for line in capsys.readouterr().out.splitlines() if "VOC" in line]
    assert len(said) == 1
    assert "fewer than 8" in said[0]
    assert "episode_000" in said[0]


def test_a_judge_that_fails_loses_the_figures_and_not_the_model(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA out of memory\nwith advice")

    monkeypatch.setattr("dopamine_rl.grm.fit.evaluate", broken)
    words = [str(raw), "--out", str(tmp_path / "grm"), *SMALL]
    figures = run(*parse([*words, "--sft.train.updates", "2", "--sft.checkpoint-updates", "1"]))
    assert figures is not None
    assert load_grm(tmp_path / "grm").model_version == figures["version"]
    assert "mae" not in figures
    assert "the held-out figures could not be computed: CUDA out of memory" in capsys.readouterr().out


def test_a_state_that_cannot_be_saved_does_not_end_the_training(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    words = [str(raw), "--out", str(tmp_path / "grm"), *SMALL]
    assert run(*parse([*words, "--sft.train.updates", "3", "--sft.checkpoint-updates", "2"])) is not None
    assert load_grm(tmp_path / "grm").model_version
    assert "the training state of update 2 could not be saved" in capsys.readouterr().out


def test_what_is_judged_last_is_not_trained_again(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it is judged, a training has lost no update, though no checkpoint was due."""

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    words = [str(raw), "--out", str(tmp_path / "grm"), *SMALL, "--sft.train.updates", "3"]
    with monkeypatch.context() as patch:
        patch.setattr("dopamine_rl.grm.fit.evaluate", killed)
        with pytest.raises(Killed):
            run(*parse(words))
    state = torch.load(tmp_path / "grm.train" / STATE, weights_only=True)
    assert int(state["counters"][0]) == 3
    assert run(*parse(words)) is not None


def test_a_model_is_trained_by_one_command_at_a_time(raw: Path, tmp_path: Path) -> None:
    words = [str(raw), "--out", str(tmp_path / "grm"), *SMALL, "--sft.train.updates", "1"]
    (tmp_path / "grm.train").mkdir()
    with only_writer(tmp_path / "grm.train"):
        for more in ([], ["--fresh"]):
            with pytest.raises(BadInput, match="another command is writing"):
                run(*parse([*words, *more]))


def test_a_folder_without_an_episode_is_named(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(raw, tmp_path / "raw")
    (folder / "episode_900").mkdir()
    assert passed_over(folder) == ["episode_900"]
    assert passed_over(folder / "episode_000") == passed_over(raw) == []
    convert.main([str(folder), str(tmp_path / "dataset")])
    pairs.main([str(folder), "-n", "10"])
    said = [line for line in capsys.readouterr().out.splitlines() if "episode_900" in line]
    assert len(said) == 2
