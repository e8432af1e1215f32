"""What runs on a robot's computer needs numpy and msgpack alone, and Python 3.10."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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
