"""No coroutine of the service waits but by `await`: one that did would hold up all requests of its replica."""

from __future__ import annotations

import ast
import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dopamine_rl.errors import ServiceUnavailable, VersionUnavailable
from dopamine_rl.interfaces import ProgressScorer
from reward_service import deployment, ledger_store
from reward_service.deployment import GRMDeployment
from reward_service.releases import Ledger, Release
from reward_service.service import ServiceConfig
from tests.fakes import make_request, write_checkpoint

SERVICE = Path(deployment.__file__).parent
BLOCKING = {"ledger_store", "ray", "lease", "serve", "subprocess", "requests", "shutil"}
WAITS = {
    "sleep",
    "result",
    "join",
    "acquire",
    "read_bytes",
    "read_text",
    "write_bytes",
    "write_text",
    "open",
    "get_actor",
}


def _blocking(tree: ast.AST) -> Iterator[int]:
    """Lines of calls in coroutines that wait without `await`."""
    for coroutine in (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)):
        awaited = {id(node.value) for node in ast.walk(coroutine) if isinstance(node, ast.Await)}
        for call in (node for node in ast.walk(coroutine) if isinstance(node, ast.Call) and id(node) not in awaited):
            name, owner = getattr(call.func, "attr", getattr(call.func, "id", "")), getattr(call.func, "value", None)
            if isinstance(owner, ast.Constant):
                continue  # ", ".join
            if name in WAITS or (isinstance(owner, ast.Name) and owner.id in BLOCKING):
                yield call.lineno


def test_no_coroutine_blocks() -> None:
    found = {path.name: lines for path in SERVICE.rglob("*.py") if (lines := [*_blocking(ast.parse(path.read_text()))])}
    assert found == {}


def test_the_check_finds_what_blocks() -> None:
    code = "async def f():\n    await asyncio.sleep(1)\n    time.sleep(1)\n    ledger_store.read('x')\n    open('x')\n"
    assert list(_blocking(ast.parse(code))) == [3, 4, 5]


def test_a_request_for_a_version_that_is_still_loading_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cluster takes long to say what the ledger holds; meanwhile the replica answers, and the load goes on."""
    folders = [str(write_checkpoint(tmp_path / name, name)) for name in ("v1", "v2")]
    first = Ledger((Release(1, folders[0], "v1"),))
    record, cluster_answers, loads = [first], threading.Event(), threading.Event()
    over, looks_ended = threading.Event(), threading.Event()
    asked, gave_up, loading = threading.Event(), threading.Event(), threading.Event()
    cluster_answers.set()

    def read(app_name: str) -> Ledger:
        if not cluster_answers.is_set():
            asked.set()
        if not cluster_answers.wait(20):
            gave_up.set()
            raise ServiceUnavailable("the cluster does not answer")
        if over.is_set():
            looks_ended.set()
            threading.Event().wait()  # The replica's thread outlives this test; it must not ask a real cluster.
        return record[0]

    monkeypatch.setattr(ledger_store, "read", read)
    load = deployment._load

    def slow_load(folder: str, config: ServiceConfig) -> ProgressScorer:
        if folder != folders[0]:
            loading.set()
            assert loads.wait(20)
        return load(folder, config)

    monkeypatch.setattr(deployment, "_load", slow_load)
    replica = GRMDeployment("app", ServiceConfig(lease_s=0.0, engine="tests.fakes:engine_from_folder"))

    async def go() -> None:
        with pytest.raises(VersionUnavailable):
            raise await replica.score(make_request(model_version="v9"))  # type: ignore[misc]
        cluster_answers.clear()
        waiting = asyncio.create_task(replica.score(make_request(model_version="v2")))
        assert await asyncio.to_thread(asked.wait, 20)
        for _ in range(5):
            assert (await replica.score(make_request((0.5,)))).model_version == "v1"  # type: ignore[union-attr]
        assert not gave_up.is_set()  # Who waited for the ledger got no answer for 20 s.
        record[0] = Ledger((Release(2, folders[1], "v2"), *first.releases))
        cluster_answers.set()
        assert await asyncio.to_thread(loading.wait, 20)
        assert not waiting.done()
        loads.set()
        assert (await asyncio.wait_for(waiting, 20)).model_version == "v2"  # type: ignore[union-attr]

    try:
        asyncio.run(go())
    finally:
        over.set()
        cluster_answers.set()
        assert looks_ended.wait(20)
