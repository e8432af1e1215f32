"""Imports point one way, never in a circle, Ray is at the rim, the core light; the checker is shown broken packages."""

import ast
import json
import subprocess
import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {
    "experiments": {"experiments", "actors", "learner", "reward_service", "dopamine_rl"},
    "actors": {"actors", "dopamine_rl"},
    "learner": {"learner", "dopamine_rl"},
    "reward_service": {"reward_service", "dopamine_rl"},
    "dopamine_rl": {"dopamine_rl"},
}
"""What each package may import of ours."""

RAY_FILES = (
    "dopamine_rl/telemetry.py",
    "actors/callbacks.py",
    "actors/rllib.py",
    "actors/workers.py",
    "reward_service/application.py",
    "reward_service/deployment.py",
    "reward_service/client.py",
    "reward_service/lease.py",
    "reward_service/ledger_store.py",
    "learner/algorithms/*.py",
    "learner/grm_sft.py",
    "learner/frame_stream.py",
    "experiments/**/*.py",
)
"""The thin files that put objects into processes."""

ENCODERS = tuple(f"dopamine_rl/encoders/{name}.py" for name in ("tower", "backbone", "cnn", "pooling"))
"""Files of the core beside grm/ that may import torch; they are imported when an encoder is made."""

CORE_AT_IMPORT = {"numpy", "scipy", "msgpack", "av", "safetensors"}
SIMULATORS = {"mani_skill", "gymnasium", "sapien"}
MODELS = {"torch", "transformers"}


