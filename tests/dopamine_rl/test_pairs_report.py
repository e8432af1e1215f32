"""The sampler's report, the bits of its pairs whoever draws them, and the command that prints both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes.balance import balance
from dopamine_rl.episodes.pairs import EPISODES_PER_BLOCK, HopPairs, sample_blocks
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.episodes.states import sample_states
from dopamine_rl.errors import BadInput
from experiments.commands import grm_pairs as command
from tests.dopamine_rl.test_raw_episodes import make_demonstration
from tests.dopamine_rl.test_states_pairs import EXAMPLE

STATES = [np.arange(0, 40 + 3 * (i % 11), 2 + i % 3) for i in range(2 * EPISODES_PER_BLOCK + 9)]
DIGEST = "6157902dc3949985fd656ee6a70b6f35"
"""Of 3 000 pairs of STATES from seed 7. It may only change on purpose: every stored run's pairs change with it."""


def digest(blocks: Iterable[HopPairs]) -> str:
    columns = ("episode_index", "before_index", "after_index", "hop")
    content = [np.concatenate(parts) for parts in zip(*([getattr(b, c) for c in columns] for b in blocks), strict=True)]
    return hashlib.sha256(b"".join(c.astype(c.dtype.newbyteorder("<")).tobytes() for c in content)).hexdigest()[:32]


def backwards(draw: Callable[[int], HopPairs], blocks: Iterable[int]) -> list[HopPairs]:
    return [draw(block) for block in list(blocks)[::-1]][::-1]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_bits_do_not_depend_on_how_many_draw(workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        assert digest(sample_blocks(STATES, 3000, seed=7, run=pool.map)) == DIGEST


def test_the_bits_do_not_depend_on_order_or_process() -> None:
    assert digest(sample_blocks(STATES, 3000, seed=7, run=backwards)) == DIGEST
    with ProcessPoolExecutor(2) as pool:
        assert digest(sample_blocks(STATES, 3000, seed=7, run=pool.map)) == DIGEST
    assert digest(sample_blocks(STATES, 3000, seed=8)) != DIGEST


def test_blocks_share_the_pairs_by_their_episodes() -> None:
    blocks = list(sample_blocks(STATES, 1370, seed=0))
    assert [len(block.hop) for block in blocks] == [640, 640, 90]
    assert [sorted({int(i) // EPISODES_PER_BLOCK for i in block.episode_index}) for block in blocks] == [[0], [1], [2]]
    assert sum(len(block.hop) for block in sample_blocks(STATES, 3, seed=0)) == 3
    with pytest.raises(BadInput, match="seed"):
        list(sample_blocks(STATES, 3, seed=-1))


def test_the_example_episode_is_filled_evenly() -> None:
    """65 states: no cell is empty, and the three central of 25 bins get 12 % of the balanced pairs, not 40 %."""
    states = sample_states(EXAMPLE, 1277, 20, "released")
    found = balance(sample_blocks([states], 2000, seed=0))
    assert np.all(found.counts == 19)
    assert found.sizes.sum() == 65 * 64
    assert not found.empty.any()
    assert not found.repeated.any()
    assert found.max_deviation == 0.0
    assert found.central_balanced == pytest.approx(3 / 25)
    assert found.central_share == pytest.approx((0.95 * 3 / 25) + 0.05)


def test_cells_that_cannot_be_filled_or_repeat_are_told() -> None:
    found = balance(sample_blocks([np.array([0, 3, 6, 9])], 100, seed=0))
    assert found.sizes.sum() == 12
    assert np.all(found.counts[found.empty] == 0)
    assert found.empty.sum() == 100 - (found.sizes > 0).sum()
    assert np.all(found.counts[~found.empty] >= found.sizes[~found.empty])
    assert found.repeated.any()
    assert found.still == found.zero_hops == 5, "a tenth of three frames is the same frame"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for i in range(2):
        write_demonstration(tmp_path, replace(make_demonstration(1, 9), episode_id=f"take_{i}", success=i == 0))
    return tmp_path


def test_successes_that_pause_are_left_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = make_demonstration(2, 9)
    write_demonstration(data, replace(shown, episode_id="take_2", stages=("pause", *shown.stages[1:])))
    command.main([str(data), "-n", "500", "--frames-per-state", "1"])
    out = capsys.readouterr().out
    assert "successes that pause or retreat left out: 1" in out
    assert json.loads(out.splitlines()[-1])["episodes"] == 1


def test_the_command_prints_a_table_and_ends_with_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        command.main([str(data), "-n", "500", "--frames-per-state", "1"])
    lines = capsys.readouterr().out.splitlines()
    first, again = (json.loads(line) for line in lines if line.startswith("{"))
    assert first == again
    assert lines[-1] == json.dumps(again)
    assert first["episodes"] == 1, "a failure has no states"
    assert np.sum(first["cell_counts"]) + first["zero_hops"] == 500
    assert any("failed episodes left out: 1" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [(["-n", "0"], "-n = 0"), (["--seed", "-1"], "--seed"), (["--zero-share", "1"], "--zero-share")],
)
def test_bad_arguments_end_the_command_with_a_sentence(
    data: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([str(data), *options])
    assert ended.value.code in (1, 2)
    assert f"error: {said}" in capsys.readouterr().err


def test_an_episode_of_two_states_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstration(tmp_path, replace(make_demonstration(1, 5), keyframes=np.array([0, 4]), stages=("all",)))
    with pytest.raises(SystemExit):
        command.main([str(tmp_path)])
    assert "episode_001/annotated_keyframes.json: states = 2" in capsys.readouterr().err
