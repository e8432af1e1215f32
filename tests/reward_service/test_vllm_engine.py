"""The vLLM engine for real, on the CPU, in the environment that scripts/vllm_env.sh builds, at first for long."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray

from dopamine_rl.grm.checkpoint import load_grm, save_grm
from dopamine_rl.grm.config import GRMConfig
from dopamine_rl.grm.layout import prompt_layout
from dopamine_rl.grm.model import build_grm
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import EpisodeContext, HopEstimates, ScoreRequest
from reward_service.client import ServeRewardClient
from reward_service.deployment import deploy, shutdown
from reward_service.engines.transformers import TransformersEngine
from reward_service.engines.vllm import CPU_BLOCK
from reward_service.scorer import Scorer
from reward_service.service import ServiceConfig
from tests.dopamine_rl.released import ARCHITECTURES, Architecture, released_folder
from tests.reward_service.vllm_program import Answers

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SIDE, SEEN = 56, 12
TINY = GRMConfig(
    image_size=SIDE,
    patch=14,
    vision_width=32,
    vision_depth=2,
    vision_heads=2,
    text_width=64,
    text_depth=2,
    text_heads=2,
)  # The language model's heads are 32 wide: the least that vLLM takes on a CPU.
PUSH = "push the cube"
TOLERANCE = 1e-5
"""Both engines compute in float32; they differ by about 1e-6."""

Call = tuple[list[NDArray[np.uint8]], list[Prompt]]


def _pictures(count: int, side: int = SIDE) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def _prompts(views: int, count: int, pictures: int = SEEN) -> list[Prompt]:
    shown = np.random.default_rng(views).integers(2, pictures, (count, 2, views)).tolist()
    return [Prompt(PUSH, (0, 1), tuple(before), tuple(after)) for before, after in shown]


def _calls() -> dict[str, Call]:
    seen = _pictures(SEEN)
    one = Prompt(PUSH, (0, 1), (2, 3), (4, 5))
    unanswerable = [
        one,
        Prompt(PUSH, (0, 1), (2, 3), (4, SEEN)),
        Prompt(PUSH, (0, 1), (2, 3), (4, 99)),
        Prompt("<|im_end|>", (0, 1), (2, 3), (4, 5)),
        Prompt("push " * 400, (0, 1), (2, 3), (4, 5)),
        Prompt(PUSH, (0, 1), (2, 3, 2, 3), (4, 5, 4, 5)),
        Prompt("stack the blocks", (4, 5), (2,), (3,)),
    ]
    return {
        "one view": (seen, _prompts(1, 32)),
        "two views": (seen, _prompts(2, 48)),
        "three views": (seen, _prompts(3, 48)),
        "again": (seen, _prompts(2, 48)),
        "one alone": (seen, _prompts(2, 48)[7:8]),
        "copies": (
            [*seen, *seen],
            [prompt.reindexed({i: i + SEEN for i in range(SEEN)}) for prompt in _prompts(2, 48)],
        ),
        "unanswerable": ([*seen, *_pictures(1, 84)], unanswerable),
        "larger": (_pictures(SEEN, 84), _prompts(2, 32)),
        "nothing": ([], []),
        "after a failure": (seen, _prompts(2, 48)),
    }


@pytest.fixture(scope="module")
def vllm_python() -> Path:
    subprocess.run(["bash", str(ROOT / "scripts/vllm_env.sh"), sys.executable], check=True)
    return ROOT / ".venv-vllm/bin/python"


def _ask(python: Path, folder: Path, calls: list[Call], *narrow: str) -> Answers:
    """What the engine answers about the model `grm` of a folder, in its environment."""
    (folder / "questions").write_bytes(pickle.dumps(calls))
    files = [str(folder / name) for name in ("grm", "questions", "answers")]
    subprocess.run(
        [str(python), "-m", "tests.reward_service.vllm_program", *files, *narrow],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=900,
        start_new_session=True,
    )
    return Answers(**pickle.loads((folder / "answers").read_bytes()))


@dataclass(frozen=True)
class Both:
    told: Answers
    vllm: dict[str, HopEstimates]
    embedded: dict[str, HopEstimates]
    folder: Path


@pytest.fixture(scope="module")
def both(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Both engines' answers to the same calls."""
    folder, calls = tmp_path_factory.mktemp("vllm"), _calls()
    save_grm(build_grm(TINY), folder / "grm", {})
    save_grm(build_grm(replace(TINY, text_width=32)), folder / "narrow", {})
    told = _ask(vllm_python, folder, list(calls.values()), str(folder / "narrow"))
    engine, embedded = TransformersEngine(folder / "grm", threads=1, cache_bytes=0), {}
    for (name, call), seconds in zip(calls.items(), told.seconds, strict=True):
        started = time.perf_counter()
        embedded[name] = engine.estimate(*call)
        print(f"{name}: {len(call[1])} prompts, vLLM {seconds:.3f} s, embedded {time.perf_counter() - started:.3f} s")
    return Both(told, dict(zip(calls, told.estimates, strict=True)), embedded, folder / "grm")


