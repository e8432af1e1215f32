"""The command that serves a checkpoint over HTTP: its arguments, and one run from start to Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from dopamine_rl.errors import BadInput
from experiments.commands import serve
from experiments.runtime.ending import UsageError
from reward_service.guards import TOKEN_VARIABLE
from reward_service.http_client import HttpRewardClient
from reward_service.scorer import Scorer
from reward_service.service import ServiceConfig
from tests.contracts import check_reward_client
from tests.fakes import FakeEngine, seeded_request, sometimes, write_checkpoint
from tests.reward_service.certificates import write_certificate
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-for-the-tests"


def test_help_is_quick_and_says_what_it_does() -> None:
    code = "import sys; from experiments.commands.serve import parse\ntry:\n    parse(['--help'])\n"
    code += "except SystemExit:\n    pass\n"
    code += "sys.exit(len({'ray', 'torch', 'starlette', 'uvicorn', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for word in (
        "CHECKPOINT",
        "--host",
        "--port",
        "--token-file",
        "--tls-cert",
        "--tls-key",
        "--insecure",
        "Ctrl-C",
        "/docs",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CHECKPOINT", "--host", "0.0.0.0"], "--token-file"),
        (["CHECKPOINT", "--host", "0.0.0.0", "--token-file", "TOKEN"], "--tls-cert FILE and --tls-key FILE"),
        (["CHECKPOINT", "--host", "::", "--token-file", "TOKEN"], "--insecure"),
        (["CHECKPOINT", "--host", "0.0.0.0", "--token-file", "TOKEN", "--tls-cert", "/no/file"], "readable PEM file"),
        (["CHECKPOINT", "--tls-cert", "TOKEN", "--tls-key", "TOKEN"], "with the server's certificate"),
        (["CHECKPOINT", "--tls-key", "TOKEN"], "give --tls-cert FILE with it"),
        (["CHECKPOINT", "--max-connections-per-client", "0"], "--max-connections-per-client = 0"),
        (["/no/such/folder"], "give the folder of a reward model"),
        (["CHECKPOINT", "--port", "70000"], "port"),
        (["CHECKPOINT", "--token-file", "/no/such/file"], "readable file"),
        (["CHECKPOINT", "--rate-hz", "0"], "--rate-hz = 0.0"),
        (["CHECKPOINT", "--port", "-1"], "--port = -1"),
        (["CHECKPOINT", "--port", "TAKEN"], "another program listens there"),
        (["CHECKPOINT", "--host", "no.such.host", "--token-file", "TOKEN", "--insecure"], "an address of this machine"),
        (["CHECKPOINT", "--host", "0.0.0.0"], "--host = '0.0.0.0'"),
        (["CHECKPOINT", "--token-file", "SHORT"], "--token-file = "),
        (["CHECKPOINT", "--token-file", "SHORT"], "at least 16"),
        (["CHECKPOINT", "--token-file", "CHECKPOINT"], "Is a directory"),
        (["CHECKPOINT", "--tls-cert", "TOKEN"], "with the server's certificate"),
        (["CHECKPOINT", "--tls-cert", "CERT.CRT"], "give --tls-key FILE with its key"),
        (["CHECKPOINT", "--tls-cert", "CERT.CRT", "--tls-key", "CERT.CRT"], "the certificate's private key"),
        (["CHECKPOINT", "--tls-cert", "CERT.CRT", "--tls-key", "OLD.KEY"], "of its own key"),
        (["CHECKPOINT", "--tls-cert", "OLD.CRT", "--tls-key", "OLD.KEY"], "renew it: it expired on 20"),
        (["CHECKPOINT", "--tls-cert", "NEW.CRT", "--tls-key", "NEW.KEY"], "renew it: it is not valid before 20"),
        (["CHECKPOINT", "--tls-cert", "FAR.CRT", "--tls-key", "FAR.KEY"], "renew it: it is not valid before 20"),
        (["CHECKPOINT", "--replicas", "0"], "--replicas = 0"),
        (["CHECKPOINT", "--gpus", "-1"], "--gpus = -1.0"),
        (["CHECKPOINT", "--ready-s", "nan"], "--ready-s = nan"),
        (["CHECKPOINT", "--engine", "json:"], "--engine = 'json:'"),
        (["CHECKPOINT", "--engine", "no.such:thing"], "there is no module 'no.such'"),
        (["CHECKPOINT", "--engine", "tests.fakes:engine_from_foldr"], "write tests.fakes:engine_from_folder"),
        (["CHECKPOINT", "--python", "/no/such/python"], "--python = '/no/such/python'"),
        (["CHECKPOINT"], "config.json is missing"),
    ],
)
def test_bad_arguments_are_named_before_anything_starts(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "short").write_text("secret")
    days = {"cert": (-1, 1), "old": (-30, -3), "new": (3, 30), "far": (12_000, 20_000)}
    files = [file for name in days for file in write_certificate(tmp_path, name, days=days[name])]
    words = {file.name.upper(): str(file) for file in (tmp_path / "token", tmp_path / "short", *files)}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words |= {"CHECKPOINT": str(tmp_path), "TAKEN": str(taken.getsockname()[1])}
        with pytest.raises(SystemExit) as ended:
            serve.main([words.get(word, word) for word in arguments])
    assert ended.value.code == (2 if len(arguments) > 1 else 1)
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert "secret" not in printed


def test_more_than_the_cluster_has_is_refused() -> None:
    for service, message in (
        (ServiceConfig(num_gpus=1.0), "--gpus = 1.0: the cluster has 0 GPUs, and the replicas need 1"),
        (ServiceConfig(replicas=9), "--replicas = 9: the cluster has 2 CPUs, and the replicas need 9"),
    ):
        with pytest.raises(BadInput, match=message):
            serve._check_resources(service, {"CPU": 2.0})
    serve._check_resources(ServiceConfig(num_gpus=0.5, replicas=2), {"CPU": 2.0, "GPU": 1.0})


def test_a_checkpoint_or_an_application() -> None:
    for arguments in ([], ["folder", "--app", "name"]):
        with pytest.raises(UsageError, match="CHECKPOINT"):
            serve.parse(arguments)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_it_serves_until_it_is_ended_and_leaves_nothing(tmp_path: Path, end: signal.Signals) -> None:
    checkpoint = write_checkpoint(tmp_path / "grm", "v1", 0.2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), TOKEN_VARIABLE: TOKEN}
    command = [sys.executable, "-m", "experiments.cli", "serve", str(checkpoint), "--port", "0"]
    command += ["--engine", "tests.fakes:engine_from_folder"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    ) as server:
        assert server.stdout is not None
        url = next(line.split()[1] for line in server.stdout if line.startswith("serving "))
        children = _descendants(server.pid)
        assert children
        check_reward_client(HttpRewardClient(url, TOKEN), seeded_request, Scorer(FakeEngine("v1", sometimes(0.2))))
        assert requests.get(url + "/healthz", timeout=5).status_code == 200
        assert requests.get(url + "/v1/version", timeout=5).status_code == 401
        assert not any(_environment(pid).count(TOKEN.encode()) for pid in children)
        server.send_signal(end)
        rest = server.stdout.read()
        assert server.wait(60) == 0
    assert "Stopped." in rest
    assert TOKEN not in rest
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), what="the end of its processes")


def _descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [grandchild for child in children for grandchild in _descendants(child)]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
