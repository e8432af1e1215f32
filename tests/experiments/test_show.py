"""What `dopamine show` reads of a run, says on its pages, and refuses."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import requests

from actors import label_records
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.monitor import ShadowMonitor
from dopamine_rl.files import write_npz
from dopamine_rl.success import ClaimOutcome
from experiments.commands import show
from experiments.viewer.episodes import EpisodeStore, arranged
from experiments.viewer.pages import Pages, shown_runs, static
from experiments.viewer.runs import RunReader, check_run, gate_verdict, shadow
from experiments.viewer.server import make_app
from reward_service.guards import TOKEN_VARIABLE
from tests.experiments.shown_runs import episode_id, record, write_run
from tests.reward_service.certificates import write_certificate

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-for-the-tests"
OLD_RUN = ROOT / "tests/fixtures/old_run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "peg").resolve()


def ask(
    app: Any, path: str, method: str = "GET", host: str = "127.0.0.1:8700", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer. The path is sent as it is, as no client library would."""
    raw, _, query = path.partition("?")
    sent: list[Any] = []
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": unquote(raw),
        "raw_path": raw.encode(), "query_string": query.encode(), "root_path": "", "server": ("127.0.0.1", 8700),
        "client": ("127.0.0.1", 1), "headers": [(b"host", host.encode())]
        + [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip

    async def answer() -> None:
        asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> dict[str, Any]:
            return next(asked, None) or await asyncio.Future()  # the client stays

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)

    asyncio.run(answer())
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, body


def app_of(*folders: Path, host: str = "127.0.0.1", token: str | None = None) -> Any:
    return make_app(shown_runs(folders), host, token)


# Reading


def test_nothing_that_is_missing_or_half_written_is_an_error(tmp_path: Path) -> None:
    names = ("curve.jsonl", "episodes.jsonl", "config.toml", "result.json", "phases/gate.json", "phases/claims.json")
    for number, damaged in enumerate([*((name,) for name in names), names]):
        folder = write_run(tmp_path / f"{number}").resolve()
        for name in damaged:
            text = (folder / name).read_text()
            (folder / name).write_text(text[: len(text) - 9])
        state = RunReader(folder).read()
        shadow(state)
        gate_verdict(state)
    assert ask(app_of(folder), "/runs/0")[0] == 200
    for name in names:
        (folder / name).unlink()
    assert b"Not written yet: its settings" in ask(app_of(folder), "/runs/0")[2]
    (folder / "curve.jsonl").write_text('{"environment_steps": 5, "success": null}\n{"environment_st')
    assert RunReader(folder).read().column("environment_steps").tolist() == [5.0]
    assert ask(app_of(folder), "/runs/0")[0] == 200
    empty = tmp_path / "empty"
    (empty / "phases").mkdir(parents=True)
    for path in ("/runs/0", "/runs/0/episodes", "/compare"):
        assert ask(app_of(check_run(empty)), path)[0] == 200


def test_a_run_is_running_while_a_process_holds_its_lock(run: Path, tmp_path: Path) -> None:
    assert RunReader(run).read().status == "finished"
    folder = write_run(tmp_path / "cut_off", finished=False)
    os.utime(folder / "curve.jsonl", (0, 0))
    reader = RunReader(folder)
    assert reader.read().status == "stopped"
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert reader.read().status == "running"
        assert b"data-refresh-s" in ask(app_of(folder), "/runs/0/episodes")[2]
    assert reader.read().status == "stopped"


def test_the_shadow_monitor_says_what_it_said_in_training(run: Path) -> None:
    state, monitor, said = RunReader(run).read(), ShadowMonitor(success_threshold=0.8), []
    for at in (100, 200, 300):
        for episode in [e for e in state.episodes if e["environment_steps"] == at]:
            claim = ClaimOutcome(episode["claimed"], episode["success"], episode["reached"])
            monitor.add(episode["final_progress"], episode["success"], claim)
        said += [(at, warning)] if (warning := monitor.warning()) else []
    assert shadow(state) == (monitor.summary(), said)
    judged = gate_verdict(state)
    assert judged is not None
    assert judged[1].passed


def test_episodes_are_sorted_by_how_far_the_claim_is_from_the_truth(run: Path) -> None:
    rows = EpisodeStore(run).rows()
    assert [row.verdict for row in arranged(rows, "disagreement", "all")] == [
        "false claim", "missed success", "failure", "claimed, true", "",
    ]  # fmt: skip
    assert [row.disagreement for row in arranged(rows, "disagreement", "wrong")] == pytest.approx([0.9, 0.6])
    assert arranged(rows, "progress", "training")[0].summary.final_progress == pytest.approx(0.9)
    assert {row.kind for row in rows} == {"training", "expert"}
    old = EpisodeStore(OLD_RUN.resolve()).rows()
    assert len(old) == 2
    assert all(row.disagreement is None for row in old)


