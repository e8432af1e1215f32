"""Raw episode folders: what is written is read back, and what is malformed is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dopamine_rl.episodes import raw
from dopamine_rl.episodes.raw import (
    has_transitions,
    list_episodes,
    read_demonstration,
    read_outcome,
    read_raw_episode,
    write_demonstration,
)
from dopamine_rl.episodes.video import write_video
from dopamine_rl.errors import EpisodeError
from dopamine_rl.types import Demonstration

REAL_ROBOT = Path(__file__).parents[3] / "shared" / "data" / "real_robot_raw" / "episode_001"


def make_demonstration(views: int = 3, frames: int = 5) -> Demonstration:
    rng = np.random.default_rng(0)
    steps = 4 * (frames - 1)
    return Demonstration(
        episode_id="episode_001",
        instructions=("put the peg in", "insert the peg"),
        frames=rng.integers(0, 256, (frames, views, 48, 64, 3), dtype=np.uint8),
        frame_steps=np.arange(0, steps + 1, 4),
        keyframes=np.array([0, 2, frames - 1]),
        stages=("align", "insert"),
        observations=rng.normal(size=(steps + 1, 7)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 6)).astype(np.float32),
        task_rewards=np.eye(1, steps, steps - 1, dtype=np.float32)[0],
        terminated=True,
        success=True,
        seed=7,
    )


@pytest.fixture
def episode(tmp_path: Path) -> Path:
    return write_demonstration(tmp_path, make_demonstration())


def edit_json(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


@pytest.mark.parametrize("views", [1, 2, 3])
def test_a_demonstration_comes_back_bit_for_bit(tmp_path: Path, views: int) -> None:
    # The simulator's truth is kept where it is known.
    truth = np.linspace(0, 1, 5, dtype=np.float32) if views == 3 else None
    demonstration = replace(make_demonstration(views), true_progress=truth)
    again = read_demonstration(write_demonstration(tmp_path, demonstration))
    for name in Demonstration.__dataclass_fields__:
        wanted, found = getattr(demonstration, name), getattr(again, name)
        if isinstance(wanted, np.ndarray):
            assert found.dtype == wanted.dtype, name
            assert np.array_equal(found, wanted), name
        else:
            assert found == wanted, name


def test_chosen_frames_can_be_read_and_scaled(episode: Path) -> None:
    whole = read_raw_episode(episode)
    some = read_raw_episode(episode, frame_ids=[1, 4])
    assert np.array_equal(some.frames, whole.frames[[1, 4]])
    assert some.frame_ids.tolist() == [1, 4]
    assert some.frame_count == 5
    assert read_raw_episode(episode, size=(24, 32)).frames.shape == (5, 3, 24, 32, 3)


def test_both_spellings_and_both_instruction_forms_are_read(episode: Path) -> None:
    edit_json(episode.parent / raw.INSTRUCTIONS, lambda content: {"instructions": content})
    edit_json(
        episode / raw.KEYFRAMES,
        lambda segments: [{**segment, "annotation": segment.pop("anotation")} for segment in segments],
    )
    again = read_raw_episode(episode)
    assert again.stages == ("align", "insert")
    assert again.instructions[0] == "put the peg in"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(raw, "write_npz", killed)
    with pytest.raises(KeyboardInterrupt):
        write_demonstration(tmp_path, make_demonstration())
    assert list_episodes(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [raw.INSTRUCTIONS]


def test_a_half_written_episode_is_not_listed(tmp_path: Path) -> None:
    half = tmp_path / ".episode_001.abc"
    half.mkdir()
    (half / raw.KEYFRAMES).write_text("[]")
    assert list_episodes(tmp_path) == []


def test_episodes_are_not_overwritten_and_tasks_not_mixed(episode: Path) -> None:
    with pytest.raises(EpisodeError, match="episode_001: episode_id"):
        write_demonstration(episode.parent, make_demonstration())
    other = replace(make_demonstration(), episode_id="episode_002", instructions=("fold the towel",))
    with pytest.raises(EpisodeError, match=rf"^{episode.parent}/task_instruction\.json: instructions"):
        write_demonstration(episode.parent, other)


def segment(**changes: object) -> Any:
    def change(segments: list[dict[str, object]]) -> list[dict[str, object]]:
        segments[1].update(changes)
        return segments

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (segment(start_frame_id=3), r"\[1\]\.start_frame_id"),
        (segment(end_frame_id=2), r"\[1\]\.end_frame_id"),
        (segment(end_frame_id=5), "frame id"),
        (segment(end_frame_id="4"), r"\[1\]\.end_frame_id"),
        (segment(anotation=None), r"\[1\]\.annotation"),
        (segment(anotation=""), r"\[1\]\.annotation"),
        (segment(annotation=7), r"\[1\]\.annotation"),
        (segment(start_frame_id=1), r"\[1\]\.start_frame_id"),
        (segment(start_frame_id=-2), r"\[1\]\.start_frame_id"),
        (segment(end_frame_id=True), r"\[1\]\.end_frame_id"),
        (segment(end_frame_id=4.0), r"\[1\]\.end_frame_id"),
        (segment(end_frame_id=10**30), r"\[1\]\.end_frame_id"),
        (lambda segments: segments[::-1], r"\[1\]\.start_frame_id"),
        (lambda segments: [], "segments"),
        (lambda segments: {"a": 1}, "segments"),
        (lambda segments: [3], r"\[0\]"),
    ],
)
def test_malformed_keyframes_are_named(episode: Path, change: Any, field: str) -> None:
    edit_json(episode / raw.KEYFRAMES, change)
    with pytest.raises(EpisodeError, match=rf"episode_001/annotated_keyframes\.json: {field}"):
        read_raw_episode(episode)


@pytest.mark.parametrize("content", ["[]", "{}", "[3]", '[""]', '[" "]', '{"instruction": ["a"]}', "nonsense"])
def test_malformed_instructions_are_named(episode: Path, content: str) -> None:
    (episode.parent / raw.INSTRUCTIONS).write_text(content)
    with pytest.raises(EpisodeError, match=rf"^{episode.parent}/task_instruction\.json"):
        read_raw_episode(episode)


def test_missing_files_are_named(episode: Path) -> None:
    for path in (episode / raw.KEYFRAMES, episode.parent / raw.INSTRUCTIONS):
        path.unlink()
        with pytest.raises(EpisodeError, match=rf"^{path}: content"):
            read_raw_episode(episode)


def test_cameras_must_agree(episode: Path) -> None:
    write_video(episode / "cam_left_wrist.mp4", make_demonstration(1, 4).frames[:, 0])
    for ids in (None, [0]):
        with pytest.raises(EpisodeError, match="frame count"):
            read_raw_episode(episode, ids)
    (episode / "cam_left_wrist.mp4").unlink()
    with pytest.raises(EpisodeError, match="cameras"):
        read_raw_episode(episode)


def test_a_broken_video_is_named(episode: Path) -> None:
    whole = (episode / "cam_right_wrist.mp4").read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        (episode / "cam_right_wrist.mp4").write_bytes(content)
        for ids in (None, [0, 3]):
            with pytest.raises(EpisodeError, match=r"episode_001/cam_right_wrist\.mp4|frame count"):
                read_raw_episode(episode, ids)


@pytest.mark.parametrize("ids", [[], [2, 1], [-1, 2], [0, 5]])
def test_frame_ids_out_of_range_are_refused(episode: Path, ids: list[int]) -> None:
    with pytest.raises(EpisodeError, match="frame"):
        read_raw_episode(episode, frame_ids=ids)


def test_malformed_transitions_are_named(episode: Path) -> None:
    path = episode / raw.TRANSITIONS
    with np.load(path) as file:
        good = dict(file)
    for name, value in (
        ("frame_steps", good["frame_steps"][:-1]),
        ("frame_steps", good["frame_steps"] + 1),
        ("observations", good["observations"] * np.nan),
        ("actions", good["actions"][0]),
    ):
        np.savez(path, **{**good, name: value})
        with pytest.raises(EpisodeError, match=rf"transitions\.npz: {name}"):
            read_demonstration(episode)
    np.savez(path, **{**good, "observations": good["observations"][:-1]})
    with pytest.raises(EpisodeError, match="lengths"):
        read_demonstration(episode)
    path.write_bytes(b"PK half")
    with pytest.raises(EpisodeError, match=r"transitions\.npz: content"):
        read_demonstration(episode)


@pytest.mark.parametrize("success", [True, False])
def test_an_outcome_may_be_told_without_transitions(episode: Path, success: bool) -> None:
    assert has_transitions(episode)
    np.savez(episode / raw.TRANSITIONS, success=success)
    outcome = read_outcome(episode)
    assert (outcome.success, outcome.true_progress) == (success, None)
    assert not has_transitions(episode)
    with pytest.raises(EpisodeError, match=r"transitions\.npz: arrays.*only the outcome"):
        read_demonstration(episode)


@pytest.mark.parametrize(
    "arrays",
    [
        {"success": "no"},
        {"success": [False]},
        {"success": None},
        {"success": np.nan},
        {"success": False, "seed": 1},
        {"success": 2},
        {},
    ],
)
def test_a_malformed_outcome_is_named(episode: Path, arrays: dict[str, Any]) -> None:
    np.savez(episode / raw.TRANSITIONS, **arrays)
    with pytest.raises(EpisodeError, match=r"episode_001/transitions\.npz: (success|content|observations)"):
        read_outcome(episode)


def poses(count: int = 5) -> np.ndarray:
    return np.tile([0.4, 0.1, 0.2, 0.0, 0.0, 0.0, 1.0], (count, 1))


def test_the_tool_s_poses_may_be_told_with_the_outcome_alone(episode: Path) -> None:
    np.savez(episode / raw.TRANSITIONS, success=False, tool_poses=poses())
    outcome = read_outcome(episode)
    assert outcome.success is False
    assert outcome.tool_poses is not None
    assert outcome.tool_poses.shape == (5, 7)
    assert not has_transitions(episode)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"tool_poses": poses()[:, :6]}, r"tool_poses = \(5, 6\): give one row"),
        ({"tool_poses": poses() * 1000.0}, r"tool_poses\[0\] = 'a quaternion of norm 1e\+03'"),
        ({"tool_poses": poses() * [1e3, 1e3, 1e3, 1, 1, 1, 1]}, r"tool_poses\[0\] = '400 m away'.*in metres"),
        ({"tool_poses": np.where(np.arange(5)[:, None] == 3, np.nan, poses())}, r"tool_poses\[3\]\[0\] = 'not finite'"),
        ({"tool_poses": np.zeros((5, 4, 4))}, r"tool_poses = 'float64 of shape \(5, 4, 4\)': give numbers in 2"),
        ({"tool_pose": poses()}, r"tool_pose = 'unknown': rename it to tool_poses"),
    ],
)
def test_poses_in_another_form_are_named(episode: Path, arrays: dict[str, Any], told: str) -> None:
    np.savez(episode / raw.TRANSITIONS, success=False, **arrays)
    with pytest.raises(EpisodeError, match=told):
        read_outcome(episode)


@pytest.mark.skipif(not REAL_ROBOT.exists(), reason="the real-robot episode is not beside this repository")
def test_a_real_robot_episode_is_read() -> None:
    episode = read_raw_episode(REAL_ROBOT, frame_ids=[8, 147, 1263], size=(48, 64))
    assert episode.frame_count == 1277
    assert len(episode.stages) == 16
    assert episode.keyframes[[0, 1, -1]].tolist() == [8, 147, 1263]
    assert episode.frames.shape == (3, 3, 48, 64, 3)
    assert episode.frames.std() > 20
    assert episode.instructions[0] == "clean the table"
