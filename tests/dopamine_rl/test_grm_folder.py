"""What is said of a model's folder before it is loaded: every damage by field, value and fix, and nothing heavy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.folder import usable_model
from dopamine_rl.grm.hub import SHIPPED

MINI = SHIPPED / "grm-mini"


def _cut(folder: Path, name: str, size: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _without(folder: Path, key: str) -> None:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del content[key]
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def _adapter(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/no/such/base"}', encoding="utf-8")
    shutil.copy(MINI / "model.safetensors", folder / "adapter_model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "header": (lambda folder: _cut(folder, "model.safetensors", 2000), "model.safetensors"),
    "weights": (lambda folder: _cut(folder, "model.safetensors", 8_000_000), "model.safetensors"),
    "zero": (lambda folder: _cut(folder, "model.safetensors", 0), "model.safetensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "json": (lambda folder: _cut(folder, "config.json", 20), "config.json"),
    "list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json"),
    "type": (lambda folder: _without(folder, "model_type"), "model_type"),
    "sizes": (lambda folder: _without(folder, "text_config"), "hidden_size"),
    "images": (lambda folder: _without(folder, "vision_config"), "vision_config"),
    "card": (lambda folder: (folder / "grm.json").write_text("[]"), "grm.json"),
    "tokens": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "template": (lambda folder: (folder / "template.json").unlink(), "template.json"),
    "base": (_adapter, "base cannot be loaded: /no/such/base"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_refused_by_field_value_and_file(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "grm"
    shutil.copytree(MINI, folder)
    damage, told = DAMAGE[kind]
    damage(folder)
    with pytest.raises(BadInput) as raised:
        usable_model(folder, "--model")
    assert (raised.value.field, raised.value.value) == ("--model", str(folder))
    assert told in raised.value.fix
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "told"), [("nowhere", "it is not a folder"), ("/etc", "it is not a model's folder")])
def test_what_is_no_model_is_told_so(name: str, told: str) -> None:
    with pytest.raises(BadInput, match=f"--model = '{name}': {told}"):
        usable_model(name, "--model")


def test_a_whole_folder_is_usable_and_nothing_heavy_is_imported() -> None:
    assert usable_model("grm-mini", "--model") == MINI
    program = (
        "import sys\nfrom dopamine_rl.grm.folder import usable_model\n"
        "usable_model('grm-mini', '--model')\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