def test_a_thousand_episodes_are_listed_without_a_picture_and_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "many", records=[record(0, frames=20)])
    with np.load(folder / "records" / f"{episode_id(0)}.npz") as data:
        arrays = {name: data[name] for name in data.files}
    header = json.loads(str(arrays["header"]))
    for number in range(1, 1000):
        header |= {"episode_id": episode_id(number)}
        header["last"]["final_progress"] = number / 1000
        write_npz(folder / "records" / f"{episode_id(number)}.npz", arrays | {"header": np.array(json.dumps(header))})
    app, began = app_of(folder.resolve()), time.process_time()
    status, _, body = ask(app, "/runs/0/episodes?sort=disagreement")
    assert status == 200
    picture = re.search(r'src="(/runs/0/episodes/[^"]+)"', body.decode())
    assert picture is not None
    assert ask(app, picture[1])[1]["content-type"] == "image/jpeg"
    assert time.process_time() - began < 1.0
    assert b"1 to 50 of 1,000" in body
    monkeypatch.setattr(label_records, "unpack", lambda *_: pytest.fail("a picture was decoded"))
    assert b"951 to 1000 of 1,000" in ask(app, "/runs/0/episodes?page=99")[2]


# Pages


def test_every_page_of_real_and_small_runs_is_served(run: Path) -> None:
    app = app_of(run, OLD_RUN.resolve())
    for index, store in enumerate((EpisodeStore(run), EpisodeStore(OLD_RUN.resolve()))):
        for path in ("", "/episodes", *(f"/episodes/{row.name}" for row in store.rows())):
            status, headers, body = ask(app, f"/runs/{index}{path}?sort=return&only=all")
            assert status == 200, (path, body)
            assert "script-src 'self'" in headers["content-security-policy"]
            for source in set(re.findall(r'<img[^>]* src="([^"]+)"', body.decode())):
                assert ask(app, source.replace("&amp;", "&"))[0] == 200, source
    body = ask(app, "/compare?a=0&b=1")[2].decode()
    assert body.count('class="player"') == 2
    assert "Settings that differ" in body
    assert ask(app, "/")[1]["location"] == "/compare"
    assert ask(app_of(run), "/")[1]["location"] == "/runs/0"


def test_what_stands_beside_a_picture_is_what_was_recorded(run: Path) -> None:
    [shown] = shown_runs([run])
    episode = shown.store.episode(episode_id(2))
    data = Pages([shown]).player(shown, episode)["data"]
    assert data["times"] == [0, 4, 8, 12, 16]
    assert data["span"] == 17.0
    rows = data["rows"]
    assert rows[1]["hop forward"] == "+15"
    assert (rows[2]["answer"], rows[3]["answer"]) == ("late – too <late>", "answered")
    assert [row["ending"] for row in rows] == ["under way"] * 4 + ["false claim"]
    paid = episode.record.ending.rewards  # type: ignore[union-attr]
    assert rows[1]["reward"] == f"{paid[:4].sum():+.3f}"
    assert rows[4]["return"] == f"{paid.sum():+.3f}"


def test_names_and_instructions_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>'\"<img src=x onerror=alert(1)>&lt;"
    folder = tmp_path / evil.replace("/", "∕")
    write_run(folder, records=[record(1, instruction=f"{evil}</script>"), record(2)])
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace('"rlpd"', json.dumps(evil)).replace('"front"', json.dumps(evil)))
    (folder / "phases" / "<script>.json").write_text('{"key": "0", "value": 1}')
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"environment": evil, "model_version": evil}))
    app = app_of(folder.resolve(), OLD_RUN.resolve())
    pages = [
        "/runs/0",
        "/runs/0/episodes?sort=%3Cscript%3E",
        f"/runs/0/episodes/{episode_id(1)}?sort=%22%3E%3Cscript%3E",
    ]
    for path in (*pages, "/compare", "/runs/0/episodes/%3Cscript%3E"):
        text = ask(app, path)[2].decode()
        assert "&lt;script&gt;" in text or "episodes/%3C" in path, path
        assert "<img src=x" not in text
        assert not re.findall(r"<script(?! type=\"application/json\">| src=\"/static)", text)
        assert text.count("</script>") == text.count("<script")


