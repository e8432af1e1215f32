from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.config import BatchPlan, GRMConfig, SFTConfig, TrainConfig
from dopamine_rl.types import Demonstration

ROOT = Path(__file__).resolve().parents[2]
TINY = GRMConfig(
    image_size=56, patch=14, vision_width=32, vision_depth=1, vision_heads=2, text_width=32, text_depth=1, text_heads=2
)
PLAN = BatchPlan(episodes=1, runs=2, run_length=2, neighbours=2, balanced=2)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four successes and two failures: a bright square moves, and stops half-way where it fails."""
    folder = tmp_path_factory.mktemp("raw")
    for index in range(6):
        success = index < 4
        truth = np.linspace(0.0, 1.0 if success else 0.5, 10).astype(np.float32)
        frames = np.full((10, 2, 56, 56, 3), 60, np.uint8)
        for f, progress in enumerate(truth):
            left = int(4 + 40 * progress)
            frames[f, :, 20 + index : 30 + index, left : left + 10] = 220
        write_demonstration(
            folder,
            Demonstration(
                episode_id=f"episode_{index:03d}",
                instructions=("push the block",),
                frames=frames,
                frame_steps=np.arange(10),
                keyframes=np.array([0, 4, 9]),
                stages=("near", "push"),
                observations=np.zeros((10, 3), np.float32),
                actions=np.zeros((9, 2), np.float32),
                task_rewards=np.zeros(9, np.float32),
                terminated=success,
                success=success,
                seed=index,
                true_progress=truth,
            ),
        )
    return folder


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_ends_with_a_model_and_its_figures(cluster: None, raw: Path, tmp_path: Path, workers: int) -> None:
    from dopamine_rl.grm.model import load_grm, model_version
    from learner.grm_sft import train_grm

    folders = sorted(path for path in raw.iterdir() if path.is_dir())
    train = TrainConfig(budget_s=0, updates=7, plan=PLAN)
    config = SFTConfig(train=train, workers=workers, threads=1, checkpoint_updates=3)
    unseen = [folders[3], folders[5]]
    out = train_grm(
        config, TINY, [*folders[:3], folders[4]], tmp_path / "grm", tmp_path / "work", {"seed": 0}, held_out=unseen
    )
    content = json.loads((out / "grm.json").read_text())
    assert content["model_version"] == model_version(out) == load_grm(out).model_version
    assert content["card"]["result"]["update"] == 7
    assert content["card"]["episodes"] == 4
    assert {"voc_plus", "voc_minus", "mae", "end", "auc"} <= set(content["card"]["held_out"])


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_process_of_the_job_raises_on_purpose_is_said_without_a_traceback(
    cluster: None, raw: Path, tmp_path: Path
) -> None:
    from learner.grm_sft import train_grm

    config = SFTConfig(start_from=str(tmp_path / "nowhere"), threads=1, max_failures=0)
    folder = next(path for path in sorted(raw.iterdir()) if path.is_dir())
    with pytest.raises(CheckpointError, match="nowhere is not a folder") as error:
        train_grm(config, TINY, [folder], tmp_path / "grm", tmp_path / "work", {})
    assert "Traceback" not in str(error.value)
    assert not (tmp_path / "grm").exists()


def test_no_episodes_no_job(tmp_path: Path) -> None:
    from learner.grm_sft import train_grm

    with pytest.raises(BadInput, match="episodes"):
        train_grm(SFTConfig(), TINY, [], tmp_path / "grm", tmp_path / "work", {})


def test_the_last_of_each_kind_are_held_out(raw: Path) -> None:
    from experiments.grm_sft import split

    training, unseen = split(raw, 1)
    assert [path.name[-3:] for path in training] == ["000", "001", "002", "004"]
    assert [path.name[-3:] for path in unseen] == ["003", "005"]
    with pytest.raises(BadInput, match="more than 4"):
        split(raw, 4)


def test_the_command_explains_itself_without_ray() -> None:
    code = "import sys; sys.argv = ['grm_sft', '--help']\nfrom experiments.grm_sft import main\n" + (
        "try:\n    main()\nexcept SystemExit:\n    print('transformers' in sys.modules, 'ray' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "--held-out" in shown.stdout
    assert shown.stdout.strip().endswith("False False")
