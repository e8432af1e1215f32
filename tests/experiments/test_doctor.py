"""`dopamine doctor`: each probe finds what is there and what is not, says how to mend it, and none waits for ever."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from experiments.commands import doctor
from experiments.runtime import machine
from experiments.runtime.machine import Finding, examine


def test_versions_are_held_against_the_project(tmp_path: Path) -> None:
    assert machine.packages().state == "ok"
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["numpy<1", "no-such-package", "rich"]\n')
    finding = machine.packages(project)
    assert finding.state == "missing"
    assert "numpy" in finding.what
    assert "no no-such-package" in finding.what
    assert "rich" not in finding.what
    assert "pip install" in finding.fix


@pytest.mark.parametrize(
    ("program", "state", "what"),
    [
        ("", "ok", "a picture was rendered"),
        ("raise SystemExit('no driver')", "missing", "no driver"),
        ("import threading\nthreading.Event().wait()", "missing", "no picture after 0.5 s"),
    ],
)
def test_rendering_is_tried_with_a_deadline(program: str, state: str, what: str, tmp_path: Path) -> None:
    script = tmp_path / "probe.py"
    script.write_text(program)
    finding = machine.rendering(script, 0.5 if "Event" in program else 60.0)
    assert (finding.state, what in finding.what) == (state, True)
    assert (state == "ok") or "make vulkan" in finding.fix


def test_addresses_of_clusters_are_tried(tmp_path: Path) -> None:
    noted = tmp_path / "ray_current_cluster"
    assert machine.ray_address({}, noted).state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert machine.ray_address({"RAY_ADDRESS": address}, noted) == Finding("ok", f"reachable at {address}")
        noted.write_text(address)
        assert address in machine.ray_address({}, noted).what
    assert machine.ray_address({"RAY_ADDRESS": address}, noted).state == "missing"
    assert machine.ray_address({"RAY_ADDRESS": "nonsense"}, noted).state == "missing"
    stale = machine.ray_address({}, noted)
    assert (stale.state, stale.fix) == ("optional", f"rm {noted}")


@pytest.mark.parametrize(
    ("mode", "has_token", "state"),
    [
        ("", False, "ok"),
        ("disabled", True, "ok"),
        ("token", True, "ok"),
        ("", True, "optional"),
        ("token", False, "missing"),
        ("on", False, "missing"),
    ],
)
def test_tokens_of_ray_agree(mode: str, has_token: bool, state: str, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    if has_token:
        (tmp_path / ".ray" / "auth_token").write_text("x")
    finding = machine.ray_token({"RAY_AUTH_MODE": mode}, tmp_path)
    assert (finding.state, bool(finding.fix)) == (state, state != "ok")


def test_the_temporary_folder_leaves_room_for_sockets(tmp_path: Path) -> None:
    assert machine.temporary_folder({}).state == "ok"
    assert machine.temporary_folder({"TMPDIR": "/no/such/folder"}).state == "missing"
    long = tmp_path / ("x" * 100)
    long.mkdir()
    for name, state in (("TMPDIR", "optional"), ("RAY_TMPDIR", "missing")):
        finding = machine.temporary_folder({name: str(long)})
        assert (finding.state, finding.fix) == (state, "export RAY_TMPDIR=/tmp")


def test_keys_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.wandb_key({}, tmp_path).fix == "wandb login"
    assert machine.wandb_key({"WANDB_API_KEY": "k"}, tmp_path).state == "ok"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert machine.wandb_key({}, tmp_path).state == "ok"
    for token, state in ((None, "optional"), ("short", "missing"), ("a-token-for-the-tests", "ok")):
        monkeypatch.delenv("DOPAMINE_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("DOPAMINE_TOKEN", token)
        finding = machine.service_token()
        assert finding.state == state
        assert (token or "-") not in finding.what + finding.fix.replace("-hex", "") or token is None


def test_memory_and_disk(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    1048576 kB\n")
    assert machine.memory(meminfo).what == "1.0 GiB free"
    assert machine.memory(meminfo).state == "missing"
    assert machine.disk(tmp_path / "not" / "yet").what.endswith(f"in {tmp_path}")
    assert machine.shared_memory(tmp_path / "none").state == "optional"
    assert machine.cores().what == f"{len(os.sched_getaffinity(0))}" or machine.cores().state == "missing"


def test_a_probe_that_hangs_or_fails_is_a_finding() -> None:
    hanging = threading.Event()

    def hang() -> Finding:
        hanging.wait()
        return Finding("ok", "")

    def fail() -> Finding:
        raise RuntimeError("boom")

    findings = examine({"hangs": hang, "fails": fail, "good": lambda: Finding("ok", "x")}, deadline_s=0.2)
    hanging.set()
    assert list(findings) == ["hangs", "fails", "good"]
    assert "no answer within 0.2 s" in findings["hangs"].what
    assert "boom" in findings["fails"].what
    assert findings["good"] == Finding("ok", "x")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_is_missing_decides_the_status(
    form: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = {"a": lambda: Finding("ok", "fine"), "b": lambda: Finding("optional", "none", "do this")}
    monkeypatch.setattr(machine, "PROBES", probes)
    doctor.main(form)
    good = capsys.readouterr().out
    monkeypatch.setattr(machine, "PROBES", probes | {"c": lambda: Finding("missing", "no [driver]", "install one")})
    with pytest.raises(SystemExit) as ended:
        doctor.main(form)
    assert ended.value.code == 1
    bad = capsys.readouterr().out
    if form:
        assert json.loads(good) == {
            "ok": True,
            "missing": [],
            "findings": {
                "a": {"state": "ok", "what": "fine", "fix": ""},
                "b": {"state": "optional", "what": "none", "fix": "do this"},
            },
        }
        assert json.loads(bad)["missing"] == ["c"]
    else:
        assert good.splitlines()[1:] == [
            "a  ok        fine",
            "b  optional  none",
            "             → do this",
            "nothing is missing",
        ]
        assert bad.splitlines()[-3:] == ["c  missing   no [driver]", "             → install one", "missing: c"]
