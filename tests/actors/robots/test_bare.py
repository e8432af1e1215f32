"""What runs on a robot's computer needs numpy and msgpack alone, and Python 3.10."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(p.stem for p in (ROOT / "actors" / "robots").glob("*.py") if p.stem not in ("__init__", "__main__"))
ONLY = """
import importlib, sys
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names | {"numpy", "msgpack", "actors", "dopamine_rl"} and "_" != top[0]:
            raise ImportError(f"not on a robot's computer: {name}")
sys.meta_path.insert(0, Only())
"""


def test_every_module_imports_with_numpy_and_msgpack_alone() -> None:
    """And the door of the commands; an import of anything else is shown to fail."""
    loop = "\n".join(f"importlib.import_module('actors.robots.{name}')" for name in [*MODULES, "__main__"])
    done = subprocess.run([sys.executable, "-c", ONLY + loop], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-c", ONLY + "import gymnasium"], cwd=ROOT, capture_output=True, text=True)
    assert "not on a robot's computer: gymnasium" in done.stderr


def test_the_sources_are_python_3_10() -> None:
    for name in [f"actors/robots/{name}.py" for name in MODULES] + [
        "dopamine_rl/interfaces.py",
        "dopamine_rl/errors.py",
    ]:
        ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 10))


CLIENT = """
import sys
from actors.robots.client import RemoteRobot
with RemoteRobot(sys.argv[1], "") as robot:
    robot.take()
    print(robot.send_action({"x.pos": 0.01, "y.pos": 0.0})["x.pos"], robot.get_observation()["top"].shape)
"""


@pytest.mark.extern
@pytest.mark.parametrize("python", ["python3.10", "python3.11", "python3.12"])
def test_a_server_and_a_client_run_in_a_bare_environment(tmp_path: Path, python: str) -> None:
    """Our package is installed without what it depends on, as docs/robots.md says."""
    if shutil.which(python) is None or subprocess.run([python, "-V"], capture_output=True).returncode:
        pytest.skip(f"there is no {python}")
    subprocess.run([python, "-m", "venv", str(tmp_path / "bare")], check=True)
    bare = str(tmp_path / "bare" / "bin" / "python")
    packages = ["numpy", "msgpack", *(["tomli"] if python == "python3.10" else [])]
    for words in (packages, ["--no-deps", "--ignore-requires-python", str(ROOT)]):
        subprocess.run([bare, "-m", "pip", "install", "-q", *words], check=True, cwd=tmp_path)
    (tmp_path / "limits.toml").write_text((ROOT / "actors" / "robots" / "example.toml").read_text())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = ["-m", "actors.robots", "serve", "actors.robots.example:make", "--limits", "limits.toml", "--port", "0"]
    process = subprocess.Popen([bare, *words], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        done = subprocess.run(
            [bare, "-c", CLIENT, address], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20
        )
        assert done.stdout.strip() == "0.01 (32, 32, 3)", done.stderr
    finally:
        process.terminate()
        began = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5.0
