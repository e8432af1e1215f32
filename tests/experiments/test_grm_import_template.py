"""From a clone and a checkpoint to figures: `grm import-template`, `score` and `eval` on a real robot's pictures."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dopamine_rl.episodes.listing import find_recordings
from dopamine_rl.episodes.recordings import read_frames
from dopamine_rl.episodes.video import write_video
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.contract import RELEASED
from dopamine_rl.grm.readout import Reader, binned_hops
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import PERSPECTIVES
from experiments import cli
from tests.dopamine_rl.released import ARCHITECTURES, CLONED_WORDING, Architecture, released_folder, stock_answers

REAL_ROBOT = Path(__file__).parents[3] / "shared" / "data" / "real_robot_raw"
STRIDE, CAMERAS = 210, ("cam_high", "cam_left_wrist", "cam_right_wrist")
TASK = "clean the table"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").mkdir()
    (folder / "examples" / "inference.py").write_text(f'import vllm_or_fail\n\nASK = """{CLONED_WORDING}"""\n')
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes with every 210th picture of the real robot's three cameras: it works once from either half."""
    if not REAL_ROBOT.exists():
        pytest.skip("the real-robot episode is not beside this repository")
    [recording] = find_recordings(str(REAL_ROBOT / "episode_001"))
    frames = read_frames(recording, STRIDE // 2, (480, 640), 3).frames[:-1]
    folder = tmp_path_factory.mktemp("raw")
    shutil.copyfile(REAL_ROBOT / "task_instruction.json", folder / "task_instruction.json")
    for number, shown in enumerate((frames[0::2], frames[1::2]), 1):
        episode = folder / f"episode_{number:03d}"
        episode.mkdir()
        for camera, pictures in zip(CAMERAS, shown.swapaxes(0, 1), strict=True):
            write_video(episode / f"{camera}.mp4", pictures, 30 / STRIDE)
        ends = [0, len(shown) // 2, len(shown) - 1]
        segments = [
            {"annotation": f"half {i}", "start_frame_id": ends[i], "end_frame_id": ends[i + 1]} for i in range(2)
        ]
        (episode / "annotated_keyframes.json").write_text(json.dumps(segments))
    return folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = released_folder(tmp_path_factory.mktemp("released") / request.param, request.param, template=False)
    cli.main(["grm", "import-template", str(clone), str(folder)])
    return folder


def pictures(episode: Path, stride: int, views: int) -> NDArray[np.uint8]:
    [recording] = find_recordings(str(episode))
    return read_frames(recording, stride, (480, 640), views).frames


def stock_hops(checkpoint: Path, demo: NDArray[np.uint8], frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """E[H⁺] and E[H⁻], [2, P], about the last frame, by the stock model with eight pictures for each question."""
    grm = load_grm(checkpoint)
    images = np.concatenate([demo[0, :1], demo[-1], *frames])
    goal, (init, *_, previous, last) = (1, 2, 3), [tuple(range(4 + 3 * f, 7 + 3 * f)) for f in range(len(frames))]
    prompts = [Prompt(TASK, (0, 1), before, last) for before in (previous, init, goal)]
    with torch.no_grad():
        logits = torch.stack([stock_answers(grm, images, prompt) for prompt in prompts])
    return torch.stack(binned_hops(logits)[:2]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("views", [3, 1])
def test_scores_are_those_of_the_stock_model(checkpoint: Path, raw: Path, views: int, tmp_path: Path) -> None:
    episode, demo = raw / "episode_002", raw / "episode_001"
    words = ["--demo", demo, "--model", checkpoint, "--stride", 2, "--size", "480x640", "--views", views]
    cli.main(["grm", "score", str(episode), *map(str, words), "--no-video", "--threads", "1", "--out", str(tmp_path)])
    row = list(csv.DictReader((tmp_path / "episode_002.csv").open()))[-1]
    found = [[float(row[f"{what}_{name}"]) for name in PERSPECTIVES] for what in ("gain", "loss")]
    # One camera: the front view stands for both wrists, in the goal too.
    front = [0, 1, 2] if views == 3 else [0, 0, 0]
    stock = stock_hops(checkpoint, pictures(demo, 1, 3)[:, front], pictures(episode, 2, 3)[:, front])
    np.testing.assert_allclose(found, stock, rtol=0, atol=1e-4)
    assert stock.std(axis=1).min() > 1e-4


@pytest.mark.slow
def test_it_is_evaluated(checkpoint: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [checkpoint, raw, "--stride", 1, "--views", "front+wrist+close-up", "--threads", 1, "--out", tmp_path]
    cli.main(["grm", "eval", *map(str, words)])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["model_version"] == load_grm(checkpoint).model_version
    assert (tmp_path / "eval.md").exists()


def test_a_picture_of_a_real_camera_has_the_tokens_of_the_training(checkpoint: Path) -> None:
    layout = Reader(load_grm(checkpoint)).layout(TASK, 3, 480, 640)
    pictures = sum(len(part.slots) for part in layout.parts)
    assert pictures == 8 * {"qwen2_5_vl": 88, "qwen3_vl": 70}[checkpoint.name]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_command_says_what_it_did(
    architecture: Architecture, clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = released_folder(tmp_path / "GRM", architecture, template=False)
    processor = folder / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace("76800", "999999"))
    words = ["grm", "import-template", str(clone), str(folder)]
    preset = {"qwen2_5_vl": "grm-3b", "qwen3_vl": "grm-2.0"}[architecture]

    def said() -> dict[str, Any]:
        cli.main(words)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    first = said()
    assert first["changed"] == ["preprocessor_config.json", "template.json"]
    assert first["preset"] == preset
    assert first["wording"].startswith("ASK of ")
    assert said()["changed"] == []
    words += ["--preset", "grm-3b"]
    assert said()["preset"] == "grm-3b"
    assert load_grm(folder).template.contract == RELEASED["grm-3b"]


def test_arguments_are_checked_in_order_before_anything_heavy_is_imported(clone: Path) -> None:
    cases = {
        "CLONE = 'nope': no such file: give a clone": ["nope", "nope2"],
        "CHECKPOINT = 'nope2': it is not a folder: give": [str(clone), "nope2"],
        "it is not a model's folder, config.json is missing": [str(clone), str(clone)],
        "--text = 'nope': give a text file": ["--text", "nope", "nope2"],
        "--constant = 'OTHER': ": ["--constant", "OTHER", str(clone), "nope2"],
    }
    program = (
        "import contextlib, json, sys\n"
        "from experiments.commands.grm_import_template import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    with contextlib.suppress(SystemExit): main(words)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, json.dumps(list(cases.values()))]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    assert len(told) == len(cases)
    assert [fix in line for fix, line in zip(cases, told, strict=True)] == [True] * len(cases), told


def test_what_it_cannot_use_ends_with_a_message(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, why in (
        ([clone, tmp_path], "config.json is missing"),
        ([clone, tmp_path / "nowhere"], "not a folder"),
        (["--constant", "OTHER", clone, released_folder(tmp_path / "GRM", "qwen3_vl", template=False)], "--constant"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["grm", "import-template", *map(str, words)])
        assert ended.value.code == 1
        assert why in capsys.readouterr().err
    for name, content, why in (
        ("preprocessor_config.json", "", "preprocessor_config.json cannot be read"),
        ("preprocessor_config.json", "[1]", "preprocessor_config.json cannot be read"),
        ("config.json", '{"model_type": ["x"]}', "use a Qwen2.5-VL or Qwen3-VL checkpoint"),
        ("model.safetensors", "", "model.safetensors cannot be read"),
    ):
        broken = shutil.copytree(tmp_path / "GRM", tmp_path / "broken")
        (broken / name).write_text(content)
        for out in ([], ["--out", tmp_path / "out"]):
            with pytest.raises(SystemExit) as ended:
                cli.main(["grm", "import-template", str(clone), str(broken), *map(str, out)])
            assert ended.value.code == 1
            [said] = capsys.readouterr().err.splitlines()
            assert why in said
            assert str(broken) in said
        shutil.rmtree(broken)
    deep = tmp_path / "deep.py"
    deep.write_text("ASK = " + "+".join(20_000 * ['"a"']))
    with pytest.raises(SystemExit):
        cli.main(["grm", "import-template", str(deep), str(tmp_path / "GRM")])
    assert "cannot be parsed as Python" in capsys.readouterr().err
    assert not (tmp_path / "GRM" / "template.json").exists()
    assert not (tmp_path / "out").exists()
