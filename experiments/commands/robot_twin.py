"""Serves a simulated robot as `dopamine robot serve` does a real one: an arm that holds a peg before a hole.

    dopamine robot twin
    dopamine robot twin --faults.latency-ms 20 --faults.stuck x.delta

It runs at a wall-clock rate, within limits, and with faults that you ask for. To train on it, docs/robots.md.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from actors.robots.faults import Faults
from dopamine_rl.errors import require
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command, interruptible

DEFAULT_PORT = 5601


@dataclass(frozen=True)
class Arguments:
    """The simulated robot, and what goes wrong with it."""

    port: Annotated[int, option("N")] = DEFAULT_PORT
    """Port to listen on, on this machine; 0 chooses a free one. With faults on the way clients get another one."""
    rate_hz: Annotated[float, option("HZ")] = 5.0
    """Control periods per second; with software rendering on two cores, about 5."""
    image_size: Annotated[int, option("N")] = 112
    """Height and width of the pictures in pixels."""
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("port", 0 <= self.port < 1 << 16, "give 0 to 65535"),
            ("rate_hz", 0.5 <= self.rate_hz <= 100.0, "give 0.5 to 100"),
            ("image_size", 16 <= self.image_size <= 1024, "give 16 to 1024"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted; Ctrl-C exits with status 0."""
    arguments = parse(Arguments, argv, "dopamine robot twin", __doc__)
    from actors.robot_twin import TwinConfig, limits_at, twin
    from actors.robots.server import Listening

    limits = limits_at(arguments.rate_hz)
    config = TwinConfig(image_size=arguments.image_size)
    print("Building the scene …", flush=True)
    with (
        interruptible("Stopped.", status=0),
        twin(config, arguments.faults, Listening(port=arguments.port), limits) as made,
    ):
        address, _ = made
        print(f"serving {address}", flush=True)
        keywords = f'{{"address": "{address}", "success": "sensor:success"}}'
        print(f"  dopamine env check actors.robot_env:make --kwargs '{keywords}'", flush=True)
        print("Press Ctrl-C to stop.", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
