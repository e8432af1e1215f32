"""The Ray Train job that fits a reward model to demonstrations. The training itself is dopamine_rl.grm.fit."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from dopamine_rl.errors import BadInput, CheckpointError, DopamineError
from dopamine_rl.grm.config import SFTConfig
from dopamine_rl.grm.fit import MODEL, TrainingJob, fit, publish
from dopamine_rl.interfaces import OnProgress
from learner.frame_stream import stream


@ray.remote(num_cpus=0)
class _Board:
    """Holds what a job has told since it was last asked, the latest lines of it, for whoever watches."""

    def __init__(self) -> None:
        self._lines: deque[tuple[str, bool]] = deque(maxlen=100)

    def put(self, text: str, matters: bool) -> None:
        self._lines.append((text, matters))

    def take(self) -> list[tuple[str, bool]]:
        lines = list(self._lines)
        self._lines.clear()
        return lines


def train_grm(job: TrainingJob, out: Path, on_progress: OnProgress = lambda text, matters: None) -> Path:
    """Fit a reward model to recorded episodes as a Ray Train job; Ray must be running.

    Args:
        job: what is trained, on what and how. A state in its folder is gone on from; in the end the folder is removed.
        out: where the checkpoint folder shall lie; it is replaced as a whole.
        on_progress: as for `fit`; called every few seconds in this process.
    Returns:
        `out`. Its card (grm.json, README.md) says what the model was trained with, and the held-out figures.
    Raises:
        BadInput: more processes than the cluster has room for.
        CheckpointError: the job ended without a model.
        DopamineError: what a process of the job raised.
    """
    config = job.config
    _check_resources(config)
    board = _Board.remote()  # type: ignore[attr-defined]
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job, "board": board},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.use_gpu, resources_per_worker={"CPU": config.num_cpus}
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees the old class of the name
            # An equal name would silently go on from an earlier job's checkpoint; ours is the file in the job's folder.
            name=f"grm_sft_{uuid.uuid4().hex[:8]}",
            storage_path=str(job.work),
            failure_config=FailureConfig(max_failures=config.max_failures),
            # A thread that spins while it waits takes the core its partner needs: ten times slower on a busy machine.
            worker_runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
        ),
    )
    try:
        with _watched(board, on_progress):
            result = _interruptible(trainer.fit)
    except WorkerGroupError as error:
        raise _raised_on_purpose(error) or error from None
    if not (job.work / MODEL).is_dir():
        raise CheckpointError(f"the training job ended without a model: {result.error}")
    return publish(job, out)


def _check_resources(config: SFTConfig) -> None:
    """A job that asks for more than the cluster has would wait for ever."""
    present = ray.cluster_resources()
    for name, wanted in (("CPU", config.workers * config.num_cpus), ("GPU", config.workers * float(config.use_gpu))):
        if wanted > present.get(name, 0.0):
            raise BadInput(
                "sft.workers", config.workers, f"the cluster has {present.get(name, 0.0)} {name}, not {wanted}"
            )


def _raised_on_purpose(error: WorkerGroupError) -> DopamineError | OSError | None:
    """What the first process to fail raised, if it is ours or the system's: a message for the user, without tracebacks."""
    for failure in error.worker_failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, DopamineError | OSError):
            return cause
    return None


def _interruptible(fit: Callable[[], Any]) -> Any:
    """Call `fit` in a thread of its own and wait for it.

    In the main thread Ray Train takes SIGINT over, ends the process with status 0 where it comes, and never gives it back:
    Ctrl-C would be deaf for the rest of a run.
    """
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, name="fit", daemon=True).start()
    return outcome.result()


@contextmanager
def _watched(board: Any, on_progress: OnProgress) -> Iterator[None]:
    """Hand on what the job tells every two seconds while the block runs, and at its end."""
    ended = threading.Event()

    def watch() -> None:
        going_on = True
        while going_on:
            going_on = not ended.wait(2.0)
            for text, matters in ray.get(board.take.remote()):
                with suppress(OSError):  # nobody reads any more: the training's end will say so
                    on_progress(text, matters)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10.0)
        ray.kill(board)


def _work(loop: dict[str, Any]) -> None:
    """One process of the job."""
    first, last = ray.train.get_context().get_world_rank() == 0, [0.0]

    def on_progress(text: str, matters: bool) -> None:
        now = time.monotonic()
        if first and (matters or now - last[0] >= 2.0):
            last[0] = now
            loop["board"].put.remote(text, matters)

    fit(loop["job"], ray.train.torch.get_device(), stream, on_progress)