@dataclass(frozen=True)
class Import:
    """One import statement: absolute module name, where it stands, and when it runs."""

    module: str
    line: int
    at_import: bool
    typing_only: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _names(node: ast.AST, package: list[str]) -> list[str]:
    """Return the modules that one node imports, with relative names resolved from its package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *filter(None, [node.module])])
        return [f"{module}.{alias.name}" if module else alias.name for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def _walk(node: ast.AST, package: list[str], at_import: bool, typing_only: bool) -> Iterator[Import]:
    for name in _names(node, package):
        yield Import(name, node.lineno, at_import, typing_only)
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        for child in node.body:
            yield from _walk(child, package, at_import, True)
        for child in node.orelse:
            yield from _walk(child, package, at_import, typing_only)
        return
    inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, package, at_import and not inside, typing_only)


def imports_of(path: Path, root: Path) -> list[Import]:
    package = list(path.relative_to(root).parent.parts)
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), package, True, False))


def breaches(root: Path) -> list[str]:
    """Return one line for each import under `root` that breaks a rule: `file:line: rule: module`."""
    found = []
    for package in LAYERS:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root)
            for item in imports_of(path, root):
                found += [f"{name}:{item.line}: {rule}: {item.module}" for rule in _broken_rules(name, item)]
    return found


def _broken_rules(path: Path, item: Import) -> list[str]:
    package = path.parts[0]
    in_core = package == "dopamine_rl"
    in_grm = path.parts[:2] == ("dopamine_rl", "grm") or str(path) in ENCODERS
    light = {*sys.stdlib_module_names, *CORE_AT_IMPORT, *LAYERS, *MODELS, *SIMULATORS, "ray"}  # the last have own rules
    rules = {
        "direction": item.top in LAYERS and item.top not in LAYERS[package],
        "ray only in thin files": item.top == "ray" and not any(_matches(path, pattern) for pattern in RAY_FILES),
        "torch only under grm": in_core and not in_grm and item.top in MODELS,
        "no simulator in the core": in_core and not item.typing_only and item.top in SIMULATORS,
        "light core": in_core and not in_grm and item.at_import and not item.typing_only and item.top not in light,
    }
    return [rule for rule, broken in rules.items() if broken]


def import_graph(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports anywhere, for types too."""
    paths = {_module(path, root): path for package in LAYERS for path in sorted((root / package).rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        targets = {_nearest(item.module, paths) for item in imports_of(path, root)}
        graph[module] = {target for target in targets if target and not module.startswith(f"{target}.")} - {module}
    return graph


def _module(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _nearest(name: str, modules: Container[str]) -> str:
    """The module that an imported name lies in; "" where it is none of ours."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """One line for each module from which imports lead back to itself: `a -> b -> a`, a shortest way."""
    lines = []
    for start in sorted(graph):
        ways, reached = [[start]], {start}
        for way in ways:  # grows while it is read: breadth first
            if start in graph[way[-1]]:
                lines.append(" -> ".join([*way, start]))
                break
            for target in sorted(graph[way[-1]] - reached):
                reached.add(target)
                ways.append([*way, target])
    return lines


def leaning(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports of a command or an entry point by another module than the front door: helpers have their own room."""
    entries = {module for module in graph if module.startswith("experiments.commands.")}
    entries |= {"experiments.peg_insert", "experiments.sweep"}
    return [
        f"{m} -> {target}" for m in sorted(graph) if m != "experiments.cli" for target in sorted(graph[m] & entries)
    ]


def _matches(path: Path, pattern: str) -> bool:
    if pattern.endswith("/**/*.py"):
        return path.parts[0] == pattern.split("/")[0]
    return path.match(pattern) and len(path.parts) == len(Path(pattern).parts)


def test_our_packages_keep_the_rules() -> None:
    assert breaches(ROOT) == []


def test_nothing_imports_in_a_circle() -> None:
    assert circles(import_graph(ROOT)) == []


def test_no_module_leans_on_a_command() -> None:
    assert leaning(import_graph(ROOT)) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"actors/a.py": "from actors.b import x", "actors/b.py": "import actors.a"},
            "actors.a -> actors.b -> actors.a",
        ),
        (
            {
                "learner/a.py": "def f():\n    from learner import b",
                "learner/b.py": "from learner.c import y",
                "learner/c.py": "if TYPE_CHECKING:\n    from learner.a import f",
            },
            "learner.a -> learner.b -> learner.c -> learner.a",
        ),
        ({"actors/__init__.py": "from actors.a import x", "actors/a.py": "import numpy"}, ""),
    ],
)
def test_a_circle_made_on_purpose_is_named(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    for name, source in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert (circles(import_graph(tmp_path)) or [""])[0] == expected


def test_a_command_that_another_leans_on_is_named(tmp_path: Path) -> None:
    for name, source in {"audit": "from experiments.commands import serve", "serve": ""}.items():
        path = tmp_path / "experiments" / "commands" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert leaning(import_graph(tmp_path)) == ["experiments.commands.audit -> experiments.commands.serve"]


def test_the_packages_are_really_read() -> None:
    """An empty answer must not come from looking in the wrong place."""
    assert {item.top for item in imports_of(ROOT / "dopamine_rl" / "types.py", ROOT)} >= {"numpy", "dopamine_rl"}
    assert all(list((ROOT / package).glob("*.py")) for package in LAYERS)


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("dopamine_rl/a.py", "from actors import labeller", "direction"),
        ("dopamine_rl/a.py", "def f():\n    import experiments.cli", "direction"),
        ("actors/a.py", "import reward_service.client", "direction"),
        ("learner/sub/a.py", "from ...actors import x", "direction"),
        ("learner/a.py", "import importlib\nimportlib.import_module('reward_service.client')", "direction"),
        ("reward_service/a.py", "from experiments import cli", "direction"),
        ("learner/a.py", "if TYPE_CHECKING:\n    import actors", "direction"),
        ("dopamine_rl/grm/a.py", "import ray", "ray only in thin files"),
        ("actors/labeller.py", "class A:\n    def f(self):\n        from ray import serve", "ray only in thin files"),
        ("learner/replay.py", "try:\n    import ray\nexcept ImportError:\n    pass", "ray only in thin files"),
        ("learner/algorithms/deep/a.py", "import ray", "ray only in thin files"),
        ("dopamine_rl/a.py", "import torch.nn", "torch only under grm"),
        ("dopamine_rl/episodes/a.py", "def f():\n    from transformers import AutoModel", "torch only under grm"),
        (
            "dopamine_rl/a.py",
            "if typing.TYPE_CHECKING:\n    pass\nelse:\n    import gymnasium",
            "no simulator in the core",
        ),
        ("dopamine_rl/grm/a.py", "async def f():\n    import mani_skill.envs", "no simulator in the core"),
        ("dopamine_rl/a.py", "import matplotlib.pyplot", "light core"),
    ],
)
def test_each_breach_is_named(tmp_path: Path, file: str, source: str, rule: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = breaches(tmp_path)
    assert [line.split(": ")[1] for line in found] == [rule]
    assert found[0].startswith(f"{file}:")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("experiments/sub/a.py", "import ray, actors, learner, reward_service, dopamine_rl, torch"),
        ("actors/callbacks.py", "import ray\nfrom . import labeller\nfrom dopamine_rl import shaping"),
        ("learner/algorithms/a.py", "from ray.rllib.algorithms.sac import SAC\nfrom ..replay import x"),
        ("dopamine_rl/grm/a.py", "import torch, transformers, PIL"),
        ("dopamine_rl/a.py", "import numpy, scipy.stats, msgpack, av, json\ndef f():\n    import pyarrow"),
        ("dopamine_rl/interfaces.py", "if TYPE_CHECKING:\n    import gymnasium"),
    ],
)
def test_what_the_rules_allow_is_not_named(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert breaches(tmp_path) == []


LIGHT = [
    "dopamine_rl.config",
    "dopamine_rl.episodes.pairs",
    "dopamine_rl.episodes.states",
    "dopamine_rl.errors",
    "dopamine_rl.interfaces",
    "dopamine_rl.metrics",
    "dopamine_rl.process_log",
    "dopamine_rl.progress",
    "dopamine_rl.shaping",
    "dopamine_rl.telemetry",
    "dopamine_rl.types",
    "dopamine_rl.wire",
]


def test_importing_the_core_imports_nothing_heavy() -> None:
    """In a process of its own; what the modules import in turn counts too."""
    heavy = ["torch", "transformers", "ray", "gymnasium", "mani_skill", "sapien", "scipy.stats", "matplotlib"]
    code = (
        f"import importlib, json, sys\nfor name in {LIGHT!r}:\n    importlib.import_module(name)\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
