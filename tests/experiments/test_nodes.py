"""The main job with its actors on nodes of their own: one node is lost during the training, another joins."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.experiments.test_peg_insert import ROOT, TINY, assert_audit_agrees, check_result, environment

pytestmark = [pytest.mark.ray, pytest.mark.render, pytest.mark.slow, pytest.mark.long]

SPREAD = shlex.split(
    "--learner.num-env-runners 2 --learner.actor-resource sim --learner.num-cpus-per-env-runner 0.2"
    " --learner.rollout-fragment-length 4 --learner.steps-per-iteration 40 --training.environment-steps 600"
)


@pytest.fixture
def cluster(monkeypatch):
    """A head for driver and service, and two nodes for actors."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 300 * 2**20})
    yield nodes
    nodes.shutdown()


def add_simulation_node(cluster):
    return cluster.add_node(num_cpus=1, resources={"sim": 1}, object_store_memory=150 * 2**20)


def test_a_node_is_lost_and_another_joins(cluster, tmp_path):
    lost, _ = add_simulation_node(cluster), add_simulation_node(cluster)
    command = [sys.executable, "-m", "experiments.peg_insert", "--out", str(tmp_path / "run")]
    env = environment(tmp_path) | {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}
    joined = False
    with subprocess.Popen(
        [*command, *TINY, *SPREAD], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if re.search(r"environment steps \|", line):
                if lost is not None:
                    cluster.remove_node(lost)
                    lost = None
                elif not joined:
                    add_simulation_node(cluster)
                    joined = True
        assert process.wait(timeout=60) == 0, "".join(lines[-60:])
    assert joined, "".join(lines)
    result = check_result(tmp_path / "run")
    assert result["environment_steps"] >= 600
    assert_audit_agrees(tmp_path / "run", result)
