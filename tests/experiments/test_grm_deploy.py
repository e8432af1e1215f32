"""The command that moves a running service to other weights."""

import json
import os
import subprocess
import sys

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray

from reward_service.client import ServeRewardClient
from reward_service.deployment import deploy, shutdown
from reward_service.service import ServiceConfig
from tests.experiments.test_peg_insert import ROOT
from tests.fakes import make_request, write_checkpoint


def command(*arguments, address=""):
    """Run `dopamine grm deploy` and return (exit status, all that it printed)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cli", "grm", "deploy", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


@pytest.mark.ray
def test_a_running_service_gets_other_weights(tmp_path):
    old, new = (write_checkpoint(tmp_path / name, name) for name in ("v1", "v2"))
    context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        address = context.address_info["gcs_address"]
        status, printed = command(new, address=address)
        assert (status, "start a service first" in printed) == (1, True)
        deploy(old, "only", ServiceConfig(num_cpus=0.1, engine="tests.fakes:engine_from_folder"))
        status, printed = command(new, address=address)
        assert status == 0, printed
        result = json.loads(printed.splitlines()[-1])
        assert (result["app"], result["before"], result["version"], result["replicas"]) == ("only", "v1", "v2", 1)
        assert ServeRewardClient("only").submit(make_request()).result(10.0).model_version == "v2"
        (tmp_path / "bad").mkdir()
        status, printed = command(tmp_path / "bad", address=address)
        assert (status, "bad is refused" in printed, "Traceback" in printed) == (1, True, False)
        assert ServeRewardClient("only").model_version(10.0) == "v2"
        shutdown("only")
    finally:
        ray.shutdown()


def test_what_cannot_be_meant_is_named(tmp_path):
    for arguments, address, wanted, expected in (
        ([tmp_path / "missing"], "", 1, "missing': it is not a folder"),
        ([tmp_path], "127.0.0.1:1", 1, "RAY_ADDRESS"),
        ([tmp_path], "nonsense", 1, "RAY_ADDRESS"),
        ([tmp_path, "--keep", "-1"], "", 2, "keep"),
    ):
        status, printed = command(*arguments, address=address)
        assert status == wanted
        assert expected in printed.splitlines()[-1]
