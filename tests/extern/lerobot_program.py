"""What the real `lerobot` package does with a dataset: python lerobot_program.py read ROOT OUT | write ROOT KIND

It runs in an environment of its own (scripts/lerobot_env.sh), where our packages are not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS, LENGTHS, SHAPE = 10, (7, 9), (96, 128, 3)


def read(root: Path, out: Path) -> None:
    """Read every frame of a dataset, and keep what was read as OUT.npz."""
    dataset = LeRobotDataset("local/dataset", root=root)
    columns: dict[str, list[np.ndarray]] = {}
    tasks = []
    for item in torch.utils.data.DataLoader(dataset, batch_size=None):
        tasks.append(item.pop("task"))
        for name, value in item.items():
            if isinstance(value, torch.Tensor):
                columns.setdefault(name, []).append(value.numpy())
    content = {name: np.stack(values) for name, values in columns.items()}
    for name, figures in dataset.meta.stats.items():
        content |= {f"stats/{name}/{figure}": np.asarray(value) for figure, value in figures.items()}
    np.savez(out, tasks=np.array(tasks), cameras=np.array(dataset.meta.camera_keys), **content)


def pictures(episode: int, camera: int) -> np.ndarray:
    """Smooth pictures that tell episode, camera and frame apart, uint8 [F, H, W, 3]."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = [
        np.stack([x + 12 * k, y + 60 * camera, 0 * x + 100 * episode + 9 * k], -1) for k in range(LENGTHS[episode])
    ]
    return (np.stack(frames) % 256).astype(np.uint8)


def write(root: Path, kind: str) -> None:
    """Write two episodes of two cameras as `video` or `image` features."""
    names = ["height", "width", "channels"]
    cameras = ("observation.images.left.rgb", "observation.images.right.rgb")
    features = {camera: {"dtype": kind, "shape": SHAPE, "names": names} for camera in cameras}
    features["action"] = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    dataset = LeRobotDataset.create("local/dataset", FPS, features, root=root, use_videos=kind == "video")
    for episode, length in enumerate(LENGTHS):
        views = [pictures(episode, camera) for camera in range(2)]
        for k in range(length):
            frame = {camera: view[k] for camera, view in zip(cameras, views, strict=True)}
            dataset.add_frame({**frame, "action": np.array([k, episode], np.float32), "task": f"task {episode}"})
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    command, first, second = sys.argv[1:]
    if command == "read":
        read(Path(first), Path(second))
    else:
        write(Path(first), second)
