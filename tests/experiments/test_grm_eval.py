"""`dopamine grm eval`: the gate's figures from files on disk, all perspectives from one set of answers, resumed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dopamine_rl.episodes import raw as raw_format
from dopamine_rl.episodes import recordings
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.raw import INSTRUCTIONS, KEYFRAMES, TRANSITIONS, read_demonstration, write_demonstration
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.evaluation import variants as grm_figures
from dopamine_rl.evaluation.gate import judge, report
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.hops import Setting
from dopamine_rl.evaluation.unseen import read_unseen
from dopamine_rl.evaluation.variants import Variant, hop_row, progress_row
from dopamine_rl.grm.checkpoint import load_grm, save_grm
from dopamine_rl.grm.evaluate import episode_hops
from dopamine_rl.grm.model import build_grm
from dopamine_rl.interfaces import Prompt
from dopamine_rl.metrics import kendall_tau, spearman
from dopamine_rl.types import Demonstration, FusionConfig, HopEstimates, TaskReference
from experiments import cli
from experiments.commands import grm_eval as evaluate_grm
from experiments.reports import evaluation as evaluation_report
from experiments.reports import evaluation_plots as grm_plots
from experiments.reports.evaluation import FIGURES, Evaluation
from experiments.runtime.ending import UsageError
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.dopamine_rl.grm_toys import TINY, labelled, moving_square
from tests.dopamine_rl.test_gate import GOOD, STRIDE, AlwaysForward, episode
from tests.dopamine_rl.test_variants import answers_of
from tests.fakes import FakeEngine, seen
from tests.reward_service.http import serving

COUNT = 12


def recorded(
    name: str,
    curve: Sequence[float],
    success: bool,
    stages: tuple[str, ...] = ("align", "insert"),
    near_miss: bool | None = False,
    frames: NDArray[np.uint8] | None = None,
) -> Demonstration:
    """An episode whose pictures show the progress `curve`, which the simulator calls by half as much again or less."""
    count, plain = len(curve), episode(curve, success, near_miss)
    return replace(
        plain,
        episode_id=name,
        instructions=("insert the peg", "push it in"),
        frames=plain.frames if frames is None else frames,
        keyframes=np.array([0, count // 2, count - 1]) if len(stages) == 2 else np.array([0, count - 1]),
        stages=stages,
        true_progress=np.sqrt(curve).astype(np.float32),
    )


def expert_curve(count: int) -> NDArray[np.float64]:
    """What Eq. 1 says of an episode with keyframes 0, count // 2, count − 1."""
    return labelled(recorded("", np.linspace(0, 1, count).tolist(), True))[0].progress.astype(np.float64)


def write_all(folder: Path, *demonstrations: Demonstration) -> Path:
    for demonstration in demonstrations:
        write_demonstration(folder, demonstration)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stalled = np.minimum(np.linspace(0, 1.2, COUNT), 0.6).tolist()
    jammed = np.minimum(np.linspace(0, 0.9, COUNT), 0.3).tolist()
    late = [0.0] * 9 + [0.3, 0.6, 1.0]
    return write_all(
        tmp_path_factory.mktemp("data") / "raw",
        *(recorded(f"expert_{count}", expert_curve(count).tolist(), True) for count in (10, 12, 14, 17)),
        recorded("clone_1", late, True, ("act",)),
        recorded("stall_1", stalled, False),
        recorded("jam_1", jammed, False, near_miss=True),
        recorded("jam_2", jammed, False, near_miss=True),
    )


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeEngine], None]:
    """Lets an engine stand for the checkpoint."""

    def with_engine(engine: FakeEngine) -> None:
        @contextmanager
        def client(*_: Any) -> Iterator[LocalRewardClient]:
            yield LocalRewardClient(Scorer(engine))

        monkeypatch.setattr(evaluate_grm, "reward_client", client)

    return with_engine


