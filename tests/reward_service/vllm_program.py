"""Asks a vLLM engine, in an environment that has one.

Usage: python -m tests.reward_service.vllm_program FOLDER QUESTIONS ANSWERS [NARROW]

QUESTIONS is a pickled list of (pictures, prompts), each a call; ANSWERS receives the fields of `Answers`. NARROW is
a model whose heads vLLM cannot run; where it is given, vLLM's process is killed before the last call, and once more
after it, while its model is missing.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dopamine_rl.errors import CheckpointError, ServiceUnavailable
from dopamine_rl.types import HopEstimates
from reward_service.engines.vllm import VLLMEngine
from tests.waiting import wait_until


@dataclass
class Answers:
    """What came of the calls, one entry each.

    Args:
        tokens: of each prompt, as the model reads them.
        cached: how many tokens of a call's prompts were found in the prefix cache.
        failure: the error of a call after the kill.
        unhealthy: the failed health check after the kill without a model.
        left: what runs in the end.
        refused: the error about a model whose heads are too narrow.
    """

    version: str = ""
    estimates: list[HopEstimates] = field(default_factory=list)
    tokens: list[list[list[int]]] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failure: str = ""
    unhealthy: str = ""
    left: list[str] = field(default_factory=list)
    refused: str = ""


def children(name: str) -> list[tuple[int, str]]:
    """Processes of this session whose command line begins with a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().replace("\0", " ")
            if command.startswith(name) and os.getsid(int(folder.name)) == os.getsid(0):
                found.append((int(folder.name), command.strip()))
        except OSError:
            continue
    return found


def _until_back(engine: VLLMEngine, pictures: list[Any], prompts: list[Any]) -> None:
    """Wait until vLLM was started again, beside calls that fail at once."""

    def answers() -> bool:
        try:
            engine.estimate(pictures, prompts)
        except ServiceUnavailable:
            engine.check_health()
            return False
        return True

    wait_until(answers, 600.0, "the restart of vLLM")


def _cannot_restart(engine: VLLMEngine, folder: Path, pictures: list[Any], prompts: list[Any]) -> str:
    """Kill vLLM while its model is missing; the error of the health check once the restart has failed."""
    errors: list[str] = []

    def is_unhealthy() -> bool:
        with suppress(ServiceUnavailable):
            engine.estimate(pictures, prompts)
        try:
            engine.check_health()
        except RuntimeError as error:
            errors.append(str(error))
        return bool(errors)

    hidden = folder.rename(folder.with_name(f"{folder.name}.hidden"))
    try:
        os.kill(children("VLLM::EngineCore")[0][0], signal.SIGKILL)
        wait_until(is_unhealthy, 300.0, "the failure of the restart")
    finally:
        hidden.rename(folder)
    return errors[0]


def main(folder: str, questions: str, answers: str, narrow: str = "") -> None:
    """Ask, and write what came of it."""
    calls = pickle.loads(Path(questions).read_bytes())
    engine, told = VLLMEngine(folder, threads=1), Answers()
    told.version = engine.model_version
    llm = engine._core._llm
    generate, outputs = llm.generate, []

    async def watch(*arguments: object) -> AsyncIterator[object]:
        async for output in generate(*arguments):
            outputs.append(output)
            yield output

    llm.generate = watch
    for number, (pictures, prompts) in enumerate(calls):
        if narrow and number == len(calls) - 1:
            os.kill(children("VLLM::EngineCore")[0][0], signal.SIGKILL)
            try:
                engine.estimate(pictures, prompts)
            except ServiceUnavailable as error:
                told.failure = str(error)
            _until_back(engine, pictures, prompts)
        outputs.clear()
        started = time.perf_counter()
        told.estimates.append(engine.estimate(pictures, prompts))
        told.seconds.append(time.perf_counter() - started)
        told.tokens.append([list(output.prompt_token_ids) for output in outputs])
        told.cached.append(sum(output.num_cached_tokens for output in outputs))
    if narrow:
        told.unhealthy = _cannot_restart(engine, Path(folder), *calls[-1])
    engine.close()
    if narrow:
        try:
            VLLMEngine(narrow, threads=1)
        except CheckpointError as error:
            told.refused = str(error)
    with suppress(AssertionError):
        wait_until(lambda: not children("VLLM::"))
    told.left = [command for _, command in children("VLLM::")]
    Path(answers).write_bytes(pickle.dumps(vars(told)))


if __name__ == "__main__":
    main(*sys.argv[1:])
