from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from dopamine_rl.grm.layout import prompt_layout
from experiments.benchmarks import models, scorer


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, float]:
    scorer.main(["--rounds", "1", *words])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"ratio", "ratio_batch_1", "share_of_floor"} <= set(figures)
    assert all(value > 0 for value in figures.values())
    return dict(figures)


def test_the_benchmark_prints_its_figures_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--frames", "2", "--views", "2")["max_abs_difference"] < 1e-4


def test_answers_in_text_are_timed_and_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert "max_abs_difference" not in run(capsys, "--frames", "2", "--views", "1", "--answers", "text")


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
    assert run(capsys, "--architecture", "3b", "--frames", "1")["max_abs_difference"] < 1e-4