plot_all = grm_plots.plot_all


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples, no plots, and no model needed where an engine stands for it."""
    monkeypatch.setattr(evaluate_grm, "check_model_arguments", lambda *_: None)
    monkeypatch.setattr(grm_figures, "RESAMPLES", 20)
    monkeypatch.setattr(grm_plots, "plot_all", lambda folder, evaluation: None)


def run(*words: object) -> Evaluation:
    return evaluate_grm.run(evaluate_grm.parse([str(word) for word in words]))


def test_the_figures_are_the_gate_s(raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]) -> None:
    engine = FakeEngine(unreadable=lambda before, after: 0.2 < before < 0.25)
    answering(engine)
    evaluation = run("model", raw, "--bounds", "laptop", "--out", tmp_path, "--demo", raw / "expert_10")
    names = [episode.name for episode, _ in next(iter(evaluation.answered.values()))]
    assert sorted(names) == ["clone_1", "expert_12", "expert_14", "expert_17", "jam_1", "jam_2", "stall_1"]
    demonstrations = [read_demonstration(raw / name) for name in names]
    reference = TaskReference.of(read_demonstration(raw / "expert_10"))
    sources: Any = ["policy" if name == "clone_1" else "expert" for name in names]
    judged = judge(LocalRewardClient(Scorer(engine)), demonstrations, reference, FusionConfig(), sources=sources)
    wanted = report(judged, 0.8, STRIDE)
    assert wanted.invalid > 0
    found = evaluation.served.figures
    for name in ("voc_plus", "voc_minus", "kendall", "progress_mae", "auc", "false_success", "near_miss_false_success"):
        assert found[name].value == pytest.approx(getattr(wanted, name), abs=1e-6), name
    assert evaluation.counts()["invalid"] == wanted.invalid
    assert evaluation.counts()["near_miss"] == wanted.near_misses == 2
    assert evaluation.stride == STRIDE
    assert evaluation.verdict is not None
    assert [check.name for check in evaluation.verdict.checks] == list(FIGURES)[:0] or len(
        evaluation.verdict.checks
    ) == 5


def test_a_model_that_sees_progress_is_accepted_and_its_outcomes_are_right(
    raw: Path,
    tmp_path: Path,
    answering: Callable[[FakeEngine], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grm_plots, "plot_all", plot_all)
    answering(FakeEngine())
    evaluate_grm.main(
        ["model", str(raw), "--bounds", "laptop", "--out", str(tmp_path), "--demo", str(raw / "expert_10")]
    )
    lines = capsys.readouterr().out.splitlines()
    last = json.loads(lines[-1])
    assert last["passed"] is True
    assert last["counts"] == {
        "success": 4,
        "expert": 3,
        "failure": 3,
        "near_miss": 2,
        "cut_off": 0,
        "invalid": 0,
        "zero_pairs": 27,
        "failed_pairs": 19,
    }
    content = json.loads((tmp_path / "eval.json").read_text())
    assert content["figures"]["voc_plus"] == pytest.approx(1.0)
    assert content["figures"]["progress_mae"] < 0.01
    assert content["figures"]["false_progress_zero"] == 0.0
    # The stall has its first stage done; the policy's success came in its last frames, which Eq. 58 cannot know.
    assert {e["name"]: e["outcome"] for e in content["episodes"]} == {
        "expert_12": "success",
        "expert_14": "success",
        "expert_17": "success",
        "clone_1": "success",
        "stall_1": "partial",
        "jam_1": "failure",
        "jam_2": "failure",
    }
    assert content["confusion"][1:] == [[0, 1, 0], [0, 0, 2]]
    assert content["confusion"][0][0] >= 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "eval.md",
        "eval.json",
        "curves.png",
        "hops.png",
        "effects.png",
        "hops",
    }
    text = (tmp_path / "eval.md").read_text()
    for part in ("consistency fusion, own chain", "stride ×4", "wrist alone", "![Hops](hops.png)", "AUSE", "voc_minus"):
        assert part in text
    assert any(line.split()[:2] == ["voc_plus", "1.000"] for line in lines)


def test_a_model_that_always_says_forward_has_voc_one_and_fails(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    answering(AlwaysForward())
    with pytest.raises(SystemExit) as ended:
        evaluate_grm.main(["model", str(raw), "--bounds", "laptop", "--out", str(tmp_path)])
    assert ended.value.code == 3
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["figures"]["voc_plus"] == pytest.approx(1.0)
    assert last["figures"]["voc_minus"] == 0.0
    assert last["figures"]["false_progress_zero"] == last["figures"]["false_progress_failed"] == 1.0
    assert last["passed"] is False
    run("model", raw, "--out", tmp_path)  # without bounds nothing is refused


def test_a_real_model_is_asked_once_and_answers_as_the_trainer_s_evaluation_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = tmp_path / "grm", tmp_path / "raw"
    save_grm(build_grm(TINY), model, {})
    for seed, success in ((1, True), (2, True), (3, True), (4, False)):
        shown = moving_square(seed, success, COUNT)
        kind = "expert" if success else "failure"
        curve = shown.progress.tolist()
        write_demonstration(folder, recorded(f"{kind}_{seed}", curve, success, frames=shown.frames))
    words = ["grm", "eval", str(model), str(folder), "--out", str(tmp_path / "out"), "--threads", "1"]
    cli.main(words)
    first = capsys.readouterr().out
    assert "scored 15 of 15" in first
    evaluation = evaluate_grm.run(evaluate_grm.parse(words[2:]))
    assert "scored 0 of 15" in capsys.readouterr().out
    assert evaluation.summary() == json.loads(first.splitlines()[-1])
    labels = {seed: labelled(read_demonstration(folder / f"expert_{seed}"))[0] for seed in (1, 2)}
    assert evaluation.reference == "expert_1"
    grm, every = load_grm(model), np.arange(COUNT)
    answers = dict((episode.name, answers) for episode, answers in evaluation.answered["front+wrist, stride ×1"])
    direct = episode_hops(grm, labels[2], labels[1], every)
    for name in ("frame_ids", "gain", "loss", "entropy", "valid", "swapped"):
        np.testing.assert_allclose(getattr(answers["expert_2"], name), getattr(direct, name), atol=2e-5)
    halved = dict((episode.name, answers) for episode, answers in evaluation.answered["stride ×2"])["expert_2"]
    assert halved.frame_ids.tolist() == [0, 2, 4, 6, 8, 10, 11]
    direct = episode_hops(grm, labels[2], labels[1], halved.frame_ids)
    np.testing.assert_allclose(halved.gain, direct.gain, atol=2e-5)
    blank = replace(labels[2], frames=labels[2].frames * np.array([1, 0], np.uint8)[:, None, None, None])
    half = replace(labels[1], frames=labels[1].frames * np.array([1, 0], np.uint8)[:, None, None, None])
    alone = dict((episode.name, answers) for episode, answers in evaluation.answered["front alone"])["expert_2"]
    np.testing.assert_allclose(alone.gain, episode_hops(grm, blank, half, every).gain, atol=2e-5)


def test_answers_are_asked_again_only_where_something_changed(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*more: object, engine: FakeEngine | None = None) -> int:
        answering(engine or FakeEngine())
        run("model", raw, "--out", tmp_path, "--episodes", 2, *more)
        line = next(line for line in capsys.readouterr().out.splitlines() if "already saved" in line)
        return int(line.split(" scored ", 1)[1].split()[0])

    assert asked() == 20
    assert asked() == asked("--bounds", "laptop") == 0
    assert asked("--views", "wrist") == 8  # its strides; stride ×1 is known
    assert asked("--stride", 2) == 8  # what the front camera sees at it, and ×4 of it
    assert asked(engine=FakeEngine("fake-2")) == 20
    broken = next((tmp_path / "hops").glob("*.npz"))
    broken.write_bytes(b"torn")
    assert asked() + asked(engine=FakeEngine("fake-2")) + asked("--views", "wrist") + asked("--stride", 2) == 1


class Remembering(FakeEngine):
    """Keeps which views were blank."""

    def __init__(self) -> None:
        super().__init__()
        self.blank: set[tuple[bool, ...]] = set()

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        self.blank |= {
            tuple(not images[i].any() for i in views) for p in prompts for views in (p.before[1:], p.after[1:])
        }
        return super().estimate(images, prompts)


def test_hidden_cameras_are_blank_in_every_picture_but_the_references(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]
) -> None:
    engine = Remembering()
    answering(engine)
    run("model", raw, "--out", tmp_path, "--episodes", 1, "--views", "front")
    assert engine.blank == {(True,)}
    engine.blank.clear()
    run("model", raw, "--out", tmp_path, "--episodes", 1, "--views", "front+wrist")
    assert engine.blank == {(False,)}


def oscillating(name: str) -> Demonstration:
    return recorded(name, [0.0, 0.2, 0.4, 0.6, 0.4, 0.2, 0.4, 0.6, 0.5, 0.4, 0.5, 0.5], False)


def pausing(name: str) -> Demonstration:
    curve = [0.0, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.7, 0.8, 0.9, 1.0]
    shown = recorded(name, curve, True, ("align", "pause", "insert"))
    return replace(shown, keyframes=np.array([0, 3, 7, 11]))


@pytest.fixture(scope="module")
def behaving(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("behaving") / "raw"
    shutil.copytree(raw, folder)
    return write_all(folder, oscillating("oscillate_006000"), pausing("pause_006000"))


def test_behaviour_is_judged_by_kind_and_by_its_truth(
    behaving: Path, tmp_path: Path, answering: Callable[[FakeEngine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    answering(FakeEngine())
    words = ["model", behaving, "--out", tmp_path, "--demo", behaving / "expert_10"]
    evaluation = run(*words)
    assert list(evaluation.behaviours) == ["expert", "pause", "oscillate", "stall"]
    assert evaluation.counts()["expert"] == 3  # one that pauses does not advance all the time
    to_and_fro, rest = evaluation.behaviours["oscillate"], evaluation.behaviours["pause"]
    assert to_and_fro.spearman is not None
    assert to_and_fro.kendall_a is not None
    assert to_and_fro.spearman > 0.98
    assert to_and_fro.kendall_a < to_and_fro.spearman
    assert (to_and_fro.failures, to_and_fro.false_success, to_and_fro.still_rmse) == (1, 0.0, None)
    assert rest.still_rmse == pytest.approx(0.0, abs=1e-3)
    assert (rest.failures, rest.false_success) == (0, None)
    assert evaluation.instruction is not None
    assert evaluation.instruction.episodes == 3
    assert evaluation.instruction.gap == pytest.approx(0.0)  # it looks at pictures alone
    content = json.loads((tmp_path / "eval.json").read_text())
    assert content["behaviours"]["pause"]["still_rmse"] == rest.still_rmse
    assert content["instruction"]["mismatched_success"] == 1.0
    assert {episode["name"]: episode["kind"] for episode in content["episodes"]}["pause_006000"] == "pause"
    printed, page = capsys.readouterr().out, (tmp_path / "eval.md").read_text()
    for text in (printed, page):
        assert "oscillate" in text
        assert "Under a wrong instruction 3 successes end at Φ* " in text
        assert "100 % of them still count as successes" in text
        for column in ("outcome: share of", "τ_a: Kendall's", "w < 0.1: share of", "end+, end−: mean"):
            assert column in " ".join(text.replace("`", "").split())
        assert "every environment step" not in text
        assert not re.search(r"\\[<*|]|\d\.\d{5}|\d%", text.rpartition("\nReport:")[0] or text)
    count = len(list((tmp_path / "hops/misled").glob("*.npz")))
    assert count == 3
    run(*words, "--mismatch", "sweep the floor", "--mismatch", "wave")
    assert len(list((tmp_path / "hops/misled").glob("*.npz"))) == 2 * count


def test_an_episode_that_pauses_is_no_reference(
    behaving: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]
) -> None:
    answering(FakeEngine())
    with pytest.raises(BadInput, match=r"--demo.*it pauses or retreats"):
        run("model", behaving, "--out", tmp_path / "a", "--demo", behaving / "pause_006000")
    folder = write_all(tmp_path / "raw", pausing("a_pause_1"), recorded("b_1", expert_curve(12).tolist(), True))
    write_all(folder, recorded("c_1", expert_curve(14).tolist(), True))
    assert run("model", folder, "--out", tmp_path / "b").reference == "b_1"


@pytest.mark.parametrize("text", ["push it in", " insert the peg ", ""])
def test_a_wrong_instruction_is_wrong(text: str, raw: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--mismatch"):
        run("model", raw, "--out", tmp_path / "out", "--mismatch", text)
    assert not (tmp_path / "out").exists()


def test_a_real_model_is_told_wrongly(behaving: Path, tmp_path: Path) -> None:
    save_grm(build_grm(TINY), tmp_path / "grm", {})
    words = [tmp_path / "grm", behaving, "--out", tmp_path / "out", "--threads", 1, "--views", "front+wrist"]
    evaluation = run(*words, "--episodes", 3)
    assert evaluation.instruction is not None
    assert 0.0 <= evaluation.instruction.mismatching_end <= 1.0
    assert evaluation.instruction.gap == pytest.approx(
        evaluation.instruction.matching_end - evaluation.instruction.mismatching_end
    )


def test_settings_are_named_for_what_is_shown() -> None:
    assert evaluate_grm.make_settings(None, 2) == {
        "front+wrist, stride ×1": Setting(1, None),
        "stride ×2": Setting(2, None),
        "stride ×4": Setting(4, None),
        "front alone": Setting(1, (0,)),
        "wrist alone": Setting(1, (1,)),
    }
    assert list(evaluate_grm.make_settings(None, 1)) == ["front, stride ×1", "stride ×2", "stride ×4"]
    assert evaluate_grm.make_settings("wrist,wrist+front", 3)["wrist, stride ×1"].shown == (1,)
    for views in ("close-up", "front+front", ""):
        with pytest.raises(BadInput, match="--views"):
            evaluate_grm.make_settings(views, 2)


def test_plain_annotated_episodes_are_successes_and_no_failure_means_no_figure(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]
) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(raw, folder, ignore=lambda _, names: [n for n in names if n.startswith(("stall", "jam", "clone"))])
    for path in folder.glob(f"*/{TRANSITIONS}"):
        path.unlink()
    answering(FakeEngine())
    evaluation = run("model", folder, "--out", tmp_path / "out", "--stride", 1)
    assert evaluation.counts()["expert"] == evaluation.counts()["success"] == 3
    assert evaluation.summary()["figures"]["auc"] is None
    assert evaluation.served.figures["progress_mae"].value < 0.01
    with pytest.raises(BadInput, match=r"DATA.*0 failures"):
        run("model", folder, "--out", tmp_path / "refused", "--stride", 1, "--bounds", "laptop")
    assert not (tmp_path / "refused").exists()  # nothing was asked


def test_one_recording_without_an_environment_is_told_in_frames_and_sentences(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("expert_10", "expert_12"):
        shutil.copytree(raw / name, tmp_path / "plain" / name)
        (tmp_path / "plain" / name / TRANSITIONS).unlink()
    shutil.copy(raw / INSTRUCTIONS, tmp_path / "plain")
    answering(FakeEngine())
    evaluation = run("model", tmp_path / "plain", "--out", tmp_path / "out", "--stride", 4)
    report = (tmp_path / "out" / "eval.md").read_text(encoding="utf-8")
    for text in (capsys.readouterr().out, report):
        assert "1 success (1 annotated), 0 failures (0 near misses); one frame every 4 video frames" in text
        assert "environment step" not in text
        assert "One episode gives no differences with intervals: evaluate at least 2." in text
        assert "Without a value (no episode of the kind" in text
        assert not [line for line in text.splitlines() if line.count("–") > 2 or " *" in line]
    assert evaluation.summary()["figures"]["auc"] is None


def test_a_dataset_is_judged_as_its_raw_episodes_are(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "set", open_source(raw), lossless=True)
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    for path in folder.glob(f"*/{TRANSITIONS}"):  # what a dataset keeps of them
        np.savez(path, success=read_demonstration(path.parent).success)
    answering(FakeEngine())
    known = run("model", folder, "--out", tmp_path / "a", "--stride", 1, "--demo", folder / "expert_10")
    number = [info.episode_id for info in open_source(raw).episodes()].index("expert_10")
    found = run(
        "model", tmp_path / "set", "--out", tmp_path / "b", "--stride", 1, "--demo", f"{tmp_path / 'set'}#{number}"
    )
    assert found.summary() == known.summary() | {"reference": f"episode_{number:06d}"}
    assert found.counts()["success"] == 4
    assert found.counts()["failure"] == 3
    assert "without annotation" not in capsys.readouterr().out
    change = json.loads((tmp_path / "set/meta/info.json").read_text())
    del change["features"]["subtask_index"]
    (tmp_path / "set/meta/info.json").write_text(json.dumps(change))
    run("model", tmp_path / "set", "--out", tmp_path / "b", "--stride", 1)
    assert "7 episodes without annotation" in capsys.readouterr().out


def test_nothing_is_decoded_before_the_model_is_asked(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of an episode comes from its tables: steps, outcome and near misses as the actor recorded them."""

    def decode(*_: Any) -> None:
        pytest.fail("a picture was decoded")

    for module in (raw_format, recordings):
        for name in ("read_pictures", "every_picture", "pictures_at"):
            monkeypatch.setattr(module, name, decode, raising=False)
    episodes, reference = read_unseen([raw], raw / "expert_10", None, None, 0.8)
    assert reference.name == "expert_10"
    for listed in episodes:
        assert listed.frame_steps.tolist() == (np.arange(len(listed.frame_steps)) * STRIDE).tolist()
    assert sorted(e.name for e in episodes if e.verdict["near_miss"]) == ["jam_1", "jam_2"]


