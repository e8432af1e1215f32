"""The main job as a user submits it after a local run, and what every run of it must show."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.render, pytest.mark.slow, pytest.mark.long]

ROOT = Path(__file__).resolve().parents[2]
TINY = shlex.split(
    "--preset smoke --force --cloning.widths 32 64 --cloning.trials 2 --cloning.updates 100 --sft.train.budget-s 6"
    " --demonstrations.reward-model 4 --demonstrations.policy 3 --demonstrations.gate-successes 2"
    " --demonstrations.gate-failures 2 --demonstrations.gate-rollouts 2 --training.environment-steps 160"
    " --evaluation.episodes 2 --learner.learning-starts 60 --demonstrations.practice 2 --sft.failures path"
    " --learner.practice"
)
RATES = ("expert_success", "straight_push_success", "bc_success", "policy_success")
GATE = ("voc_plus", "voc_minus", "progress_mae", "false_success", "auc")
LABELS = ("asked", "answered", "invalid", "late", "rejected", "p50_ms", "p99_ms")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One account for all runs of this module: what a local run leaves in it is what the next run finds."""
    return tmp_path_factory.mktemp("home")


def environment(home):
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "DOPAMINE_STORAGE", "PYTHONPATH")
    return {k: v for k, v in os.environ.items() if k not in names} | {"HOME": str(home)}


def check_result(folder):
    result = json.loads((folder / "result.json").read_text())
    for name in RATES:
        assert set(result[name]) == {"mean", "low", "high", "n"}
        assert 0 <= result[name]["low"] <= result[name]["mean"] <= result[name]["high"] <= 1
    assert all(isinstance(result["gate"][name], float) for name in GATE)
    labels = result["labels"]
    assert labels["closed"]
    assert all(labels[name] is not None for name in LABELS)
    assert labels["asked"] == labels["answered"] + labels["invalid"] + labels["late"] + labels["rejected"] > 0
    assert labels["errors"] == 0
    assert result["reward"] == "grm"
    assert result["environment_steps_per_s"] > 0
    assert result["wall_s"] > 0
    assert result["records"]["dropped"] == result["records"]["failed"] == 0
    assert result["provenance"]["preset"] == "smoke"
    assert json.loads((folder / "grm" / "grm.json").read_text())["card"]["provenance"]["commit"]
    for name in ("report.md", "config.toml", "gate.png", "learning_curve.png"):
        assert (folder / name).stat().st_size > 0
    for name in ("policy.mp4", "bc.mp4", "expert.mp4"):
        assert (folder / name).stat().st_size > 10_000
    return result


def audit(folder):
    command = [sys.executable, "-m", "experiments.cli", "audit", str(folder)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    return json.loads(output.strip().splitlines()[-1])


def assert_audit_agrees(folder, result):
    report = audit(folder)
    assert report["max_abs_difference"] <= 1e-4
    assert report["doubled"] == report["wrong_version"] == 0
    assert report["answered"] > 0


def assert_search_works(folder):
    command = [sys.executable, "-m", "experiments.cli", "grm", "exploit", str(folder)]
    command += ["--environment-steps", "80", "--episodes", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    stored = json.loads((folder / "exploit" / "exploit.json").read_text())
    assert figures["model_version"] == json.loads((folder / "result.json").read_text())["model_version"]
    assert figures["excess"] == stored["excess"]
    for episode in stored["by_episode"]:
        assert episode["excess"] == pytest.approx(episode["progress"] - episode["truth"])
    recorded = [np.load(path) for path in (folder / "exploit" / "episodes").glob("*/transitions.npz")]
    assert len(recorded) == figures["episodes"] == 2
    assert all("tool_poses" in transitions for transitions in recorded)


def kill_replica(driver):
    replicas = [p for p in psutil.Process(driver).children(recursive=True) if "ServeReplica" in " ".join(p.cmdline())]
    for process in replicas[:1]:
        process.send_signal(signal.SIGKILL)
    return replicas[:1]


def test_a_job_submitted_after_a_local_run(home, tmp_path):
    """The user's order: something ran locally in this account, then `ray start --head`, then `ray job submit`."""
    local_run = (
        "from experiments.runtime.cluster import ClusterConfig, ray_cluster\nwith ray_cluster(ClusterConfig()): pass"
    )
    subprocess.run([sys.executable, "-c", local_run], cwd=ROOT, env=environment(home), check=True, timeout=120)
    ray = str(Path(sys.executable).parent / "ray")
    env = environment(home)
    env["PATH"] = f"{Path(ray).parent}{os.pathsep}{env['PATH']}"
    head = subprocess.Popen(
        [
            ray,
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            "--port=26379",
            "--dashboard-port=28265",
            "--dashboard-agent-listen-port=28365",
        ],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        out = tmp_path / "storage"
        command = [ray, "job", "submit", "--working-dir", ".", "--", "python", "experiments/peg_insert.py"]
        command += ["--preset", "smoke", "--force", "--storage", str(out)]
        env["RAY_ADDRESS"] = "http://127.0.0.1:28265"
        wait_until_listening(28265)
        done = submit(command, env)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    finally:
        stop_tree(head)
    result = check_result(out / "peg_insert_smoke")
    assert result["labels"]["invalid"] + result["labels"]["late"] <= 0.01 * result["labels"]["asked"]
    assert_audit_agrees(out / "peg_insert_smoke", result)


def submit(command, env, timeout_s=120.0):
    """Submit a job; a head node that listens may still be waiting for its parts, so it is tried again for a while."""
    tries = []

    def taken():
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
        tries.append(done)
        return not any(why in done.stdout + done.stderr for why in ("No available agent", "RemoteDisconnected"))

    wait_until(taken, timeout_s, "the acceptance of the job")
    return tries[-1]


def wait_until_listening(port, timeout_s=150.0):
    import socket

    def listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, timeout_s, f"a listener on port {port}")


def stop_tree(process):
    """End the head node this test started, and nothing else."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            member.terminate()
        except psutil.NoSuchProcess:
            continue
    process.wait(timeout=60)
    psutil.wait_procs(family[1:], timeout=20)
