"""The Ray Train job that fine-tunes a reward model on demonstrations. The training loop is in dopamine_rl.grm.fit."""

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
from dopamine_rl.interfaces import OnProgress, no_progress
from learner.frame_stream import stream


@ray.remote(num_cpus=0)
class _Mailbox:
    """A bounded buffer of a job's progress messages; the oldest are dropped when it is full."""

    def __init__(self) -> None:
        self._lines: deque[tuple[str, bool]] = deque(maxlen=100)

    def put(self, text: str, matters: bool) -> None:
        self._lines.append((text, matters))

    def take(self) -> list[tuple[str, bool]]:
        lines = list(self._lines)
        self._lines.clear()
        return lines


def train_grm(job: TrainingJob, out: Path, on_progress: OnProgress = no_progress) -> Path:
    """Fine-tune a reward model on recorded episodes as a Ray Train job. Ray must be running.

    Args:
        job: model, data and settings. Resumes from a state in the job's folder; the folder is removed at the end.
        out: folder of the resulting checkpoint; it is replaced atomically.
        on_progress: as for `fit`; called every few seconds in this process.
    Returns:
        `out`. Its card (grm.json, README.md) holds the training settings and the metrics on held-out episodes.
    Raises:
        BadInput: the cluster has too few CPUs or GPUs for the job's processes.
        CheckpointError: the job ended without a model.
        DopamineError: raised by a process of the job.
    """
    config = job.config
    _check_resources(config)
    mailbox = _Mailbox.remote()  # type: ignore[attr-defined]
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job, "mailbox": mailbox},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.use_gpu, resources_per_worker={"CPU": config.num_cpus}
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees Ray's older class of this name
            # Unique: with the name of an earlier job, Ray would resume from that job's checkpoint.
            name=f"grm_sft_{uuid.uuid4().hex[:8]}",
            storage_path=str(job.work),
            failure_config=FailureConfig(max_failures=config.max_failures),
            # Spinning threads would take the cores of the other processes: ten times slower on a busy machine.
            worker_runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
        ),
    )
    try:
        with _forward_messages(mailbox, on_progress):
            result = _run_in_thread(trainer.fit)
    except WorkerGroupError as error:
        raise _worker_error(error) or error from None
    if not (job.work / MODEL).is_dir():
        raise CheckpointError(f"the training job ended without a model: {result.error}")
    return publish(job, out)


def _check_resources(config: SFTConfig) -> None:
    """Raise BadInput if the job needs more than the cluster has; it would wait for ever."""
    resources = ray.cluster_resources()
    for name, required in (("CPU", config.workers * config.num_cpus), ("GPU", config.workers * float(config.use_gpu))):
        available = resources.get(name, 0.0)
        if required > available:
            raise BadInput("sft.workers", config.workers, f"the cluster has {available} {name}, not {required}")


def _worker_error(error: WorkerGroupError) -> DopamineError | OSError | None:
    """The first failed process's DopamineError or OSError, whose message is meant for users; None for other errors."""
    for failure in error.worker_failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, DopamineError | OSError):
            return cause
    return None


def _run_in_thread(fit: Callable[[], Any]) -> Any:
    """Call `fit` in a new thread and wait for it.

    In the main thread, Ray Train would install its own SIGINT handler, which exits with status 0, and never restore
    the old one: Ctrl-C would have no effect for the rest of a run.
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
def _forward_messages(mailbox: Any, on_progress: OnProgress) -> Iterator[None]:
    """Pass the job's messages to `on_progress` every two seconds, and once more at the end of the block."""
    ended = threading.Event()

    def forward() -> None:
        running = True
        while running:
            running = not ended.wait(2.0)
            for text, matters in ray.get(mailbox.take.remote()):
                with suppress(OSError):  # A closed pipe: the caller notices when it prints the result.
                    on_progress(text, matters)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10.0)
        ray.kill(mailbox)


def _work(loop: dict[str, Any]) -> None:
    """The training function of each process; rank 0 reports progress."""
    reports, reported_at = ray.train.get_context().get_world_rank() == 0, [0.0]

    def on_progress(text: str, matters: bool) -> None:
        now = time.monotonic()
        if reports and (matters or now - reported_at[0] >= 2.0):
            reported_at[0] = now
            loop["mailbox"].put.remote(text, matters)

    fit(loop["job"], ray.train.torch.get_device(), stream, on_progress)
