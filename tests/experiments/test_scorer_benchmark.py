from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dopamine_rl.grm.layout import prompt_layout
from experiments.benchmarks import models, scorer


def run(*arguments: str) -> dict[str, float]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "experiments.benchmarks.scorer", "--rounds", "1", "--frames", "2", "--views", "2"]
    done = subprocess.run([*command, *arguments], cwd=root, capture_output=True, text=True, timeout=120, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"ratio", "ratio_batch_1", "share_of_floor"} <= set(figures)
    assert all(value > 0 for value in figures.values())
    return figures


def test_the_benchmark_prints_its_figures_last() -> None:
    assert run()["max_abs_difference"] < 1e-4


def test_answers_in_text_are_timed_and_not_compared() -> None:
    assert "max_abs_difference" not in run("--answers", "text")


def test_the_3b_model_is_asked_as_released_ones_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same code at a hundredth of the size: its prompt, its pictures and its readout."""
    small = {
        "vision": {"hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 256},
        "text": {"hidden_size": 256, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1},
    }
    shallow = {
        "vision": {"depth": 2, "window_size": 112, "fullatt_block_indexes": [1]},
        "text": {"num_hidden_layers": 2, "vocab_size": 1500},
    }
    monkeypatch.setattr(models, "WIDTH", small)
    monkeypatch.setattr(models, "DEPTH", shallow)
    grm = models.make_grm("3b", torch.float32, "cpu")
    layout = prompt_layout(grm, scorer.INSTRUCTION, 3, 8, 11)
    pictures = [int((part.input_ids == grm.model.config.image_token_id).sum()) for part in layout.parts]
    assert pictures == [2 * 88, 3 * 88, 3 * 88]
    assert 550 < len(layout.input_ids) - sum(pictures) < 700
    options = ["--architecture", "3b", "--rounds", "1", "--frames", "1"]
    monkeypatch.setattr(sys, "argv", ["scorer", *options])
    scorer.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["max_abs_difference"] < 1e-4
