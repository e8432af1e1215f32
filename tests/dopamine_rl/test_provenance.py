"""A result names the code, the packages and the machine it came from; without git too."""

import json
import shutil
import subprocess

import pytest

from dopamine_rl.provenance import SOURCES, code, difference, machine, provenance, sources_digest


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    for package in SOURCES:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text("")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "x"],
    ):
        subprocess.run(["git", "-C", root, *command], check=True)
    code.cache_clear()
    yield root
    code.cache_clear()


def head(root):
    return subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


def test_a_clean_checkout_and_a_changed_one(checkout):
    clean = code(checkout)
    assert (clean["commit"], clean["dirty"]) == (head(checkout), False)
    (checkout / "actors" / "new.py").write_text("x = 1\n")
    code.cache_clear()
    changed = code(checkout)
    assert (changed["commit"], changed["dirty"]) == (head(checkout), True)
    assert "with changes" in difference(clean, changed)
    assert difference(changed, changed) is None


def test_without_git_the_sources_still_name_the_code(checkout, tmp_path, monkeypatch):
    outer = tmp_path / "outer"  # somebody else's checkout, in which a job's copy lies
    outer.mkdir()
    subprocess.run(["git", "-C", outer, "init", "-q"], check=True)
    shutil.copytree(checkout, outer / "job", ignore=shutil.ignore_patterns(".git"))
    found = code(outer / "job")
    assert (found["commit"], found["dirty"]) == ("unknown", None)
    assert found["sources"] == code(checkout)["sources"]
    monkeypatch.setenv("PATH", "")
    code.cache_clear()
    assert code(checkout)["commit"] == "unknown"


def test_a_foreign_git_dir_is_not_asked(checkout, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["git", "-C", other, "init", "-q"], check=True)
    expected = head(checkout)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert code(checkout)["commit"] == expected


def test_the_digest_follows_names_and_content_and_not_caches(checkout):
    digests = [sources_digest(checkout)]
    (checkout / "actors" / "__pycache__").mkdir()
    (checkout / "actors" / "__pycache__" / "x.pyc").write_text("x")
    assert sources_digest(checkout) == digests[0]
    for change in (
        lambda: (checkout / "actors" / "a.py").write_text("1"),
        lambda: (checkout / "actors" / "a.py").write_text("2"),
        lambda: (checkout / "actors" / "a.py").rename(checkout / "learner" / "a.py"),
    ):
        change()
        digests.append(sources_digest(checkout))
    assert len(set(digests)) == 4


def test_everything_is_json_and_names_no_host():
    import platform

    found = json.dumps(provenance(preset="smoke", seed=3), allow_nan=False)
    assert platform.node() not in found
    content = json.loads(found)
    assert {"commit", "dirty", "sources", "packages", "machine", "preset", "seed"} == set(content)
    assert {"dopamine-rl", "ray", "torch", "transformers", "mani-skill", "numpy", "python"} == set(content["packages"])
    assert machine()["cores"] >= 1
