"""Progress beside a demonstration's path."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.labels import label
from dopamine_rl.paths import PathConfig, path_progress
from dopamine_rl.types import EpisodeInfo

CONFIG = PathConfig(scale_m=0.01, lever_m=0.1)
UPRIGHT = [0.0, 0.0, 0.0, 1.0]


def at(*positions: tuple[float, float, float]) -> np.ndarray:
    return np.array([[*position, *UPRIGHT] for position in positions], np.float32)


# Sideways to the axis first, then along it to the goal.
PATH = at((0.0, 0.02, 0.0), (0.0, 0.01, 0.0), (0.0, 0.0, 0.0), (0.02, 0.0, 0.0), (0.04, 0.0, 0.0))
PROGRESS = np.linspace(0.0, 1.0, 5)


def test_on_the_path_progress_is_the_demonstrations() -> None:
    found = path_progress(PATH, [(PATH, PROGRESS)], CONFIG)
    assert (found >= PROGRESS - 1e-9).all()
    assert found[2:] == pytest.approx(PROGRESS[2:])
    assert found[0] == pytest.approx(0.25 * np.exp(-1.0))  # the next place is worth more than its own time


def test_misaligned_at_the_goal_is_worth_less_than_aligned_further_off() -> None:
    aligned, misaligned = path_progress(at((0.0, 0.0, 0.0), (0.04, 0.03, 0.0)), [(PATH, PROGRESS)], CONFIG)
    assert misaligned < 0.1 * aligned


def test_progress_falls_with_every_step_aside_and_every_turn() -> None:
    aside = path_progress(at(*[(0.02, 0.0, 0.002 * i) for i in range(8)]), [(PATH, PROGRESS)], CONFIG)
    turned = at(*[(0.02, 0.0, 0.0)] * 8)
    turned[:, 3:] = Rotation.from_rotvec(np.outer(np.arange(8) * 0.03, [1.0, 0.0, 0.0])).as_quat()
    turns = path_progress(turned, [(PATH, PROGRESS)], CONFIG)
    assert (np.diff(aside) < 0.0).all()
    assert turns == pytest.approx(0.75 * np.exp(-np.arange(8) * 0.03 * 0.1 / 0.01), rel=1e-4)
    turned[:, 3:] *= -1.0  # the same rotations
    assert path_progress(turned, [(PATH, PROGRESS)], CONFIG) == pytest.approx(turns)


def test_the_nearest_of_several_paths_counts() -> None:
    other = PATH + np.array([0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 0.0], np.float32)
    paths = [(PATH, PROGRESS), (other, PROGRESS)]
    assert path_progress(other, paths, CONFIG) == pytest.approx(path_progress(PATH, paths, CONFIG))
    with pytest.raises(BadInput, match="give a success"):
        path_progress(PATH, [], CONFIG)


@pytest.mark.parametrize(
    ("field", "value"), [("scale_m", 0.0), ("scale_m", np.inf), ("scale_m", 13.0), ("lever_m", -1.0)]
)
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"sft.path.{field}"):
        replace(CONFIG, **{field: value})


def episode(name: str, poses: np.ndarray | None, success: bool, task: str = "insert") -> EpisodeInfo:
    return EpisodeInfo(
        name, (task,), 5, 20.0, ("front",), np.array([0, 2, 4]), ("align", "insert"), "k", success, tool_poses=poses
    )


def test_failures_are_labelled_by_the_path_of_their_task() -> None:
    shifted = PATH + np.array([0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0], np.float32)
    demonstration, failure = episode("demo", PATH, True), episode("try", shifted, False)
    elsewhere = episode("elsewhere", shifted, True, task="another")
    labels = label([failure, demonstration, elsewhere], failures="path", path=CONFIG)
    assert [each.success for each in labels] == [False, True, True]
    assert labels[1].progress == pytest.approx(path_progress(PATH, [(PATH, PROGRESS)], CONFIG), abs=1e-6)
    assert labels[0].progress[2:] == pytest.approx(PROGRESS[2:] * np.exp(-1.0), rel=1e-4)
    assert labels[2].progress[-1] == 1.0


def test_episodes_without_poses_are_named() -> None:
    with pytest.raises(BadInput, match=r"try\.tool_poses"):
        label([episode("demo", PATH, True), episode("try", None, False)], failures="path")
    resting = np.tile(PATH[:1], (5, 1))
    with pytest.raises(BadInput, match=r"demo\.tool_poses = 'the same in all frames'"):
        label([episode("demo", resting, True), episode("try", PATH, False)], failures="path")
