"""Moves a running reward service to other weights, without a failed request and without a pause.

    dopamine grm deploy CHECKPOINT [--app NAME]

Every replica loads the checkpoint beside the model it has; when all hold it, new episodes begin with it and running ones
keep theirs. A checkpoint that any replica cannot use is refused, and everything stays as it was. The choice outlives
replicas, the Serve controller and this command.

The cluster is that of RAY_ADDRESS, else the one that runs on this machine. The last line is JSON. Exit status 1: refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.hub import model_folder
from experiments.runtime.ending import command, interruptible
from reward_service.releases import KEEP


def parser(prog: str = "dopamine grm deploy") -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        help="folder of a reward model, or its hub id; the same on every node",
    )
    made.add_argument("--app", metavar="NAME", help="the service (default: the only one that is running)")
    made.add_argument("--keep", metavar="N", type=int, default=KEEP, help="older models that stay for running episodes (default: %(default)s)")  # fmt: skip
    made.add_argument("--timeout", metavar="S", type=float, default=180.0, help="time for all replicas to load it (default: %(default)g)")  # fmt: skip
    made.add_argument("--force", action="store_true", help="drop an older model even where episodes still use it")
    return made


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Swap, and say what happened."""
    arguments = parser().parse_args(argv)
    with interruptible("Interrupted; the service goes on with the model it has."):
        arguments.checkpoint = model_folder(arguments.checkpoint)
        if arguments.keep < 0:
            raise BadInput("--keep", arguments.keep, "give a number from 0 on")
        if not 0 < arguments.timeout < 1e6:
            raise BadInput("--timeout", arguments.timeout, "give seconds")
        deploy(arguments)


def deploy(arguments: argparse.Namespace) -> None:
    """Join the cluster, find the service, give it the checkpoint."""
    from experiments.runtime.cluster import running_cluster

    with running_cluster():
        from reward_service.swap import SwapConfig, swap

        name = arguments.app or _only_service()
        print(f"{name}: loading {arguments.checkpoint} …", flush=True)
        config = SwapConfig(arguments.keep, arguments.timeout, arguments.force)
        done = swap(name, arguments.checkpoint, config, lambda line: print(line, flush=True))
    print(json.dumps({"app": name, **asdict(done), "took_s": round(done.took_s, 2)}))


def _only_service() -> str:
    from reward_service import ledger_store

    names = ledger_store.names()
    if len(names) != 1:
        fix = (
            f"name one of {', '.join(names)}" if names else "start one: python -m experiments.commands.serve CHECKPOINT"
        )
        raise BadInput("--app", None, fix)
    return names[0]
