"""Serves a reward model over HTTP, for robots and programs outside the cluster.

    python -m experiments.commands.serve CHECKPOINT [--host 127.0.0.1] [--port 8000] [--token-file FILE]

Starts the reward service on a Ray cluster (the one of RAY_ADDRESS, else one on this machine) and an HTTP server in
front of it, prints its address, and takes both down on Ctrl-C. `/docs` on that address describes the interface.

For other machines (any --host but this machine's own) it wants a token, and TLS: --tls-cert FILE --tls-key FILE.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from dopamine_rl.grm.hub import model_folder
from dopamine_rl.wire import WireLimits
from experiments.runtime.ending import command, interruptible
from reward_service.guards import TOKEN_VARIABLE, IngressConfig, load_tls, load_token

ENDED = "stopped"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.commands.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual, service = IngressConfig(), parser.add_argument_group("model")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", type=Path, help="folder of a reward model, or its hub id"
    )
    parser.add_argument("--app", metavar="NAME", help="serve this running application instead of a checkpoint")
    parser.add_argument(
        "--host", default=usual.host, help="address to listen on; off loopback only with a token and TLS"
    )
    parser.add_argument("--port", type=int, default=usual.port, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE",
        help=f"file with the token that clients must send (default: the environment variable {TOKEN_VARIABLE})",
    )  # fmt: skip
    parser.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="PEM file of the server's certificate: speak https"
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM file of its key, where that is not in the same file")  # fmt: skip
    parser.add_argument("--insecure", action="store_true", help="listen off loopback without TLS")
    parser.add_argument("--max-mb", type=float, default=usual.limits.max_bytes / 2**20, help="largest request in MiB (default: %(default)g)")  # fmt: skip
    parser.add_argument("--memory-mb", type=float, default=usual.memory_mb, help="MiB for all requests under way (default: %(default)g)")  # fmt: skip
    parser.add_argument("--rate-hz", type=float, default=usual.rate_hz, help="requests a second of one client (default: %(default)g)")  # fmt: skip
    parser.add_argument("--max-connections", type=int, default=usual.max_connections, help="open connections (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max-connections-per-client", type=int, default=usual.max_connections_per_client, help="the same of one client; as many where a proxy stands in front (default: %(default)s)")  # fmt: skip
    service.add_argument("--ready-s", type=float, default=180.0, help="time for the first copy to answer; a large model in vLLM may take 600 (default: %(default)g)")  # fmt: skip
    service.add_argument("--replicas", type=int, default=1, help="copies of the model (default: %(default)s)")
    service.add_argument("--threads", type=int, default=1, help="threads of each copy (default: %(default)s)")
    service.add_argument("--gpus", type=float, default=0.0, help="GPUs, or a share of one, of each copy (default: 0)")
    service.add_argument("--engine", help='"module:callable" that loads the checkpoint (default: transformers)')
    service.add_argument("--python", help="interpreter of the copies, for an engine with an environment of its own")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.max_mb < float("inf"):
        parser.error("--max-mb: give a size above 0")
    if (arguments.checkpoint is None) == (arguments.app is None):
        parser.error("give either a CHECKPOINT or --app NAME")
    return arguments


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
    if arguments.checkpoint is not None:
        arguments.checkpoint = model_folder(arguments.checkpoint)
    os.environ.pop(TOKEN_VARIABLE, None)  # The processes of the cluster have no use for it.
    with interruptible(ENDED, status=0):
        serve(arguments, config, token)


def serve(arguments: argparse.Namespace, config: IngressConfig, token: str | None) -> None:
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

        if arguments.app is not None:
            listen(ServeRewardClient(arguments.app), config, token)
            return
        from reward_service.deployment import deploy, shutdown

        name = f"http-{os.getpid()}"
        print(f"loading {arguments.checkpoint} …", flush=True)
        deploy(arguments.checkpoint, name, service)
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
