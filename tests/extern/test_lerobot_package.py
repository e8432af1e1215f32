"""The real `lerobot` package and ours on the same datasets; it has an environment of its own (`make lerobot-env`)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dopamine_rl.episodes.lerobot import LeRobotSource
from dopamine_rl.episodes.lerobot_columns import write_progress
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.errors import EpisodeError
from tests.dopamine_rl.test_lerobot_copy import KEYS, moving, recorded
from tests.dopamine_rl.test_motion import STEP, record, recording

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-lerobot"
PROGRAM = Path(__file__).with_name("lerobot_program.py")
COUNTS = (11, 24)

pytestmark = pytest.mark.extern


def run(folder: Path, *words: object) -> str:
    """Run a program in LeRobot's environment, without a network; its output."""
    assert (ENVIRONMENT / ".installed").exists(), "build LeRobot's environment first: make lerobot-env"
    variables = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "HF_LEROBOT_HOME": str(folder / "home"),
        "LD_LIBRARY_PATH": str(ENVIRONMENT / "lib/ffmpeg"),
        "PYTHONPATH": "",
        "OMP_NUM_THREADS": "2",
    }
    command = [str(ENVIRONMENT / "bin/python"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def read(folder: Path, dataset: Path) -> dict[str, Any]:
    """What LeRobot reads of a dataset."""
    run(folder, PROGRAM, "read", dataset, folder / "read.npz")
    with np.load(folder / "read.npz") as file:
        return dict(file)


def ours(folder: Path, codec: dict[str, str], copy: bool = True, lossless: bool = False) -> Path:
    """A dataset that we wrote, of recordings of another program."""
    for i, count in enumerate(COUNTS):
        recorded(folder / "raw", f"take_{i}", count, i, **codec)
    write_dataset(folder / "set", open_source(folder / "raw"), lossless=lossless, copy=copy)
    return folder / "set"


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ({"g": "7", "bf": "3"}, {}),
        ({"codec": "libsvtav1", "preset": "8", "g": "2"}, {}),
        ({}, {"copy": False}),
        ({}, {"copy": False, "lossless": True}),
    ],
    ids=["copied", "copied-av1", "encoded", "lossless"],
)
def test_lerobot_reads_every_frame_that_we_write(
    tmp_path: Path, codec: dict[str, str], options: dict[str, Any]
) -> None:
    root = ours(tmp_path, codec, **options)
    write_progress(root, {"episode_000001": np.linspace(0, 1, 24, dtype=np.float32)})
    content, source = read(tmp_path, root), LeRobotSource(root)
    assert content["cameras"].tolist() == list(KEYS)
    assert content["frame_index"].tolist() == [k for count in COUNTS for k in range(count)]
    assert content["tasks"].tolist() == ["put the peg in"] * sum(COUNTS)
    assert np.array_equal(content["progress"][11:], np.linspace(0, 1, 24, dtype=np.float32))
    begin = 0
    for info in source.episodes():
        frames = source.frames(info.episode_id, np.arange(info.frame_count))
        for view, key in enumerate(KEYS):
            pixels = content[key][begin : begin + info.frame_count].transpose(0, 2, 3, 1) * 255.0
            # Its decoder turns colours into RGB in its own way; another frame would differ by far more.
            assert np.abs(pixels - frames[:, view]).mean() < 3.0
            shifted = np.abs(pixels[1:] - frames[:-1, view]).mean(axis=(1, 2, 3))
            assert (shifted > 2 * np.abs(pixels[1:] - frames[1:, view]).mean(axis=(1, 2, 3))).all()
        begin += info.frame_count


def test_lerobot_reads_pictures_with_odd_sides(tmp_path: Path) -> None:
    recorded(tmp_path / "raw", "take_0", 9, 0)
    raw = open_source(tmp_path / "raw")

    class Odd:
        episodes = staticmethod(raw.episodes)

        @staticmethod
        def frames(episode_id: str, frame_ids: np.ndarray, size: Any = None) -> np.ndarray:
            return np.stack([moving(9, view, 97, 129)[frame_ids] for view in range(2)], axis=1)

    write_dataset(tmp_path / "set", Odd())
    content = read(tmp_path, tmp_path / "set")
    for view, key in enumerate(KEYS):
        assert content[key].shape == (9, 3, 97, 129)
        assert np.abs(content[key].transpose(0, 2, 3, 1) * 255.0 - moving(9, view, 97, 129)).mean() < 6.0


def test_lerobot_reads_what_a_robot_measured_and_did(tmp_path: Path) -> None:
    episodes = [recording("a"), recording("b", 9)]
    write_dataset(tmp_path / "set", open_source(record(tmp_path / "raw", *episodes)))
    content = read(tmp_path, tmp_path / "set")
    still = np.zeros((1, 2), np.float32)
    done = [np.concatenate((episode.actions * np.float32(STEP), still)) for episode in episodes]
    np.testing.assert_allclose(content["action"], np.concatenate(done), rtol=1e-6)
    np.testing.assert_array_equal(content["observation.state"], np.concatenate([e.observations for e in episodes]))
    np.testing.assert_allclose(content["stats/action/max"], np.concatenate(done).max(0), rtol=1e-6)


