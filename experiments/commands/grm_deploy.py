"""Moves a running reward service to other weights, without a failed request and without a pause.

    dopamine grm deploy CHECKPOINT [--app NAME]

Every replica loads the checkpoint beside the model it has; when all hold it, new episodes begin with it and running ones
keep theirs. A checkpoint that any replica cannot use is refused, and everything stays as it was. The choice outlives
replicas, the Serve controller and this command.

The cluster is that of RAY_ADDRESS, else the one that runs on this machine. The last line is JSON. Exit status 1: refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from dopamine_rl.errors import BadInput, require
from dopamine_rl.grm.hub import model_folder
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command, interruptible
from reward_service.releases import KEEP


@dataclass(frozen=True)
class Arguments:
    """Which weights, and for which service."""

    checkpoint: Annotated[Positional[Path], option("CHECKPOINT")]
    """Folder of a reward model, or its hub id; the same on every node."""
    app: Annotated[str | None, option("NAME", "the only one that is running")] = None
    """The service."""
    keep: Annotated[int, option("N")] = KEEP
    """Older models that stay for running episodes."""
    timeout: Annotated[float, option("S")] = 180.0
    """Seconds for all replicas to load it."""
    force: bool = False
    """Drop an older model even where episodes still use it."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("keep", self.keep >= 0, "give a number from 0 on"),
            ("timeout", 0 < self.timeout < 1e6, "give seconds"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Swap, and say what happened."""
    arguments = parse(Arguments, argv, "dopamine grm deploy", __doc__)
    with interruptible("Interrupted; the service goes on with the model it has."):
        deploy(arguments, model_folder(arguments.checkpoint))


def deploy(arguments: Arguments, checkpoint: Path) -> None:
    """Join the cluster, find the service, give it the checkpoint."""
    from experiments.runtime.cluster import running_cluster

    with running_cluster():
        from reward_service.swap import SwapConfig, swap

        name = arguments.app or _only_service()
        print(f"{name}: loading {checkpoint} …", flush=True)
        config = SwapConfig(arguments.keep, arguments.timeout, arguments.force)
        done = swap(name, checkpoint, config, lambda line: print(line, flush=True))
    print(json.dumps({"app": name, **asdict(done), "took_s": round(done.took_s, 2)}))


def _only_service() -> str:
    from reward_service import ledger_store

    names = ledger_store.names()
    if len(names) != 1:
        fix = f"name one of {', '.join(names)}" if names else "start one: dopamine serve CHECKPOINT"
        raise BadInput("--app", None, fix)
    return names[0]
