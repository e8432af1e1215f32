"""Clusters in inconvenient places: long temporary folders, addresses of clusters that are gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dopamine_rl.errors import BadInput, ClusterUnavailable, ServiceUnavailable
from experiments.runtime import cluster

ROOT = Path(__file__).parents[2]
LONG = "scratch-of-the-batch-system-with-the-number-of-the-job"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound, so that nobody else takes it, and at which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_long_temporary_folder_is_exchanged_and_one_for_ray_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "")  # so that what is set below is taken away again
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", "/tmp")
    cluster.choose_temporary_folder()
    assert "RAY_TMPDIR" not in os.environ
    monkeypatch.setenv("TMPDIR", f"/tmp/{LONG}")
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "SHORT_FOLDERS", ("/nowhere",))
        with pytest.raises(BadInput, match=rf"TMPDIR.*{LONG}.*RAY_TMPDIR"):
            cluster.choose_temporary_folder()
    monkeypatch.setattr(cluster, "SHORT_FOLDERS", ("/nowhere", str(tmp_path)))
    cluster.choose_temporary_folder()
    assert os.environ["RAY_TMPDIR"] == str(tmp_path)
    assert str(tmp_path) in capsys.readouterr().err
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{LONG}")
    with pytest.raises(BadInput, match=rf"RAY_TMPDIR.*{LONG}.*at most \d\d bytes"):
        cluster.choose_temporary_folder()


@pytest.mark.ray
def test_a_cluster_starts_where_the_temporary_folder_is_too_long(tmp_path: Path) -> None:
    folder = tmp_path / LONG / LONG
    folder.mkdir(parents=True)
    code = "from experiments.runtime.cluster import ClusterConfig, ray_cluster\n"
    code += "with ray_cluster(ClusterConfig()):\n    print('up')"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"} | {"TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "up"
    assert "too long for Ray's sockets" in done.stderr
    assert "Starting Ray …" in done.stderr
    assert "logging.cc" not in done.stderr


def test_the_address_of_a_cluster_that_is_gone_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    monkeypatch.setattr("psutil.process_iter", lambda _: iter(()))  # other clusters of this machine
    for text in (f"127.0.0.1:{closed_port}", "nonsense", ""):
        file.write_text(text)
        with pytest.raises(ServiceUnavailable, match=r"ray_current_cluster.*RAY_ADDRESS"), cluster.running_cluster():
            pass
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ServiceUnavailable), cluster.running_cluster():
        pass
    for address in (f"127.0.0.1:{closed_port}", f"ray://127.0.0.1:{closed_port}"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(BadInput, match="RAY_ADDRESS"), cluster.running_cluster():
            pass


def test_a_cluster_that_does_not_start_ends_with_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def never(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray's own code has it

    monkeypatch.setattr(ray, "init", never)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    refused = pytest.raises(ClusterUnavailable, match=r"Ray did not start .* run the same command again .*timed out")
    with refused, cluster.ray_cluster(cluster.ClusterConfig()):
        pass