def test_lerobot_trains_on_what_we_write_with_our_statistics(tmp_path: Path) -> None:
    root = ours(tmp_path, {})
    with_actions(root)
    small = ["dim_model=32", "n_heads=2", "dim_feedforward=32", "n_encoder_layers=1", "n_vae_encoder_layers=1"]
    small += ["latent_dim=4", "chunk_size=4", "n_action_steps=4", "pretrained_backbone_weights=null"]
    said = run(
        tmp_path,
        *("-m", "lerobot.scripts.lerobot_train", "--dataset.repo_id=local/dataset", f"--dataset.root={root}"),
        *shlex.split("--policy.type=act --policy.device=cpu --policy.push_to_hub=false"),
        *(f"--policy.{word}" for word in small),
        *shlex.split("--steps=1 --log_freq=1 --batch_size=2 --num_workers=0 --dataset.use_imagenet_stats=false"),
        f"--output_dir={tmp_path / 'run'}",
    )
    assert "loss:" in said
    assert "nan" not in said[said.index("loss:") :].split()[0]
    (normalizer,) = (tmp_path / "run").rglob("policy_preprocessor_step_*_normalizer_processor.safetensors")
    from safetensors.numpy import load_file

    used, stats = load_file(normalizer), json.loads((root / "meta/stats.json").read_text())
    for key in KEYS:
        for figure in ("mean", "std"):
            assert np.allclose(used[f"{key}.{figure}"], stats[key][figure])


def with_actions(root: Path) -> None:
    """Add columns of states and actions, which its policies want and we do not write."""
    (path,) = root.glob("data/*/*.parquet")
    table = parquet.read_table(path)
    info, stats = (json.loads((root / "meta" / name).read_text()) for name in ("info.json", "stats.json"))
    for name in ("observation.state", "action"):
        rows = np.random.default_rng(0).normal(size=(len(table), 2))
        table = table.append_column(name, pa.array(rows.tolist(), pa.list_(pa.float32())))
        info["features"][name] = {"dtype": "float32", "shape": [2], "names": ["x", "y"]}
        figures = {figure: getattr(rows, figure)(axis=0).tolist() for figure in ("min", "max", "mean", "std")}
        stats[name] = {**figures, "count": [len(table)]}
    parquet.write_table(table, path)
    for name, content in (("info.json", info), ("stats.json", stats)):
        (root / "meta" / name).write_text(json.dumps(content))


def test_we_read_what_lerobot_writes(tmp_path: Path) -> None:
    run(tmp_path, PROGRAM, "write", tmp_path / "set", "video")
    source = LeRobotSource(tmp_path / "set")
    assert source.cameras == ("observation.images.left.rgb", "observation.images.right.rgb")
    pictures = written_pictures()
    for number, info in enumerate(source.episodes()):
        assert info.instructions == (f"task {number}",)
        frames = source.frames(info.episode_id, np.arange(info.frame_count))
        for view in range(2):
            assert np.abs(frames[:, view].astype(int) - pictures(number, view)).mean() < 8.0
        assert source.column(info.episode_id, "action")[:, 0].tolist() == list(range(info.frame_count))
    # Copied into a dataset of ours, which LeRobot reads in turn.
    write_dataset(tmp_path / "again", source)
    content, again = read(tmp_path, tmp_path / "again"), LeRobotSource(tmp_path / "again")
    for number, info in enumerate(again.episodes()):
        frames = again.frames(info.episode_id, np.arange(info.frame_count))
        assert np.array_equal(frames, source.frames(info.episode_id, np.arange(info.frame_count)))
        rows = content["episode_index"] == number
        assert np.abs(content[again.cameras[1]][rows].transpose(0, 2, 3, 1) * 255.0 - frames[:, 1]).mean() < 3.0
    theirs = json.loads((tmp_path / "set/meta/stats.json").read_text())
    stats = json.loads((tmp_path / "again/meta/stats.json").read_text())
    for key in source.cameras:
        assert set(stats[key]) == set(theirs[key])
        # Theirs are of the pictures before coding; their std is wrong, because squares of uint8 overflow.
        assert np.allclose(stats[key]["mean"], theirs[key]["mean"], atol=0.02)
    for name in ("timestamp", "frame_index", "index"):
        for figure in ("min", "max", "mean", "std", "count"):
            assert np.allclose(stats[name][figure], theirs[name][figure], atol=1e-6)


def test_features_stored_as_images_are_named(tmp_path: Path) -> None:
    run(tmp_path, PROGRAM, "write", tmp_path / "set", "image")
    with pytest.raises(EpisodeError, match="features"):
        LeRobotSource(tmp_path / "set")


def written_pictures() -> Any:
    """The function with which the program makes its pictures; what it imports is not here."""
    text = PROGRAM.read_text(encoding="utf-8").replace("import torch\n", "")
    text = text.replace("from lerobot.datasets.lerobot_dataset import LeRobotDataset\n", "")
    scope: dict[str, Any] = {}
    exec(compile(text, str(PROGRAM), "exec"), scope)
    return scope["pictures"]
