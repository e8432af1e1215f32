"""Serves a reward model over HTTP, for robots and programs outside the cluster.

    dopamine serve CHECKPOINT [--host 127.0.0.1] [--port 8000] [--token-file FILE]

Starts the reward service on a Ray cluster (the one of RAY_ADDRESS, else one on this machine) and an HTTP server in
front of it, prints its address, and takes both down on Ctrl-C. `/docs` on that address describes the interface.

For other machines (any --host but this machine's own) it wants a token, and TLS: --tls-cert FILE --tls-key FILE.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from dopamine_rl.errors import BadInput, require
from dopamine_rl.grm.hub import model_folder
from dopamine_rl.wire import WireLimits
from experiments.runtime.arguments import option
from experiments.runtime.arguments import parse as read_arguments
from experiments.runtime.ending import command, interruptible
from reward_service.guards import TOKEN_VARIABLE, IngressConfig, load_tls, load_token

ENDED = "stopped"


USUAL = IngressConfig()


@dataclass(frozen=True)
class Arguments:
    """Which model is served, and to whom."""

    checkpoint: Annotated[Positional[Path | None], option("[CHECKPOINT]", "")] = None
    """Folder of a reward model, or its hub id."""
    app: Annotated[str | None, option("NAME", "")] = None
    """Serve this running application instead of a checkpoint."""
    host: Annotated[str, option("ADDRESS")] = USUAL.host
    """Address to listen on; off loopback only with a token and TLS."""
    port: Annotated[int, option("N")] = USUAL.port
    """Port to listen on; 0 takes a free one."""
    token_file: Annotated[Path | None, option("FILE", f"the environment variable {TOKEN_VARIABLE}")] = None
    """File with the token that clients must send."""
    tls_cert: Annotated[Path | None, option("FILE", "")] = None
    """PEM file of the server's certificate: speak https."""
    tls_key: Annotated[Path | None, option("FILE", "")] = None
    """PEM file of its key, where that is not in the same file."""
    insecure: bool = False
    """Listen off loopback without TLS."""
    max_mb: Annotated[float, option("MB")] = USUAL.limits.max_bytes / 2**20
    """Largest request in MiB."""
    memory_mb: Annotated[float, option("MB")] = USUAL.memory_mb
    """MiB for all requests under way."""
    rate_hz: Annotated[float, option("HZ")] = USUAL.rate_hz
    """Requests a second of one client."""
    max_connections: Annotated[int, option("N")] = USUAL.max_connections
    """Open connections."""
    max_connections_per_client: Annotated[int, option("N")] = USUAL.max_connections_per_client
    """The same of one client; as many where a proxy stands in front."""
    ready_s: Annotated[float, option("S")] = 180.0
    """Seconds for the first copy to answer; a large model in vLLM may take 600."""
    replicas: Annotated[int, option("N")] = 1
    """Copies of the model."""
    threads: Annotated[int, option("N")] = 1
    """Threads of each copy."""
    gpus: Annotated[float, option("N")] = 0.0
    """GPUs, or a share of one, of each copy."""
    engine: Annotated[str | None, option("MODULE:CALLABLE", "transformers")] = None
    """What loads the checkpoint."""
    python: Annotated[str | None, option("FILE", "")] = None
    """Interpreter of the copies, for an engine with an environment of its own."""

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.app is None):
            given = None if self.checkpoint is None else str(self.checkpoint)
            raise BadInput("CHECKPOINT", given, "give either a CHECKPOINT or --app NAME")
        require("", self, ("max_mb", 0 < self.max_mb < float("inf"), "give a size above 0"))


def parse(argv: Sequence[str] | None) -> Arguments:
    """Parse the command line; imports nothing heavy. Raises UsageError."""
    return read_arguments(Arguments, argv, "dopamine serve", __doc__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted, which is this command's good end."""
    arguments = parse(argv)
    config = IngressConfig(
        host=arguments.host,
        port=arguments.port,
        limits=WireLimits(max_bytes=int(arguments.max_mb * 2**20)),
        memory_mb=arguments.memory_mb,
        rate_hz=arguments.rate_hz,
        burst=2 * arguments.rate_hz,
        total_rate_hz=max(arguments.rate_hz, IngressConfig.total_rate_hz),
        total_burst=2 * max(arguments.rate_hz, IngressConfig.total_rate_hz),
        max_connections=arguments.max_connections,
        max_connections_per_client=arguments.max_connections_per_client,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        insecure=arguments.insecure,
    )
    token = load_token(arguments.token_file, config.host)
    load_tls(config)  # Looked at now: what is wrong with it shall not come out after minutes of loading.
    checkpoint = None if arguments.checkpoint is None else model_folder(arguments.checkpoint)
    os.environ.pop(TOKEN_VARIABLE, None)  # The processes of the cluster have no use for it.
    with interruptible(ENDED, status=0):
        serve(arguments, checkpoint, config, token)


def serve(arguments: Arguments, checkpoint: Path | None, config: IngressConfig, token: str | None) -> None:
    """Deploy the checkpoint where one is given, and answer HTTP until interrupted; leaves nothing behind."""
    from experiments.runtime.cluster import ClusterConfig, ray_cluster
    from reward_service.service import ServiceConfig

    engine = {name: value for name in ("engine", "python") if (value := getattr(arguments, name)) is not None}
    service = ServiceConfig(
        replicas=arguments.replicas,
        threads=arguments.threads,
        num_gpus=arguments.gpus,
        ready_s=arguments.ready_s,
        **engine,
    )
    print("starting the cluster …", flush=True)
    with ray_cluster(ClusterConfig(num_cpus=max(2, arguments.replicas + 1))), interruptible(ENDED, 0):
        import ray

        from reward_service.client import ServeRewardClient

        if checkpoint is None:
            listen(ServeRewardClient(str(arguments.app)), config, token)
            return
        from reward_service.deployment import deploy, shutdown

        name = f"http-{os.getpid()}"
        print(f"loading {checkpoint} …", flush=True)
        deploy(checkpoint, name, service)
        address = ray.get_runtime_context().gcs_address
        print(f"other weights, while it runs: RAY_ADDRESS={address} dopamine grm deploy CHECKPOINT --app {name}")
        try:
            listen(ServeRewardClient(name), config, token)
        finally:
            shutdown(name)


def listen(client: object, config: IngressConfig, token: str | None) -> None:
    """Answer HTTP until interrupted."""
    from reward_service.web import make_server

    server, sockets = make_server(client, config, token)  # type: ignore[arg-type]
    host, port = sockets[0].getsockname()[:2]
    where = f"{'http' if config.tls_cert is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving {where}  (interface: {where}/docs, {where}/openapi.json; {'with a' if token else 'no'} token)", flush=True)  # fmt: skip
    print("Ctrl-C ends it", flush=True)
    server.run(sockets)


if __name__ == "__main__":
    main()
