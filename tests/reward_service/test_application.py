"""The applications that a declarative configuration starts: their arguments, and scoring through Serve's HTTP proxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import serve

from dopamine_rl.errors import BadInput, ScoringError
from dopamine_rl.interfaces import RewardClient
from reward_service import application
from reward_service.client import ServeRewardClient
from reward_service.http_client import HttpRewardClient
from reward_service.scorer import Scorer
from tests.contracts import check_reward_client
from tests.fakes import FakeEngine, make_request, seeded_request, write_checkpoint

TOKEN = "a-token-of-twenty-four-c"
SERVICE = {"num_cpus": 0.1, "engine": "tests.fakes:engine_from_folder"}


@pytest.mark.parametrize(
    ("builder", "args", "message"),
    [
        ("reward", {"app_name": "a"}, "args.checkpoint"),
        ("reward", {"checkpoint": "m"}, "args.app_name"),
        ("reward", {"app_name": "a", "checkpoint": "m", "service": {"num_gpu": 1}}, "num_gpus"),
        ("reward", {"app_name": "a", "checkpoint": "m", "service": {"replicas": 0}}, "at least 1"),
        ("reward", {"app_name": "a", "checkpoint": "m", "service": {"engine": "no.such:Engine"}}, "no.such"),
        ("http", {}, "args.app_name"),
        ("http", {"app_name": "a", "ingres": {}}, "ingress"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(builder: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        getattr(application, builder)(args)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where both applications answer HTTP, on a cluster of their own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("DOPAMINE_TOKEN", TOKEN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        model = write_checkpoint(tmp_path / "grm", "v1")
        args = {"app_name": "reward", "checkpoint": str(model), "service": SERVICE}
        serve.run(application.reward(args), name="reward", route_prefix=None)
        serve.run(application.http({"app_name": "reward", "num_cpus": 0.1}), name="http", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.ray
def test_robots_are_answered_through_serves_proxy_and_actors_without_it(address: str) -> None:
    client = HttpRewardClient(address, token=TOKEN)
    check_reward_client(client, seeded_request, Scorer(FakeEngine("v1")))
    inside: RewardClient = ServeRewardClient("reward")
    assert client.model_version(10.0) == inside.model_version(10.0) == "v1"
    with pytest.raises(ScoringError, match="token"):
        HttpRewardClient(address, token="another-token-of-24-char").submit(make_request()).result(10.0)