def test_the_report_is_one_file_with_everything_in_it(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    show.main([str(run), str(OLD_RUN), "--write", str(path), "--episodes", "2"])
    text = path.read_text(encoding="utf-8")
    assert text.count('class="player"') == 3
    assert text.count("data:image/jpeg") >= 2 * 5
    links = re.findall(r"""(?:src|href|action)=["']([^"'#]{1,80})""", text)
    assert {link.split(":")[0] for link in links} == {"data"}
    digest = base64.b64encode(hashlib.sha256(static("viewer.js").encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text
    assert f"<script>{static('viewer.js')}</script>" in text
    with pytest.raises(SystemExit):
        show.main([str(run), "--write", str(tmp_path)])


# What is refused


def test_only_reading_from_names_of_this_machine(run: Path) -> None:
    app = app_of(run)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(app, "/runs/0", method)[0] == 405
    for host in ("evil.example", "evil.example:8700", "127.0.0.1.evil.example", "[::2]:8700", "10.0.0.1", ""):
        status, headers, body = ask(app, "/runs/0", host=host)
        assert status == 421
        assert b"peg" not in body
        assert headers["x-content-type-options"] == "nosniff"
    for host in ("localhost:8700", "127.0.0.1", "[::1]:8700", "LOCALHOST"):
        assert ask(app, "/static/viewer.css", host=host)[0] == 200
    public = make_app(shown_runs([run]), "0.0.0.0", TOKEN, ["runs.example"])
    for host, status in (("10.0.0.1:80", 401), ("runs.example", 401), ("evil.example", 421)):
        assert ask(public, "/", host=host)[0] == status


def test_a_token_opens_the_pages_once_for_a_browser(run: Path) -> None:
    app = app_of(run, token=TOKEN)
    for path in ("/", "/runs/0", "/static/viewer.js", "/runs/0/files/gate.png", "/runs/0?token=wrong"):
        status, _, body = ask(app, path)
        assert status == 401
        assert b"peg" not in body
    status, headers, _ = ask(app, f"/runs/0/episodes?sort=return&token={TOKEN}")
    assert (status, headers["location"]) == (303, "/runs/0/episodes?sort=return")
    cookie = headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert ask(app, "/runs/0", cookie=cookie.split(";")[0])[0] == 200
    assert ask(app, "/runs/0", authorization=f"Bearer {TOKEN}")[0] == 200
    for wrong in ({"cookie": "dopamine_show=no"}, {"authorization": "Bearer no"}, {"cookie": f"dopamine_show={TOKEN}"}):
        assert ask(app, "/runs/0", **wrong)[0] == 401


def test_nothing_outside_of_the_run_is_handed_out(tmp_path: Path) -> None:
    folder, outside = write_run(tmp_path / "run").resolve(), write_run(tmp_path / "outside", records=[record(9)])
    stolen = outside / "records" / f"{episode_id(9)}.npz"
    (folder / "records" / stolen.name).symlink_to(stolen)
    (folder / "gate.png").symlink_to(tmp_path / "outside" / "config.toml")
    (folder / "policy.mp4").write_bytes(b"0123456789")
    app = app_of(folder)
    assert ask(app, "/runs/0/files/policy.mp4", range="bytes=2-4")[2] == b"234"
    for path in (
        "/runs/0/files/gate.png",
        "/runs/0/files/config.toml",
        "/runs/0/files/../config.toml",
        "/runs/0/files/..%2Fconfig.toml",
        "/runs/0/files/%2Fetc%2Fpasswd",
        f"/runs/0/episodes/{episode_id(9)}",
        f"/runs/0/episodes/{episode_id(9)}/pictures/0",
        f"/runs/0/episodes/..%2F..%2Foutside%2Frecords%2F{episode_id(9)}",
        "/runs/0/episodes/%00",
        "/runs/0/episodes/..",
        f"/runs/0/episodes/{episode_id(1)}/pictures/99",
        f"/runs/0/episodes/{episode_id(1)}/pictures/..%2Fgoal",
        "/static/..%2Fpages.py",
        "/static/pages.py",
        "/runs/1",
    ):
        status, _, body = ask(app, path)
        assert status == 404, path
        assert b"[gate]" not in body
    (folder / "records" / f"{episode_id(7)}.npz").write_bytes(b"no record")
    assert ask(app, "/runs/0/episodes")[0] == 200
    next((folder / "records" / "references").iterdir()).unlink()
    assert ask(app, f"/runs/0/episodes/{episode_id(2)}")[0] == 410


def test_damaged_arguments_are_named_before_anything_starts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    for words, message in (
        ([str(tmp_path / "none")], "there is no such folder"),
        ([str(tmp_path)], "this is no run's folder"),
        ([], "give 1 to 6 folders"),
        ([str(run), "--port", "-1"], "--port = -1"),
        ([str(run), "--host", "0.0.0.0"], "--token-file FILE"),
        ([str(run), "--tls-key", str(tmp_path)], "give --tls-cert FILE with it"),
        ([str(run), "--write", "s3://bucket/report.html"], "give a local path"),
    ):
        with pytest.raises(SystemExit) as ended:
            show.main(words)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(BadInput, match="give the folder of a run"):
        check_run(tmp_path / "none")


def test_the_command_serves_over_tls_until_it_is_ended_and_changes_nothing(run: Path, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "show")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    command = [sys.executable, "-m", "experiments.cli", "show", str(run), "--port", "0"]
    command += ["--tls-cert", str(certificate), "--tls-key", str(key)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), TOKEN_VARIABLE: TOKEN}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    ) as server:
        assert server.stdout is not None
        url = next(line.split()[1] for line in server.stdout if line.startswith("showing https://"))
        assert requests.get(url + "runs/0", timeout=30, verify=str(certificate)).status_code == 401
        with requests.Session() as browser:
            page = browser.get(f"{url}runs/0/episodes?token={TOKEN}", timeout=30, verify=str(certificate))
            assert page.status_code == 200
            assert "false claim" in page.text
            assert [cookie.secure for cookie in browser.cookies] == [True]
        server.send_signal(signal.SIGINT)
        rest = server.stdout.read()
        assert server.wait(60) == 0
    assert "Stopped." in rest
    assert "Traceback" not in rest
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
