"""Serves a reward model over HTTP, for robots and programs outside the Ray cluster.

    dopamine serve CHECKPOINT
    dopamine serve CHECKPOINT --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --token-file token

Starts the reward service on a Ray cluster (the one at RAY_ADDRESS, or else a new one on this machine) and an HTTP
server in front of it, and prints its address. Ctrl-C stops both. The page /docs describes the interface.

To serve other machines (any --host except loopback), give a token and TLS: --tls-cert FILE --tls-key FILE.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from dopamine_rl.errors import BadInput, require
from dopamine_rl.grm.folder import check_for_any_engine, check_model, usable_model
from dopamine_rl.wire import WireLimits
from experiments.runtime.arguments import option
from experiments.runtime.arguments import parse as read_arguments
from experiments.runtime.ending import UsageError, command, interruptible
from reward_service.guards import TOKEN_VARIABLE, IngressConfig, load_tls, load_token
from reward_service.service import ServiceConfig, check_engine

STOPPED = "Stopped."
DEFAULTS = IngressConfig()


@dataclass(frozen=True)
class Arguments:
    """The reward model, and the HTTP server."""

    checkpoint: Annotated[Positional[Path | None], option("[CHECKPOINT]", "")] = None
    """Folder of a reward model, or its hub id."""
    app: Annotated[str | None, option("NAME", "")] = None
    """Serve this reward service of the running cluster instead of a checkpoint."""
    host: Annotated[str, option("ADDRESS")] = DEFAULTS.host
    """Address to listen on. Any address but loopback needs a token and TLS."""
    port: Annotated[int, option("N")] = DEFAULTS.port
    """Port to listen on; 0 chooses a free one."""
    token_file: Annotated[Path | None, option("FILE", f"the environment variable {TOKEN_VARIABLE}")] = None
    """File that contains the token which clients must send."""
    tls_cert: Annotated[Path | None, option("FILE", "")] = None
    """PEM file with the server's certificate; turns on https."""
    tls_key: Annotated[Path | None, option("FILE", "")] = None
    """PEM file with the private key, if it is not in the certificate's file."""
    insecure: bool = False
    """Allow other machines to connect without TLS."""
    max_mb: Annotated[float, option("MB")] = DEFAULTS.limits.max_bytes / 2**20
    """Maximum size of a request in MiB."""
    memory_mb: Annotated[float, option("MB")] = DEFAULTS.memory_mb
    """Memory limit in MiB for all requests in progress."""
    rate_hz: Annotated[float, option("HZ")] = DEFAULTS.rate_hz
    """Maximum requests per second from one client."""
    max_connections: Annotated[int, option("N")] = DEFAULTS.max_connections
    """Maximum number of open connections."""
    max_connections_per_client: Annotated[int, option("N")] = DEFAULTS.max_connections_per_client
    """Maximum number of open connections from one client. Behind a proxy, set it to --max-connections."""
    ready_s: Annotated[float, option("S")] = 180.0
    """Time limit in seconds for loading the model; a large model in vLLM may need 600."""
    replicas: Annotated[int, option("N")] = 1
    """Number of replicas of the model."""
    threads: Annotated[int, option("N")] = 1
    """CPU threads per replica."""
    gpus: Annotated[float, option("N")] = 0.0
    """GPUs per replica; may be a fraction."""
    engine: Annotated[str | None, option("MODULE:CALLABLE", "transformers")] = None
    """Engine that runs the model."""
    python: Annotated[str | None, option("FILE", "")] = None
    """Python interpreter of the replicas, for an engine with its own environment."""

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
    """Serve until interrupted; Ctrl-C exits with status 0."""
    arguments = parse(argv)
    # Everything that can be is checked now: an error must not wait until the model is loaded.
    try:
        config, service = ingress_config(arguments), service_config(arguments)
        token = load_token(arguments.token_file, config.host)
        load_tls(config)
        from reward_service.web import bind

        bound = bind(config)
    except BadInput as error:
        raise UsageError(_option(error.field), error.value, error.fix) from None
    check = check_model if service.engine.startswith("reward_service.") else check_for_any_engine
    named = arguments.checkpoint
    checkpoint = None if named is None else usable_model(named, "CHECKPOINT", check)
    os.environ.pop(TOKEN_VARIABLE, None)  # The cluster's processes do not need it.
    with bound, interruptible(STOPPED, status=0):
        serve(arguments.app, checkpoint, service, lambda client: listen(client, config, token, bound))


