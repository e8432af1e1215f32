"""The Ray Train job that fits a reward model to demonstrations. The training itself is dopamine_rl.grm.train."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from torch import nn

from dopamine_rl.episodes.raw import read_demonstration
from dopamine_rl.errors import BadInput, CheckpointError, DopamineError
from dopamine_rl.files import write_folder_atomically
from dopamine_rl.grm.batches import LabelledEpisode, label_episodes
from dopamine_rl.grm.config import GRMConfig, SFTConfig
from dopamine_rl.grm.evaluate import evaluate
from dopamine_rl.grm.model import build_grm, load_grm, save_grm
from dopamine_rl.grm.train import Trainer, TrainProgress, train

MODEL, STATE = "model", "trainer.pt"
"""What a checkpoint of the job holds: the finished model's folder, or the state to go on from."""


@dataclass(frozen=True)
class _Job:
    config: SFTConfig
    grm: GRMConfig
    episodes: tuple[str, ...]
    held_out: tuple[str, ...]
    card: dict[str, Any]
    board: Any


@ray.remote(num_cpus=0)
class _Board:
    """Holds the latest progress of a job for whoever watches it."""

    def __init__(self) -> None:
        self._latest: TrainProgress | None = None

    def put(self, progress: TrainProgress) -> None:
        self._latest = progress

    def latest(self) -> TrainProgress | None:
        return self._latest


def train_grm(
    config: SFTConfig,
    grm: GRMConfig,
    episodes: Sequence[Path],
    out: Path,
    work: Path,
    card: dict[str, Any],
    on_progress: Callable[[TrainProgress], None] = lambda progress: None,
    held_out: Sequence[Path] = (),
) -> Path:
    """Fit a reward model to recorded episodes as a Ray Train job; Ray must be running.

    Args:
        config: how it is trained, and with how many processes.
        grm: shape of the model that is built, where `config.start_from` names none.
        episodes: folders of raw episodes; successes teach with their keyframes' progress,
            failures with their simulator-true progress.
        out: where the checkpoint folder shall lie; it is replaced as a whole.
        work: folder for the job's own state, shared by all nodes.
        card: what the model card says beside the figures of the training.
        on_progress: called every few seconds in this process.
        held_out: folders of episodes that the model is judged on while it trains and in the end, at least one a success.
    Returns:
        `out`. Its card (grm.json, README.md) says what the model was trained with, and the held-out figures.
    Raises:
        BadInput: no episodes.
        CheckpointError: the model to begin with cannot be used, or the job ended without a model.
        DopamineError: what a process of the job raised.
    """
    if not episodes:
        raise BadInput("episodes", (), "give at least one folder of a raw episode")
    _check_resources(config)
    board = _Board.remote()  # type: ignore[attr-defined]
    job = _Job(config, grm, _resolved(episodes), _resolved(held_out), card, board)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.use_gpu, resources_per_worker={"CPU": config.num_cpus}
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # mypy sees the old class of the name
            # An equal name would silently go on from an earlier job's checkpoint.
            name=f"grm_sft_{uuid.uuid4().hex[:8]}",
            storage_path=str(Path(work).resolve()),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            # A thread that spins while it waits takes the core its partner needs: ten times slower on a busy machine.
            worker_runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
        ),
    )
    try:
        with _watched(job.board, on_progress):
            result = _interruptible(trainer.fit)
    except WorkerGroupError as error:
        raise _raised_on_purpose(error) or error from None
    if result.checkpoint is None:
        raise CheckpointError(f"the training job ended without a model: {result.error}")
    with result.checkpoint.as_directory() as folder:
        model = Path(folder) / MODEL
        if not model.is_dir():
            raise CheckpointError(f"the training job ended without a model: {result.error}")
        return write_folder_atomically(Path(out), lambda target: shutil.copytree(model, target, dirs_exist_ok=True))


def _check_resources(config: SFTConfig) -> None:
    """A job that asks for more than the cluster has would wait for ever."""
    present = ray.cluster_resources()
    for name, wanted in (("CPU", config.workers * config.num_cpus), ("GPU", config.workers * float(config.use_gpu))):
        if wanted > present.get(name, 0.0):
            raise BadInput(
                "sft.workers", config.workers, f"the cluster has {present.get(name, 0.0)} {name}, not {wanted}"
            )


def _raised_on_purpose(error: WorkerGroupError) -> DopamineError | None:
    """What the first process to fail raised, if it is an error of ours: a message for the user, without tracebacks."""
    for failure in error.worker_failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, DopamineError):
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
def _watched(board: Any, on_progress: Callable[[TrainProgress], None]) -> Iterator[None]:
    """Hand the job's progress to `on_progress` every two seconds while the block runs."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(2.0):
            progress = ray.get(board.latest.remote())
            if progress is not None:
                on_progress(progress)

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
    job: _Job = loop["job"]
    config = job.config
    torch.set_num_threads(config.threads)
    context = ray.train.get_context()
    rank, alone = context.get_world_rank(), context.get_world_size() == 1
    grm = load_grm(config.start_from) if config.start_from else build_grm(job.grm)
    device = ray.train.torch.get_device()
    grm.model.to(device)
    wrap: Callable[[nn.Module], nn.Module] = (lambda module: module) if alone else nn.parallel.DistributedDataParallel
    episodes, held_out = _read(job.episodes), _read(job.held_out)
    trainer = Trainer(grm, episodes, config.train, wrap, rank)
    _resume(trainer)
    shown = [0.0]

    def judge() -> dict[str, float]:
        demonstration = next(episode for episode in episodes if episode.success)
        return evaluate(grm, held_out, demonstration) if held_out and rank == 0 else {}

    def on_update(progress: TrainProgress) -> None:
        if rank == 0 and progress.elapsed_s - shown[0] >= 2.0:
            shown[0] = progress.elapsed_s
            job.board.put.remote(progress)
        if progress.update % config.checkpoint_updates == 0:
            figures = asdict(progress) | judge()
            _report(figures, rank, lambda folder: torch.save(trainer.state_dict(), folder / STATE))

    progress = train(trainer, on_update)
    figures = judge()
    card = {**job.card, "training": asdict(config.train), "result": asdict(progress), "episodes": len(episodes)}
    card |= {"held_out": figures} if figures else {}
    _report(asdict(progress) | figures, rank, lambda folder: save_grm(grm, folder / MODEL, card))


def _resolved(paths: Sequence[Path]) -> tuple[str, ...]:
    """Absolute paths: the job's processes run in folders of their own."""
    return tuple(str(Path(path).resolve()) for path in paths)


def _read(folders: Sequence[str]) -> list[LabelledEpisode]:
    return label_episodes([read_demonstration(Path(folder)) for folder in folders])


def _resume(trainer: Trainer) -> None:
    """Go on from the last checkpoint that a failed process of this job reported."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = os.path.join(folder, STATE)
            if os.path.exists(state):  # else it is the finished model's
                trainer.load_state_dict(torch.load(state, weights_only=False))


def _report(figures: dict[str, float], rank: int, fill: Callable[[Path], object]) -> None:
    """Report figures, and from process 0 a checkpoint; every process must call it equally often."""
    if rank:
        ray.train.report(figures)
        return
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        ray.train.report(figures, checkpoint=Checkpoint.from_directory(folder))