def test_a_failure_of_unknown_progress_counts_by_its_end_alone(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]
) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    np.savez(folder / "jam_1" / TRANSITIONS, success=False)
    answering(FakeEngine())
    evaluation = run("model", folder, "--out", tmp_path / "out", "--stride", 1, "--demo", folder / "expert_10")
    jam = next(e for e, _ in next(iter(evaluation.answered.values())) if e.name == "jam_1")
    assert (jam.truth, jam.outcome, jam.expert, jam.verdict["failure"]) == (None, None, False, True)
    assert evaluation.counts()["failure"] == 3
    assert evaluation.served.figures["auc"].value == 1.0
    assert evaluation.confusion.sum() == 6


def test_near_misses_of_any_task_are_told_by_their_script(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]
) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder, ignore=lambda _, names: [name for name in names if name.startswith("jam")])
    shutil.rmtree(folder / "stall_1")
    write_all(folder, recorded("near_miss_000123", [0.0, *[0.6] * 11], False, near_miss=None))
    answering(FakeEngine())
    evaluation = run("model", folder, "--out", tmp_path / "out")
    assert evaluation.counts()["near_miss"] == evaluation.counts()["failure"] == 1
    assert evaluation.served.figures["near_miss_false_success"].value == 0.0


def test_videos_without_keyframes_among_the_episodes_are_named(raw: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(raw, tmp_path / "raw"))
    (folder / "jam_2" / KEYFRAMES).unlink()
    with pytest.raises(EpisodeError, match=f"jam_2/{KEYFRAMES}"):
        run("model", folder, "--out", tmp_path / "out")


