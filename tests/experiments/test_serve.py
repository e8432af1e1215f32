"""The command that serves a checkpoint over HTTP: its arguments, and one run from start to Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from experiments.commands import serve
from experiments.runtime.ending import UsageError
from reward_service.guards import TOKEN_VARIABLE
from reward_service.http_client import HttpRewardClient
from reward_service.scorer import Scorer
from tests.contracts import check_reward_client
from tests.fakes import FakeEngine, seeded_request, sometimes, write_checkpoint
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
        (["CHECKPOINT", "--tls-cert", "TOKEN", "--tls-key", "TOKEN"], "certificate and of its own key"),
        (["CHECKPOINT", "--tls-key", "TOKEN"], "give --tls-cert FILE with it"),
        (["CHECKPOINT", "--max-connections-per-client", "0"], "max_connections_per_client"),
        (["/no/such/folder"], "give the folder of a reward model"),
        (["CHECKPOINT", "--port", "70000"], "port"),
        (["CHECKPOINT", "--token-file", "/no/such/file"], "readable file"),
        (["CHECKPOINT", "--rate-hz", "0"], "rate_hz"),
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
    words = {"CHECKPOINT": str(tmp_path), "TOKEN": str(tmp_path / "token")}
    with pytest.raises(SystemExit) as ended:
        serve.main([words.get(word, word) for word in arguments])
    assert ended.value.code in (1, 2)
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


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
