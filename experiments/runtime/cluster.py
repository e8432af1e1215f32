"""Joins the Ray cluster a job was submitted to, or starts one on this machine and stops it again."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dopamine_rl.errors import BadInput, ClusterUnavailable, ServiceUnavailable, require
from dopamine_rl.process_log import RUN_VARIABLE, WORKER_HOOK

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder."""


@dataclass(frozen=True)
class ClusterConfig:
    """The Ray cluster that a run starts if it was not submitted to one."""

    num_cpus: int = 2
    """Logical CPUs of the cluster started on this machine."""
    object_store_mb: int = 512
    """Size of the shared object store in MiB."""
    worker_threads: int = 1
    """Threads per worker process for numerical libraries and the software renderer."""

    def __post_init__(self) -> None:
        require(
            "cluster",
            self,
            ("num_cpus", self.num_cpus >= 2, "give at least 2; logical CPUs may exceed the machine's cores"),
            ("object_store_mb", self.object_store_mb >= 100, "give at least 100"),
            ("worker_threads", self.worker_threads >= 1, "give at least 1"),
        )


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""A thread that spins while it waits takes the core that its partner needs: tens of times slower on a busy machine."""


LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket."""
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.0"
"""The longest path of a socket that Ray makes below its temporary folder."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Tried where the temporary folder's path is too long for sockets."""


def in_job() -> bool:
    """True inside a driver that `ray job submit` started."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@contextmanager
def ray_cluster(config: ClusterConfig, announce: bool = True, run: str = "") -> Iterator[None]:
    """Connect to Ray for the length of the block.

    If RAY_ADDRESS is set (job submission sets it), that cluster is joined and left running. Otherwise a cluster is
    started on this machine, apart from any other, and stopped at the end.

    Args:
        announce: say on standard error that Ray starts, which takes seconds.
        run: name of the run, for the logs of all its processes.
    Raises:
        BadInput: nothing listens at RAY_ADDRESS, or the cluster has fewer than 2 CPUs.
        ClusterUnavailable: Ray did not start on this machine.
    """
    joined = in_job() or bool(os.environ.get("RAY_ADDRESS"))
    if not joined:
        # A local cluster would otherwise turn token authentication on for the whole account, and the next
        # `ray start --head` with it, which `ray job submit` then cannot get past.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.update({name: value for name, value in PASSIVE.items() if name not in os.environ})
    if announce:
        print("Joining the Ray cluster …" if joined else "Starting Ray …", file=sys.stderr, flush=True)
    _quieten()
    import ray
    from ray import rllib  # noqa: F401  (sets its own log level when imported)

    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    os.environ[RUN_VARIABLE] = run
    variables = {name: str(config.worker_threads) for name in THREAD_VARIABLES} | PASSIVE | {RUN_VARIABLE: run}
    if joined:
        _check_address(os.environ.get("RAY_ADDRESS", ""))
        environment = {"env_vars": variables, "worker_process_setup_hook": WORKER_HOOK}
        ray.init(runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    else:
        _start(config, variables)
    try:
        available = ray.cluster_resources().get("CPU", 0)
        if available < 2:
            raise BadInput("cluster CPUs", available, "give the cluster at least 2 logical CPUs (cluster.num_cpus)")
        yield
    finally:
        _leave()


def _start(config: ClusterConfig, variables: dict[str, str]) -> None:
    """Start a cluster on this machine, whose workers get these environment variables and find our packages.

    Raises:
        ClusterUnavailable: Ray gave up waiting for its own processes.
    """
    import ray

    choose_temporary_folder()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    try:
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            include_dashboard=False,
            object_store_memory=config.object_store_mb * 1024**2,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={
                "env_vars": variables | {"PYTHONPATH": path},
                "worker_process_setup_hook": WORKER_HOOK,
            },
        )
    except Exception as error:
        if isinstance(error, ValueError | TypeError):
            raise
        fix = "if other programs keep it busy, run the same command again when they are done"
        raise ClusterUnavailable(f"Ray did not start on this machine: {fix} ({error})") from error


@contextmanager
def running_cluster() -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS, or else to the one running on this machine, during the block.

    Raises:
        ServiceUnavailable: there is none.
    """
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # As for a cluster that `ray_cluster` starts.
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    _quieten()
    import ray

    try:
        ray.init(address=os.environ.get("RAY_ADDRESS") or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ServiceUnavailable(
            "no Ray cluster is running on this machine: start the reward service first, or set RAY_ADDRESS"
        ) from error
    try:
        yield
    finally:
        _leave()


def choose_temporary_folder() -> None:
    """Let Ray use a folder whose path leaves room for its sockets, and say so where it is another than asked for.

    Raises:
        BadInput: RAY_TMPDIR is too long; or TMPDIR is, as clusters give it, and no short folder can be written.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder, most = os.environ.get(name, "/tmp"), LONGEST_SOCKET - len(SOCKET)
    if len(os.fsencode(folder)) <= most:
        return
    short = next((path for path in SHORT_FOLDERS if os.access(path, os.W_OK | os.X_OK)), None)
    if name == "RAY_TMPDIR" or short is None:
        fix = f"set RAY_TMPDIR to a folder whose path has at most {most} bytes: Ray's sockets need the rest"
        raise BadInput(name, folder, fix)
    print(f"TMPDIR is too long for Ray's sockets: Ray uses {short} (set RAY_TMPDIR to change it)", file=sys.stderr)
    os.environ["RAY_TMPDIR"] = short


def _check_address(address: str) -> None:
    """Ray itself waits minutes for a cluster that is not there."""
    if address in ("", "auto"):
        _check_latest()
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except (OSError, ValueError) as error:
        raise BadInput("RAY_ADDRESS", address, f"give HOST:PORT of a running cluster ({error})") from error


def _check_latest() -> None:
    """Raise ServiceUnavailable where Ray would take an address from its own file at which nothing listens any more.

    With one cluster on this machine it takes that one; the file decides where there is none, or several.
    """
    import psutil

    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    file = Path(folder) / "ray" / "ray_current_cluster"
    if (
        not file.is_file()
        or sum(process.info["name"] == "gcs_server" for process in psutil.process_iter(["name"])) == 1
    ):
        return
    address = file.read_text(encoding="utf-8", errors="replace").strip()
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except (OSError, ValueError) as error:
        raise ServiceUnavailable(
            f"no Ray cluster answers at {address!r}, which {file} names ({error}): start the reward service, or set "
            "RAY_ADDRESS to its cluster's HOST:PORT"
        ) from error


def _leave() -> None:
    import ray

    # Serve's routers still push metrics to the stopped cluster; hide these errors.
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    ray.shutdown()


def _quieten() -> None:
    """Only errors of Ray are shown. To be called before Ray is imported."""
    # Else Ray would start another cluster for what is left of Serve once ours is gone.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    from ray import serve  # noqa: F401  (sets its own log level when imported)

    for name in ("ray", "ray.serve", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