def test_rows_of_an_episode_are_what_can_be_counted_by_hand(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]
) -> None:
    answering(FakeEngine())
    evaluation = run("model", raw, "--out", tmp_path)
    unseen = {episode.name: episode for episode, _ in next(iter(evaluation.answered.values()))}
    jam = replace(unseen["jam_1"], truth=np.array([0.0, 0.3, 0.3, 0.3, 0.2]))
    answers = answers_of([0.0, 0.3, 0.3, 0.3, 0.2])
    answers.gain[1, 0] = 0.2  # claims progress while it stands
    answers.gain[3, 0] = 0.5  # and while it falls back, by a third: a hop of 0.5 − 1/3
    row = hop_row(jam, answers)
    assert (row["zero_pairs"], row["zero_claims"]) == (2, 1)
    assert (row["failed_pairs"], row["failed_claims"]) == (3, 2)
    assert row["hop_count"] == 12
    assert row["hop_errors"] == pytest.approx(0.7)
    shown = progress_row(jam, answers_of([0.0, 0.3, 0.3, 0.3, 0.2]), Variant(FusionConfig()))
    assert (shown["other_mae"], shown["right"]) == (pytest.approx(0.0, abs=1e-6), 1.0)
    assert np.isnan(shown["progress_mae"])
    expert = unseen["expert_12"]
    assert expert.truth is not None
    wrong = answers_of(expert.truth.tolist())
    shown = progress_row(expert, replace(wrong, gain=wrong.gain * 0.9), Variant(FusionConfig(chain="own"), 0))
    curve, _ = Variant(FusionConfig(chain="own"), 0).curve(replace(wrong, gain=wrong.gain * 0.9))
    assert shown["progress_mae"] == pytest.approx(np.abs(curve - expert.truth).mean(), abs=1e-6)
    assert shown["order"] == pytest.approx(spearman(np.arange(12), curve))
    assert shown["kendall"] == pytest.approx(kendall_tau(np.arange(12), curve))
    common = [4, 8, 11]
    assert shown["common_mae"] == pytest.approx(np.abs(curve - expert.truth)[common].mean(), abs=1e-6)


