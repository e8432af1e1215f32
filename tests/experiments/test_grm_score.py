"""`dopamine grm score`: recordings in every form, the same numbers by every way, failures never numbers."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import find_recordings, open_source
from dopamine_rl.episodes.raw import CAMERAS, INSTRUCTIONS, KEYFRAMES, read_demonstration, write_demonstration
from dopamine_rl.episodes.recordings import read_frames
from dopamine_rl.episodes.video import read_pictures, write_video
from dopamine_rl.errors import BadInput, Overloaded
from dopamine_rl.evaluation.plans import find_demonstration, make_plans
from dopamine_rl.evaluation.scoring import ScoringConfig, score_episode
from dopamine_rl.evaluation.unseen import read_unseen
from dopamine_rl.grm.checkpoint import save_grm
from dopamine_rl.grm.hub import model_folder
from dopamine_rl.grm.model import build_grm
from dopamine_rl.metrics import kendall_tau, outcome, progress_mae, voc_plus
from dopamine_rl.types import Demonstration, ScoreReply, ScoreRequest, TaskReference
from experiments.commands import grm_score as score
from experiments.runtime.console import Console
from experiments.runtime.ending import UsageError
from experiments.runtime.reward_client import embedded_client, warn_of_tasks
from reward_service.engines.transformers import TransformersEngine
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.dopamine_rl.grm_toys import TINY, moving_square
from tests.fakes import FakeEngine, frame, make_request, sometimes
from tests.reward_service.http import serving

REAL_ROBOT = Path(__file__).parents[3] / "shared" / "data" / "real_robot_raw"
COUNT = 12


def recorded(name: str, seed: int, success: bool = True, views: int = 2) -> Demonstration:
    """A square on its way, as an episode of this project's; pictures two steps apart."""
    episode = moving_square(seed, success, COUNT, views=views)
    steps = 2 * (COUNT - 1)
    return Demonstration(
        episode_id=name,
        instructions=("push the block", "move the square"),
        frames=episode.frames,
        frame_steps=np.arange(0, steps + 1, 2),
        keyframes=np.array([0, 4, COUNT - 1]),
        stages=("near", "there"),
        observations=np.zeros((steps + 1, 3), np.float32),
        actions=np.zeros((steps, 2), np.float32),
        task_rewards=np.zeros(steps, np.float32),
        terminated=success,
        success=success,
        seed=seed,
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for name, seed, success in (("expert_1", 1, True), ("expert_2", 2, True), ("failed_3", 3, False)):
        write_demonstration(folder, recorded(name, seed, success))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "grm"
    save_grm(build_grm(TINY), folder, {})
    return folder


def run(*words: object) -> list[dict[str, Any]]:
    return score.run(score.parse([str(word) for word in words]))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_episodes_becomes_the_numbers_of_the_scorer(
    raw: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    results = run(raw, "--demo", raw / "expert_1", "--model", model, "--out", out, "--fragment", 4)
    assert [result["episode"] for result in results] == ["expert_1", "expert_2", "failed_3"]
    scorer = Scorer(TransformersEngine(model))
    reference = TaskReference.of(read_demonstration(raw / "expert_1"))
    for result in results:
        name = result["episode"]
        frames = read_demonstration(raw / name).frames
        request = ScoreRequest(
            reference.context(name, frames[0]), frames[0], frames[1:], tuple(range(1, COUNT)), 1e6, start_progress=0.0
        )
        [reply] = scorer.score([request])
        assert reply.folded is not None
        rows = rows_of(out / f"{name}.csv")
        content = json.loads((out / f"{name}.json").read_text())
        assert [int(row["frame"]) for row in rows] == content["columns"]["frame"] == list(range(1, COUNT))
        assert [float(row["time_s"]) for row in rows] == pytest.approx([i / 5 for i in range(1, COUNT)])
        for column, wanted in (
            ("progress", reply.folded.progress),
            ("incremental", reply.folded.perspectives[:, 0]),
            ("backward", reply.folded.perspectives[:, 2]),
            ("gain_forward", reply.gain[:, 1]),
            ("loss_incremental", reply.loss[:, 0]),
            ("entropy_backward", reply.entropy[:, 2]),
        ):
            assert content["columns"][column] == pytest.approx(wanted, abs=2e-5)
            assert [float(row[column]) for row in rows] == content["columns"][column]
        curve = np.concatenate([[0.0], reply.folded.progress])
        figures = content["figures"]
        assert figures["frames"] == COUNT - 1
        assert figures["invalid"] == figures["low_weight"] == 0
        assert figures["outcome"] == outcome(curve)
        assert figures["voc_plus"] == pytest.approx(voc_plus(reply.hops[:, 0]))
        assert figures["kendall"] == pytest.approx(kendall_tau(np.arange(COUNT), curve))
        assert content["model_version"] == scorer.model_version
        assert content["instruction"] == "push the block"
        assert content["references"] == ("itself" if name == "expert_1" else "expert_1")
        if name == "failed_3":
            assert figures["progress_mae"] is None
            assert "true_progress" not in rows[0]
        else:
            truth = np.array([0.0, *content["columns"]["true_progress"]])
            assert truth[[0, -1]].tolist() == [0.0, 1.0]
            assert figures["progress_mae"] == pytest.approx(progress_mae(curve, truth), abs=1e-5)
        pictures = read_pictures(out / f"{name}.mp4")
        assert len(pictures) == COUNT + 5  # the last picture stays for a second
        assert np.abs(pictures[0].astype(int) - pictures[-1]).max() > 60
    printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed[-1])["episodes"] == results
    assert printed[-6].split()[:4] == ["episode", "frames", "end", "outcome"]
    assert printed[-2].startswith("outcome: success, partial or failure by the curve (Eq. 58); τ: Kendall's rank corr")
    assert sorted(path.suffix for path in out.iterdir()) == [".csv"] * 3 + [".json"] * 3 + [".mp4"] * 3


def test_videos_and_folders_of_videos_give_the_raw_folder_s_numbers(raw: Path, model: Path, tmp_path: Path) -> None:
    by_camera = tmp_path / "try_7"
    by_camera.mkdir()
    for camera, view in zip(CAMERAS, ("front", "wrist"), strict=False):
        shutil.copy(raw / "expert_2" / f"{camera}.mp4", by_camera / f"{view}.mp4")
    shared = ("--demo", raw / "expert_1", "--model", model, "--stride", 3, "--no-video")
    run(raw / "expert_2", *shared, "--out", tmp_path / "a")
    run(f"{by_camera}/front.mp4,{by_camera}/wrist.mp4", *shared, "--out", tmp_path / "b")
    run(by_camera, *shared, "--out", tmp_path / "c", "--instruction", "push the block")
    wanted = json.loads((tmp_path / "a" / "expert_2.json").read_text())["columns"]
    assert wanted["frame"] == [3, 6, 9, 11]
    for out in ("b", "c"):
        content = json.loads((tmp_path / out / "try_7.json").read_text())
        columns = content["columns"]
        assert "true_progress" not in columns
        assert columns == {name: wanted[name] for name in columns}
        assert content["figures"]["voc_plus"] is None
        assert not (tmp_path / out / "try_7.mp4").exists()


def test_over_http_the_numbers_are_the_same(raw: Path, model: Path, tmp_path: Path) -> None:
    shared = (raw / "expert_2", "--demo", raw / "expert_1", "--fusion", "consistency", "--no-video", "--fragment", 3)
    run(*shared, "--model", model, "--out", tmp_path / "a")
    token = tmp_path / "token"
    token.write_text("a-token-for-the-tests")
    with serving(LocalRewardClient(Scorer(TransformersEngine(model))), token.read_text()) as url:
        run(*shared, "--url", url, "--token-file", token, "--out", tmp_path / "b")
    local, remote = (json.loads((tmp_path / out / "expert_2.json").read_text()) for out in "ab")
    assert local["fusion"]["kind"] == "consistency"
    assert local["model_version"] == remote["model_version"]
    for name, column in local["columns"].items():
        wanted = column if isinstance(column[0], str | bool) else pytest.approx(column, abs=2e-5)
        assert remote["columns"][name] == wanted


@pytest.mark.parametrize(("fragment", "in_flight"), [(1, 4), (3, 1), (3, 4), (5, 2), (40, 4)])
def test_fragments_answer_like_one_request_also_where_answers_are_unreadable(fragment: int, in_flight: int) -> None:
    progress = np.random.default_rng(5).random(30).tolist()
    scorer = Scorer(FakeEngine(unreadable=sometimes(0.2)))
    request = make_request(progress, start_progress=0.0)
    [wanted] = scorer.score([request])
    assert wanted.folded is not None
    assert 5 < sum(not valid for valid in wanted.valid) < 25
    scores = score_episode(
        LocalRewardClient(scorer),
        request.context,
        request.frames,
        np.array(request.times),
        ScoringConfig(fragment=fragment, in_flight=in_flight),
    )
    assert [not reason for reason in scores.reasons] == wanted.valid.tolist()
    # What a frame without a value was compared with does not matter.
    np.testing.assert_array_equal(scores.hops[wanted.valid], wanted.hops[wanted.valid])
    np.testing.assert_array_equal(scores.folded.progress, wanted.folded.progress)
    assert scores.asked_again == sum(not wanted.valid[first - 1] for first in range(fragment, 30, fragment))


def test_unreadable_answers_hold_and_are_named_in_the_files(tmp_path: Path) -> None:
    progress = np.linspace(0.0, 1.0, 10)
    for view in range(2):
        write_video(tmp_path / f"{CAMERAS[view]}.mp4", np.stack([frame(p)[view] for p in progress]))
    scorer = Scorer(FakeEngine(unreadable=lambda before, after: abs(after - 4 / 9) < 0.01))
    with serving(LocalRewardClient(scorer)) as url:
        words = (
            tmp_path,
            "--url",
            url,
            "--stride",
            1,
            "--instruction",
            "go",
            "--demo",
            tmp_path,
            "--out",
            tmp_path / "s",
        )
        [result] = run(*words)
    assert result["invalid"] == 1
    assert result["final_progress"] == pytest.approx(1.0, abs=0.01)
    rows = rows_of(tmp_path / "s" / f"{tmp_path.name}.csv")
    assert [row["valid"] for row in rows].count("False") == 1
    held = rows[3]
    assert held["reason"].startswith("incremental: unreadable on purpose")
    assert held["gain_incremental"] == held["entropy_backward"] == ""
    assert held["progress"] == rows[2]["progress"] != "0.0"
    assert float(held["weight"]) == 0.0


def test_nothing_is_claimed_where_no_answer_can_be_read(raw: Path, tmp_path: Path) -> None:
    with serving(LocalRewardClient(Scorer(FakeEngine(unreadable=lambda before, after: True)))) as url:
        words = [str(w) for w in (raw / "expert_2", "--url", url, "--out", tmp_path, "--no-video")]
        with pytest.raises(SystemExit) as ended:
            score.main(words)
    assert ended.value.code == 1
    figures = json.loads((tmp_path / "expert_2.json").read_text())["figures"]
    assert figures["invalid"] == figures["frames"] == COUNT - 1
    assert {figures[name] for name in ("final_progress", "outcome", "voc_plus", "kendall", "progress_mae")} == {None}


def test_a_service_that_does_not_answer_ends_the_command_and_nothing_is_written(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(LocalRewardClient(Scorer(FakeEngine(base_s=1.0)))) as url:
        words = [str(w) for w in (raw / "expert_2", "--url", url, "--out", tmp_path / "out", "--deadline-s", 0.2)]
        with pytest.raises(SystemExit) as ended:
            score.main(words)
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "no answer in time" in shown.err
    assert "the same command resumes with expert_2" in shown.out
    assert not (tmp_path / "out").exists()


class Crowded:
    """A client that is full the first time that it is asked for each fragment."""

    def __init__(self, scorer: Scorer, always: bool = False) -> None:
        self._client, self._always = LocalRewardClient(scorer), always
        self._seen: set[int] = set()

    def model_version(self, timeout_s: float) -> str:
        return self._client.model_version(timeout_s)

    def submit(self, request: ScoreRequest) -> Any:
        first, known = request.times[0], request.times[0] in self._seen
        self._seen.add(first)
        return self._client.submit(request) if known and not self._always else Full()


class Full:
    retries = 0

    def result(self, timeout_s: float) -> ScoreReply:
        raise Overloaded("no room")


def test_an_overloaded_service_is_waited_for_until_the_deadline() -> None:
    scorer, request = Scorer(FakeEngine()), make_request(np.linspace(0, 1, 6).tolist())
    asked = (request.context, request.frames, np.array(request.times))
    scores = score_episode(Crowded(scorer), *asked, ScoringConfig(fragment=3, deadline_s=20.0))
    assert scores.folded.progress[-1] == pytest.approx(1.0)
    with pytest.raises(Overloaded):
        score_episode(Crowded(scorer, always=True), *asked, ScoringConfig(fragment=3, deadline_s=0.3))


def test_what_is_scored_is_kept_until_something_changes(
    raw: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = tmp_path / "raw" / "expert_2"
    shutil.copytree(raw / "expert_2", episode)
    shutil.copy(raw / INSTRUCTIONS, episode.parent)
    words = (episode, "--demo", raw / "expert_1", "--model", model, "--out", tmp_path / "out", "--no-video")
    scored: list[str] = []
    real = score.score

    def counted(plan: Any, *rest: Any) -> Any:
        scored.append(plan.recording.name)
        return real(plan, *rest)

    monkeypatch.setattr(score, "score", counted)
    [first], [again] = run(*words), run(*words)
    assert (first.pop("kept"), again.pop("kept")) == (False, True)
    assert first == again
    assert scored == ["expert_2"]
    run(*words, "--deadline-s", 60)
    assert len(scored) == 1
    for number, change in enumerate((["--fresh"], ["--stride", 2], ["--fusion", "consistency"], ["--size", 48]), 2):
        run(*words, *change)
        assert len(scored) == number, change
    run(*words)
    os.utime(episode / "cam_high.mp4", (0, 0))
    run(*words)
    assert len(scored) == 7
    (tmp_path / "out" / "expert_2.csv").unlink()
    run(*words)
    assert len(scored) == 8


@pytest.mark.parametrize("name", ["expert_2.mp4", "expert_2.csv", "expert_2.json"])
def test_files_that_are_no_scores_are_not_replaced(raw: Path, model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"precious": 1}')
    words = (raw / "expert_2", "--demo", raw / "expert_1", "--model", model, "--out", tmp_path, "--no-video")
    for flags in ([], ["--fresh"]):
        [row] = run(*words, *flags)
        assert name in row["error"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: '{"precious": 1}'}


def test_an_episode_that_cannot_be_read_does_not_stop_the_others(
    raw: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    video = folder / "expert_1" / "cam_left_wrist.mp4"
    write_video(video, read_pictures(video)[:-2])
    words = (folder, "--demo", raw / "expert_1", "--model", model, "--out", tmp_path / "out", "--no-video")
    with pytest.raises(SystemExit) as ended:
        score.main([str(word) for word in words])
    assert ended.value.code == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["expert_2.csv", "failed_3.csv"]
    shown = capsys.readouterr()
    assert "expert_1: frames of each camera" in shown.err
    assert "'cam_left_wrist.mp4': 10" in shown.err
    assert "error" in json.loads(shown.out.splitlines()[-1])["episodes"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/no/such/place"], "give an episode's folder"),
        (["EMPTY"], "neither videos"),
        (["ODD"], "call them cam_high"),
        (["RAW/expert_1", "RAW/expert_1"], "two episodes have this name"),
        (["RAW/failed_3"], "failed_3 is a failed episode: give a demonstration"),
        (["RAW/expert_1/cam_high.mp4"], "without keyframes: give a demonstration"),
        (["RAW/expert_1/cam_high.mp4", "--demo", "blank"], "--instruction"),
        (["RAW/expert_1", "--demo", "RAW/failed_3"], "it failed"),
        (["RAW/expert_1", "--demo", "RAW/expert_2/cam_high.mp4"], "the demonstration has 1 camera"),
        (["RAW/expert_1", "--stride", "0"], "--stride = 0"),
        (["RAW/expert_1", "--hz", "0"], "--hz = 0"),
        (["RAW/expert_1", "--views", "4"], "--views = 4"),
        (["NOISE.mp4", "--demo", "RAW/expert_1"], "EPISODE = '.*noise.mp4': this is no readable video \\(Invalid data"),
        (
            ["ZERO.mp4", "--demo", "RAW/expert_1"],
            "no readable video \\(it is empty\\): copy or record",
        ),
    ],
)
def test_bad_input_is_named_before_anything_is_scored(
    words: list[str], message: str, raw: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "left.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(b"no video")
    (tmp_path / "zero.mp4").touch()
    places = {"RAW": raw} | {name.upper(): tmp_path / name for name in ("empty", "odd")}
    places |= {"NOISE": tmp_path / "noise", "ZERO": tmp_path / "zero"}
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    with pytest.raises(BadInput, match=message):
        make_plans(score.parse([*words, "--url", "http://127.0.0.1:1"]))


def test_a_model_is_not_trusted_with_a_task_that_it_was_not_adapted_to(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "warning: the model was not adapted to 'push the block', but to 'stack the cups'"
    unknown = (
        "the model does not list the tasks that it was adapted to: it is unknown whether it knows 'push the block'"
    )
    for name, card, told in (
        ("other", {"instructions": ["stack the cups", "pile the cups"]}, other),
        ("same", {"instructions": ["stack the cups", "Push  the block."]}, None),
        ("older", {}, unknown),
        ("odd", {"instructions": "push the block"}, unknown),
        ("none", {"instructions": []}, unknown),
    ):
        save_grm(build_grm(TINY), tmp_path / name, card)
        plans = make_plans(score.parse([str(raw / "expert_1"), "--model", str(tmp_path / name)]))
        embedded_client(tmp_path / name, 1, "cpu", plans * 2, Console())
        warnings = [line for line in capsys.readouterr().out.splitlines() if "warning: the model" in line]
        assert [told in line for line in warnings] == ([] if told is None else [True]), name


def test_the_shipped_models_do_not_say_what_they_know(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("grm-mini", "grm-mini-no-charger"):
        warn_of_tasks(model_folder(name), ["fold the towel", "push the block"], Console())
        said = capsys.readouterr().out
        assert said.count("warning: ") == 1
        assert "it is unknown whether it knows 'fold the towel' and 1 more" in said
        assert "adapt it with dopamine grm adapt" in said


@pytest.mark.parametrize(
    "words",
    [
        ["E"],
        ["E", "--model", "m", "--url", "u"],
        ["E", "--url", "u", "--size", "0x9"],
        ["E", "--url", "u", "--hz", "1", "--stride", "2"],
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(words: Sequence[str]) -> None:
    with pytest.raises(UsageError):
        score.parse(words)


def test_a_missing_camera_repeats_the_front_view_and_a_demonstration_may_be_blank(raw: Path) -> None:
    [recording] = find_recordings(str(raw / "expert_1"))
    frames = read_frames(recording, 4, (28, 28), views=3).frames
    assert frames.shape == (4, 3, 28, 28, 3)
    assert np.array_equal(frames[:, 2], frames[:, 0])
    assert not np.array_equal(frames[:, 1], frames[:, 0])
    arguments = score.parse([str(raw / "failed_3"), "--demo", "blank", "--url", "http://127.0.0.1:1"])
    [plan] = make_plans(arguments)
    assert (plan.demonstration, plan.references) == (None, "blank")


def test_keyframes_beyond_the_end_are_named(raw: Path) -> None:
    [recording] = find_recordings(str(raw / "expert_1"))
    beyond = replace(recording, keyframes=np.array([0, 4, COUNT]))
    with pytest.raises(BadInput, match=rf"{KEYFRAMES}: frame id = {COUNT}"):
        read_frames(beyond, 4, (28, 28), 1)


@pytest.mark.skipif(not REAL_ROBOT.exists(), reason="the real-robot episode is not beside this repository")
def test_a_real_robot_episode_is_scored(model: Path, tmp_path: Path) -> None:
    [result] = run(REAL_ROBOT, "--model", model, "--hz", 0.25, "--size", 56, "--out", tmp_path, "--no-video")
    assert result["frames"] == 11
    assert 0.0 <= result["final_progress"] <= 1.0
    content = json.loads((tmp_path / "episode_001.json").read_text())
    assert content["columns"]["frame"] == [*range(120, 1201, 120), 1276]
    assert content["columns"]["true_progress"][-1] == 1.0
    assert (content["views"], content["references"], content["instruction"]) == (3, "itself", "clean the table")


def test_a_device_that_is_not_here_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"--device.*'nonsense'"):
        embedded_client(tmp_path, 1, "nonsense", [], Console())


def test_a_demonstration_that_is_not_there_is_not_called_an_episode(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^--demo = .*nope"):
        find_demonstration(str(tmp_path / "nope"))


def test_the_demonstration_is_one_episode(raw: Path, tmp_path: Path) -> None:
    """In every command that takes one: `score` and `probe` ask `find_demonstration`, `eval` and the ablation
    `read_unseen`."""
    write_dataset(tmp_path / "set", open_source(raw))
    named = {
        raw: rf"it holds 3 episodes: give one, as FOLDER/EPISODE or DATASET#NUMBER, such as {raw}/expert_1$",
        tmp_path / "set": rf"it holds 3 episodes: give one, .* such as {tmp_path}/set#0$",
        Path(f"{tmp_path}/set#3"): "give a number from 0 to 2: the dataset has 3 episodes$",
        Path(f"{tmp_path}/set#x"): "give a number from 0 to 2: the dataset has 3 episodes$",
        Path(f"{tmp_path}/set#"): "give a number from 0 to 2: the dataset has 3 episodes$",
    }
    for demo, fix in named.items():
        words = [str(raw / "expert_2"), "--demo", str(demo), "--url", "http://127.0.0.1:1"]
        for read in (
            lambda demo=demo: find_demonstration(str(demo)),
            lambda words=words: make_plans(score.parse(words)),
            lambda demo=demo: read_unseen([raw], demo, 1, None, 0.8),
        ):
            with pytest.raises(BadInput, match=fix) as caught:
                read()  # type: ignore[misc]
            assert (caught.value.field, caught.value.value) == ("--demo", str(demo))
    with pytest.raises(BadInput, match=r"EPISODE = .*set#': give a number from 0 to 2"):
        find_recordings(f"{tmp_path}/set#")
    with pytest.raises(BadInput, match=rf"EPISODE = .*raw\d#1': {raw} is no LeRobotDataset: give FOLDER/EPISODE"):
        find_recordings(f"{raw}#1")