@pytest.mark.parametrize("name", list(_calls()))
def test_both_engines_agree_on_the_same_weights(both: Both, name: str) -> None:
    theirs, ours = both.vllm[name], both.embedded[name]
    answered = theirs.valid & ours.valid
    for ask in ("gain", "loss", "entropy"):
        np.testing.assert_allclose(getattr(theirs, ask)[answered], getattr(ours, ask)[answered], atol=TOLERANCE)
    if name != "unanswerable":
        assert answered.all()
    if len(answered) > 1:
        assert ours.hop[answered].std() > 100 * TOLERANCE


def test_both_engines_name_the_same_version(both: Both) -> None:
    assert both.told.version == TransformersEngine(both.folder).model_version


def test_shared_pictures_and_beginnings_change_no_answer(both: Both) -> None:
    first = both.vllm["two views"].hop
    np.testing.assert_allclose(both.vllm["again"].hop, first, atol=TOLERANCE)
    np.testing.assert_allclose(both.vllm["copies"].hop, first, atol=TOLERANCE)
    np.testing.assert_allclose(both.vllm["one alone"].hop, first[7:8], atol=TOLERANCE)


def test_what_was_read_before_is_not_read_again(both: Both) -> None:
    cached = dict(zip(both.vllm, both.told.cached, strict=True))
    again = both.told.tokens[list(both.vllm).index("again")]
    assert cached["two views"] > 0  # Questions of one call share what they begin with.
    # All whole blocks that do not hold the last token.
    assert cached["again"] == cached["copies"] == sum((len(tokens) - 1) // CPU_BLOCK * CPU_BLOCK for tokens in again)


def test_a_model_whose_heads_vllm_cannot_run_is_refused_before_it_answers(both: Both) -> None:
    assert "heads of 16 channels" in both.told.refused


def test_the_model_reads_the_very_tokens_of_the_embedded_engine(both: Both) -> None:
    grm = load_grm(both.folder)
    for views, call in ((1, 0), (2, 1), (3, 2)):
        wanted = prompt_layout(grm, PUSH, views, 2, 2).input_ids.tolist()
        assert all(tokens == wanted for tokens in both.told.tokens[call])


def test_unanswerable_prompts_are_invalid_and_the_others_answered(both: Both) -> None:
    estimates = both.vllm["unanswerable"]
    assert estimates.valid.tolist() == [True, False, False, False, False, False, True]
    for reason, word in zip(estimates.reasons[1:6], ("size", "outside", "instruction", "fewer", "views"), strict=True):
        assert word in reason


def test_a_dead_vllm_fails_its_call_and_is_started_again(both: Both) -> None:
    assert "died" in both.told.failure
    np.testing.assert_allclose(both.vllm["after a failure"].hop, both.vllm["two views"].hop, atol=TOLERANCE)


def test_a_vllm_that_cannot_be_started_again_has_the_replica_replaced(both: Both) -> None:
    assert both.told.unhealthy.startswith("vLLM could not be started again: ")


def test_nothing_is_left_of_a_closed_engine(both: Both) -> None:
    assert both.told.left == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_engines_agree_on_released_checkpoints(
    vllm_python: Path, tmp_path: Path, architecture: Architecture
) -> None:
    (tmp_path / "grm").mkdir()
    released_folder(tmp_path / "grm", architecture)
    call = (_pictures(SEEN, 160), _prompts(3, 32))
    told = _ask(vllm_python, tmp_path, [call])
    engine = TransformersEngine(tmp_path / "grm", threads=1)
    wanted, (found,) = engine.estimate(*call), told.estimates
    assert told.version == engine.model_version
    assert wanted.valid.all()
    assert found.valid.all()
    assert wanted.hop.std() > 100 * TOLERANCE
    for ask in ("gain", "loss", "entropy"):
        np.testing.assert_allclose(getattr(found, ask), getattr(wanted, ask), atol=TOLERANCE)


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
def test_a_replica_in_that_environment_answers(cluster: None, vllm_python: Path, tmp_path: Path) -> None:
    save_grm(build_grm(TINY), tmp_path / "grm", {})
    config = ServiceConfig(
        num_cpus=0.1, ready_s=600.0, engine="reward_service.engines.vllm:VLLMEngine", python=str(vllm_python)
    )
    deploy(tmp_path / "grm", "vllm", config)
    frames = np.stack(_pictures(10)).reshape(5, 2, SIDE, SIDE, 3)
    context = EpisodeContext("one", PUSH, frames[0, 0], frames[4, 0], frames[0], frames[4])
    request = ScoreRequest(context, frames[0], frames[1:4], (1, 2, 3), 60e3)
    reply = ServeRewardClient("vllm").submit(request).result(60.0)
    shutdown("vllm")
    wanted = Scorer(TransformersEngine(tmp_path / "grm")).score([request])[0]
    assert reply.valid.all()
    assert reply.model_version == wanted.model_version
    np.testing.assert_allclose(reply.hops, wanted.hops, atol=TOLERANCE)
