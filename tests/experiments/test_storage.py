import errno
import json
import os
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from dopamine_rl.errors import BadInput
from experiments.runtime.ending import UsageError
from experiments.runtime.storage import (
    RunFolder,
    check_folder,
    check_own_report,
    lasting_path,
    make_folder,
    only_writer,
)


def test_out_is_the_folder_and_storage_holds_one_folder_a_run(tmp_path):
    assert RunFolder.resolve(str(tmp_path / "here"), None, "name").path == tmp_path / "here"
    assert RunFolder.resolve(None, str(tmp_path), "name").path == tmp_path / "name"
    assert RunFolder.resolve(None, f"file://{tmp_path}", "name").path == tmp_path / "name"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(BadInput, match=r"--out.*this is a file: give a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(BadInput, match="--out"):
        check_folder(tmp_path / "file")
    for below in (tmp_path / "file" / "below", tmp_path / "file" / "further" / "below"):
        with pytest.raises(BadInput, match=f"--out = '{below}': {tmp_path / 'file'} is a file: give another folder"):
            check_folder(below)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"--out = .*gone"):
        check_folder(tmp_path / "gone")
    with pytest.raises(BadInput, match="--out = '/proc/x': give a writable folder"):
        check_folder(Path("/proc/x"))
    check_folder(tmp_path / "new" / "below")
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out"):
        lasting_path(name)
    for out, storage in ((name, str(tmp_path)), (None, name)):
        with pytest.raises(UsageError, match="empty"):
            RunFolder.resolve(out, storage, "name")


def test_a_job_refuses_folders_that_are_thrown_away_with_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(BadInput, match=r"--out.*absolute path or a URI"):
        RunFolder.resolve("runs/here", None, "name")
    with pytest.raises(BadInput, match="--storage"):
        RunFolder.resolve(None, "runs", "name")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOPAMINE_STORAGE", raising=False)
    assert RunFolder.resolve(None, None, "name").path == tmp_path / "dopamine_rl" / "runs" / "name"


def test_json_is_written_whole_and_never_holds_nan(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("result.json", {"a": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("result.json", {"a": float("nan")})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_uri_gets_a_copy(tmp_path):
    folder = RunFolder(tmp_path / "stage", (tmp_path / "bucket" / "name").as_uri())
    (folder.path / "records").mkdir(parents=True)
    folder.write_text("report.md", "text")
    (folder.path / "records" / "a.npz").write_bytes(b"1")
    folder.publish()
    assert (tmp_path / "bucket" / "name" / "report.md").read_text() == "text"
    assert (tmp_path / "bucket" / "name" / "records" / "a.npz").read_bytes() == b"1"
    assert folder.place.startswith("file://")


def test_a_folder_has_one_writer(tmp_path):
    refused = pytest.raises(BadInput, match=r"--out.*another command is writing to this folder")
    with only_writer(tmp_path), refused, only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        pass


def test_a_report_replaces_reports_alone(tmp_path: Path) -> None:
    names = ("eval.json", "eval.md")
    check_own_report(tmp_path / "new", names, "model_version")
    check_own_report(tmp_path, names, "model_version")
    (tmp_path / "eval.md").write_text("mine", encoding="utf-8")
    for content in (None, "not JSON", "[]", '{"mine": 1}'):
        if content is not None:
            (tmp_path / "eval.json").write_text(content, encoding="utf-8")
        with pytest.raises(BadInput, match=r"--out.*eval\.md.*not replaced"):
            check_own_report(tmp_path, names, "model_version")
    (tmp_path / "eval.json").write_text('{"model_version": "abc"}', encoding="utf-8")
    check_own_report(tmp_path, names, "model_version")
    (tmp_path / "eval.json").unlink()
    (tmp_path / "hops").mkdir()
    (tmp_path / "hops" / "episode.npz").touch()  # an earlier report was interrupted
    check_own_report(tmp_path, names, "model_version")


def test_a_folder_that_cannot_be_made_is_named_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "new" / "deep", tmp_path, Path("relative")):
        check_folder(path)
    for path in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"):
        with pytest.raises(BadInput, match=r"--out = .* is a file: give (a|another) folder"):
            check_folder(path)
    denied = PermissionError(
        errno.EACCES, os.strerror(errno.EACCES)
    )  # the tests may run as root, who may write anywhere
    monkeypatch.setattr(tempfile, "mkdtemp", Mock(side_effect=denied))
    with pytest.raises(BadInput, match=r"--out = .*: give a writable folder \(Permission denied\)"):
        check_folder(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