def ingress_config(arguments: Arguments) -> IngressConfig:
    """How HTTP is answered. Raises BadInput."""
    return IngressConfig(
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


def service_config(arguments: Arguments) -> ServiceConfig:
    """How the model is served. Raises BadInput."""
    engine = {name: value for name in ("engine", "python") if (value := getattr(arguments, name)) is not None}
    service = ServiceConfig(
        replicas=arguments.replicas,
        threads=arguments.threads,
        num_gpus=arguments.gpus,
        ready_s=arguments.ready_s,
        **engine,
    )
    check_engine(service)
    return service


def _option(field: str) -> str:
    """The option of a field of one of the two configurations."""
    section, _, name = field.rpartition(".")
    return f"--{name.replace('num_', '').replace('_', '-')}" if section in ("ingress", "service") else field


def serve(app: str | None, checkpoint: Path | None, service: ServiceConfig, answer: Callable[[object], None]) -> None:
    """Deploy the checkpoint, or find the running service `app`, and `answer` for its client; then clean up."""
    from experiments.runtime.cluster import ClusterConfig, ray_cluster, running_cluster

    if checkpoint is None:
        with running_cluster(), interruptible(STOPPED, 0):
            from experiments.runtime.reward_client import running_service
            from reward_service.client import ServeRewardClient

            answer(ServeRewardClient(running_service(app)))
        return
    print("Starting the Ray cluster …", flush=True)
    cluster = ClusterConfig(num_cpus=max(2, service.replicas + 1))
    with ray_cluster(cluster, announce=False), interruptible(STOPPED, 0):
        import ray

        from reward_service.client import ServeRewardClient

        _check_resources(service, ray.cluster_resources())
        from reward_service.deployment import deploy, shutdown

        name = f"http-{os.getpid()}"
        print(f"Loading {checkpoint} …", flush=True)
        deploy(checkpoint, name, service)
        address = ray.get_runtime_context().gcs_address
        print(f"To change the model while it runs: RAY_ADDRESS={address} dopamine grm deploy CHECKPOINT --app {name}")
        try:
            answer(ServeRewardClient(name))
        finally:
            shutdown(name)


def _check_resources(service: ServiceConfig, resources: Mapping[str, float]) -> None:
    """Raise BadInput if the whole cluster has too few GPUs or CPUs: the replicas would be awaited in vain."""
    for field, kind, each in (("--gpus", "GPU", service.num_gpus), ("--replicas", "CPU", service.num_cpus)):
        if service.replicas * each > (there := resources.get(kind, 0.0)):
            given = service.num_gpus if kind == "GPU" else service.replicas
            fix = f"the cluster has {there:g} {kind}s, and the replicas need {service.replicas * each:g}: give less"
            raise BadInput(field, given, fix)


def listen(client: object, config: IngressConfig, token: str | None, bound: socket.socket) -> None:
    """Answer HTTP requests until interrupted."""
    from reward_service.web import make_server

    server, sockets = make_server(client, config, token, bound)  # type: ignore[arg-type]
    host, port = sockets[0].getsockname()[:2]
    where = f"{'http' if config.tls_cert is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
    access = "token required" if token else "no token"
    print(f"serving {where}  (interface: {where}/docs, {where}/openapi.json; {access})", flush=True)
    print("Press Ctrl-C to stop.", flush=True)
    server.run(sockets)


if __name__ == "__main__":
    main()
