"""The reward model that a command asks: in this process, behind an address, or on the running Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.plans import Plan
from dopamine_rl.grm.config import MOST_THREADS
from dopamine_rl.grm.folder import unfamiliar, usable_model
from dopamine_rl.grm.hub import model_folder
from dopamine_rl.spelling import one_of
from experiments.runtime.arguments import option
from experiments.runtime.console import Console
from reward_service.guards import TOKEN_VARIABLE, load_token

if TYPE_CHECKING:
    from dopamine_rl.interfaces import RewardClient
    from reward_service.http_client import HttpClientConfig


TokenFile = Annotated[
    Path | None,
    option(
        "FILE",
        f"the environment variable {TOKEN_VARIABLE}",
        about="With --url: file that contains the service's token.",
    ),
]
CaFile = Annotated[Path | None, option("FILE", "", about="With an https --url: file of trusted CA certificates.")]
Insecure = Annotated[bool, option(about="With --url: allow sending the token to another machine without https.")]
Threads = Annotated[
    int | None,
    option("N", "chosen by torch", about="For a model loaded in this process: number of CPU threads."),
]
Device = Annotated[str, option("NAME", about="For a model loaded in this process: torch device, such as cuda.")]
Deadline = Annotated[float, option("S", about="Time limit in seconds for each request.")]


class ModelArguments(Protocol):
    """The model to ask: a checkpoint in this process, a service over HTTP, or an application of the Ray cluster."""

    @property
    def model(self) -> Path | None:
        """Folder of a checkpoint, a hub id, or grm-mini."""

    @property
    def url(self) -> str | None:
        """Address of a service."""

    @property
    def app(self) -> str | None:
        """Name of an application."""

    @property
    def token_file(self) -> Path | None:
        """File with the service's token."""

    @property
    def ca_file(self) -> Path | None:
        """File of trusted CA certificates."""

    @property
    def insecure(self) -> bool:
        """Whether the token may go to another machine without https."""

    @property
    def threads(self) -> int | None:
        """CPU threads for a checkpoint; None lets torch choose."""

    @property
    def device(self) -> str:
        """Torch device for a checkpoint."""


def check_model_arguments(arguments: ModelArguments, field: str) -> None:
    """Check what can be checked of the model before an episode is read. Imports nothing heavy.

    Args:
        field: what names the checkpoint.
    Raises:
        BadInput: the checkpoint, its number of threads, the service's address or the token's file cannot be used.
    """
    if arguments.threads is not None and not 1 <= arguments.threads <= MOST_THREADS:
        raise BadInput("--threads", arguments.threads, f"give 1 to {MOST_THREADS}")
    remote = {"--token-file": arguments.token_file, "--ca-file": arguments.ca_file, "--insecure": arguments.insecure}
    for option_name, value in remote.items():
        if value and arguments.url is None:
            raise BadInput(option_name, str(value), "leave it out: it is for --url")
    if arguments.model is not None:
        usable_model(arguments.model, field)
    if arguments.url is not None:
        from reward_service.http_client import check_address

        check_address(arguments.url, load_token(arguments.token_file, "127.0.0.1"), _http_config(arguments))


def _http_config(arguments: ModelArguments) -> HttpClientConfig:
    from reward_service.http_client import HttpClientConfig

    return HttpClientConfig(ca_file=arguments.ca_file, insecure=arguments.insecure)


@contextmanager
def reward_client(arguments: ModelArguments, plans: Sequence[Plan], console: Console) -> Iterator[RewardClient]:
    """The model, in this process or behind a service. Raises BadInput, CheckpointError, ServiceUnavailable."""
    if arguments.url is not None:
        from reward_service.http_client import HttpRewardClient

        yield HttpRewardClient(arguments.url, load_token(arguments.token_file, "127.0.0.1"), _http_config(arguments))
    elif arguments.app is not None:
        from experiments.runtime.cluster import running_cluster

        with running_cluster():
            from reward_service.client import ServeRewardClient

            yield ServeRewardClient(running_service(arguments.app))
    elif arguments.model is not None:
        yield embedded_client(arguments.model, arguments.threads, arguments.device, plans, console)
    else:
        raise BadInput("--model", None, "give --model, --url or --app")


def running_service(name: str | None) -> str:
    """The reward service of this name on the joined cluster, or the only one.

    Raises:
        BadInput: there is no such service, or no single one.
    """
    from reward_service import ledger_store

    names = ledger_store.names()
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name not in names:
        fix = one_of(name or "", names) if names else "start a service first: dopamine serve CHECKPOINT"
        raise BadInput("--app", name, fix)
    return name


def warn_of_tasks(model: Path, instructions: Sequence[str], console: Console) -> None:
    """Warn about tasks that a model was not adapted to, or may not have been, where its card does not say so."""
    foreign, known = unfamiliar(model, instructions)
    if not foreign:
        return
    tasks = f"{foreign[0]!r} and {len(foreign) - 1} more" if foreign[1:] else repr(foreign[0])
    fault = f"was not adapted to {tasks}, but to {known[0]!r}" if known else ""
    fault = fault or f"does not list the tasks that it was adapted to: it is unknown whether it knows {tasks}"
    console.say(f"warning: the model {fault}; its progress may mean nothing there (adapt it with dopamine grm adapt)")


def embedded_client(
    model: Path, threads: int | None, device: str, plans: Sequence[Plan], console: Console
) -> RewardClient:
    """A checkpoint in this process. Raises BadInput, CheckpointError."""
    from dopamine_rl.grm.checkpoint import load_grm
    from dopamine_rl.grm.vision import picture_size
    from reward_service.engines.transformers import TransformersEngine, usable_device
    from reward_service.local import LocalRewardClient
    from reward_service.scorer import Scorer

    usable_device(device, "--device")
    console.say(f"Loading {model}")
    warn_of_tasks(model_folder(model), [plan.instruction for plan in plans], console)
    grm = load_grm(model)
    labels = grm.template.labels
    for plan in plans:
        if plan.views > len(labels):
            raise BadInput("--views", plan.views, f"this model accepts at most {len(labels)}: {', '.join(labels)}")
    for height, width in sorted({plan.size for plan in plans}):
        model_height, model_width = picture_size(grm.image_processor, height, width)
        stretch = model_height * width / (model_width * height)
        if not 0.8 < stretch < 1.25:
            unit = grm.image_processor.patch_size * grm.image_processor.merge_size
            side = max(1, round(math.sqrt(grm.image_processor.size["longest_edge"]) / unit)) * unit
            console.say(
                f"warning: the model resizes images of {height}x{width} to {model_height}x{model_width}; "
                f"use --size {side} to give it {side}x{side}"
            )
    engine = TransformersEngine(grm, threads=threads, device=device)
    return LocalRewardClient(Scorer(engine))
