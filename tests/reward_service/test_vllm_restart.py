"""What the vLLM engine does while vLLM is started again; vLLM is a stand-in here (the real one: test_vllm_engine)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dopamine_rl.errors import CheckpointError, ServiceUnavailable
from dopamine_rl.grm.checkpoint import save_grm
from dopamine_rl.grm.config import GRMConfig
from dopamine_rl.grm.model import build_grm
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import ScoreReply
from reward_service.engines import vllm
from reward_service.scorer import Scorer
from reward_service.service import ScoringService, score_each
from tests.fakes import FakeEngine, seeded_request
from tests.waiting import wait_until

TINY = GRMConfig(image_size=28, patch=14, vision_width=32, vision_depth=1, vision_heads=2, text_width=32, text_depth=1)


class _Core:
    """Answers, until it is dead; every one after the first waits for leave to start."""

    made: list[_Core]
    leave: threading.Event
    fails: bool

    def __init__(self, folder: Path, prompts: Any, threads: int | None) -> None:
        self.dead, self.prompts = False, prompts
        if self.made:
            assert self.leave.wait(20)
            if self.fails:
                raise CheckpointError("no memory is left")
        self.made.append(self)

    def answer(self, inputs: Sequence[object], timeout_s: float) -> np.ndarray:
        if self.dead:
            raise ServiceUnavailable("vLLM died; its log says why")
        return np.zeros((len(inputs), len(self.prompts.forks), len(self.prompts.trie.outputs)), np.float32)

    def close(self) -> None:
        self.dead = True


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> vllm.VLLMEngine:
    core = type("Core", (_Core,), {"made": [], "leave": threading.Event(), "fails": False})
    monkeypatch.setattr(vllm, "_Core", core)
    monkeypatch.setattr(vllm, "find_spec", lambda name: True)
    save_grm(build_grm(TINY), tmp_path / "grm", {})
    return vllm.VLLMEngine(tmp_path / "grm")


def _ask(engine: vllm.VLLMEngine) -> int:
    return len(engine.estimate(list(np.zeros((4, 28, 28, 3), np.uint8)), [Prompt("push", (0, 1), (2,), (3,))]).gain)


def test_while_vllm_is_started_again_no_call_waits_and_the_replica_is_well(engine: vllm.VLLMEngine) -> None:
    assert _ask(engine) == 1
    core: Any = engine._core
    core.dead = True
    for _ in range(3):
        with pytest.raises(ServiceUnavailable, match="being started again"):
            _ask(engine)
        engine.check_health()
    core.leave.set()
    assert engine._restart is not None
    engine._restart.result(20)
    assert _ask(engine) == 1
    assert len(core.made) == 2


def test_what_cannot_be_started_again_has_the_replica_replaced(engine: vllm.VLLMEngine) -> None:
    core: Any = engine._core
    service = ScoringService([Scorer(engine)], 8, 0.0, 60.0)
    core.dead, type(core).fails = True, True
    with pytest.raises(ServiceUnavailable):
        _ask(engine)
    service.check_health()
    core.leave.set()
    assert engine._restart is not None
    wait_until(engine._restart.done)
    with pytest.raises(ServiceUnavailable, match="could not be started again: no memory"):
        _ask(engine)
    with pytest.raises(RuntimeError, match="no memory"):
        service.check_health()


class _Down(FakeEngine):
    """Says that it is down."""

    def estimate(self, images: Any, prompts: Any) -> Any:
        self.calls.append((len(images), len(prompts)))
        raise ServiceUnavailable("vLLM did not answer within 45 s")


def test_an_engine_that_is_down_is_asked_once_for_a_whole_batch() -> None:
    engine = _Down()
    answers = score_each(Scorer(engine), [seeded_request(1, seed) for seed in range(8)])
    assert len(engine.calls) == 1  # Eight waits of 45 s would have the replica taken for stuck.
    assert len(answers) == 8
    assert not any(isinstance(answer, ScoreReply) for answer in answers)
