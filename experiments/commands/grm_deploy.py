"""Moves a running reward service to another checkpoint, without downtime or failed requests.

    dopamine grm deploy CHECKPOINT [--app NAME]

Every replica loads the checkpoint beside its current model. When all have loaded it, new episodes use the new
model and running episodes keep theirs. If any replica cannot use the checkpoint, nothing changes. The new model
stays in place when replicas or the Serve controller restart.

Uses the cluster at RAY_ADDRESS, or else the one running on this machine. The last line is JSON.
Exit status 1: the checkpoint was refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from dopamine_rl.errors import require
from dopamine_rl.grm.folder import check_for_any_engine, usable_model
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command, interruptible
from reward_service.releases import KEEP


@dataclass(frozen=True)
class Arguments:
    """The checkpoint, and the service that loads it."""

    checkpoint: Annotated[Positional[Path], option("CHECKPOINT")]
    """Folder of a reward model, or its hub id. The path must be valid on every node."""
    app: Annotated[str | None, option("NAME", "the only running service")] = None
    """Name of the service."""
    keep: Annotated[int, option("N")] = KEEP
    """Number of older models to keep for running episodes."""
    timeout: Annotated[float, option("S")] = 180.0
    """Time limit in seconds for all replicas to load the checkpoint."""
    force: bool = False
    """Drop an older model even if episodes still use it."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("keep", self.keep >= 0, "give 0 or more"),
            ("timeout", 0 < self.timeout < 1e6, "give seconds above 0"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Deploy the checkpoint and print the result."""
    arguments = parse(Arguments, argv, "dopamine grm deploy", __doc__)
    with interruptible("Interrupted. The service keeps its current model."):
        deploy(arguments, usable_model(arguments.checkpoint, "CHECKPOINT", check_for_any_engine))


def deploy(arguments: Arguments, checkpoint: Path) -> None:
    """Connect to the cluster and move the service to the checkpoint."""
    from experiments.runtime.cluster import running_cluster

    with running_cluster():
        from experiments.runtime.reward_client import running_service
        from reward_service.swap import SwapConfig, swap

        name = running_service(arguments.app)
        print(f"{name}: loading {checkpoint} …", flush=True)
        config = SwapConfig(arguments.keep, arguments.timeout, arguments.force)
        result = swap(name, checkpoint, config, lambda text, matters: print(text, flush=True))
    print(json.dumps({"app": name, **asdict(result), "took_s": round(result.took_s, 2)}))