def test_failures_are_labelled_on_the_demonstrations_scale(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]
) -> None:
    """The simulator's scale is the root of theirs here."""
    answering(FakeEngine())
    evaluation = run("model", raw, "--out", tmp_path)
    unseen = {episode.name: episode for episode, _ in next(iter(evaluation.answered.values()))}
    for name in ("stall_1", "jam_1", "clone_1"):
        truth, pictures = unseen[name].truth, read_demonstration(raw / name).frames
        assert truth is not None
        assert np.abs(truth - [seen(views[0]) for views in pictures]).max() < 0.07, name
        assert not unseen[name].expert


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model", "/no/such/place"], "DATA = '/no/such/place': there is no such folder: give a LeRobotDataset v3"),
        (["model", "RAW", "--demo", "RAW/jam_1"], "--demo.*it failed"),
        (["model", "RAW", "--demo", "/no/such/place"], "--demo.*give a raw episode's folder"),
        (["model", "RAW", "--episodes", "0"], "--episodes = 0"),
        (["model", "RAW", "--bounds", "lap"], "--bounds = 'lap': write laptop; available:"),
        (["model", "RAW", "--views", "close-up"], "--views = 'close-up'"),
        (["model", "RAW", "OTHER"], "it is of another task"),
    ],
)
def test_bad_input_is_named(
    words: list[str], message: str, raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None]
) -> None:
    other = replace(recorded("other", expert_curve(9).tolist(), True), instructions=("clear the table",))
    write_all(tmp_path / "other", other)
    answering(FakeEngine())
    filled = [word.replace("RAW", str(raw)).replace("OTHER", str(tmp_path / "other")) for word in words]
    with pytest.raises(BadInput, match=message):
        run(*filled, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "words", [["model"], ["raw", "raw", "--url", "u", "--app", "a"], ["m", "raw", "--stride", "0"]]
)
def test_arguments_that_cannot_be_meant_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        evaluate_grm.parse(words)


def test_over_http_the_figures_are_the_same(
    raw: Path, tmp_path: Path, answering: Callable[[FakeEngine], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evaluate_grm.reward_client
    answering(FakeEngine())
    here = run("model", raw, "--out", tmp_path / "a", "--episodes", 2)
    monkeypatch.setattr(evaluate_grm, "reward_client", real)
    with serving(LocalRewardClient(Scorer(FakeEngine())), "a-token-for-the-tests") as url:
        (tmp_path / "token").write_text("a-token-for-the-tests")
        there = run(raw, "--url", url, "--token-file", tmp_path / "token", "--out", tmp_path / "b", "--episodes", 2)
    assert there.summary() == here.summary()


def test_with_a_service_every_path_is_data() -> None:
    parsed = evaluate_grm.parse(["raw_a", "raw_b", "--url", "http://127.0.0.1:1", "--stride", "auto"])
    assert (parsed.model, parsed.data, parsed.stride) == (None, (Path("raw_a"), Path("raw_b")), "auto")


@pytest.mark.parametrize("probe", ["shown", "required"])
def test_recorded_episodes_are_not_refused_for_a_probe_that_only_the_simulator_can_take(probe: str) -> None:
    verdict = evaluation_report._verdict(GOOD, GateConfig(probe=probe))  # type: ignore[arg-type]
    assert verdict.passed
    assert ("dopamine grm probe" in verdict.table()) == (probe == "required")
