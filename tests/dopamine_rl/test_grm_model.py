from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.checkpoint import load_grm, model_version, save_grm
from dopamine_rl.grm.config import GRMConfig
from dopamine_rl.grm.folder import GRM_FILE, MODEL_FILES
from dopamine_rl.grm.model import build_grm
from tests.dopamine_rl.grm_toys import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_grm(build_grm(TINY), path, {"seed": 0, "data": "none"})
    return path


def test_save_and_load_keep_everything(folder: Path) -> None:
    grm = load_grm(folder)
    built = build_grm(TINY)
    for name, weight in built.model.state_dict().items():
        torch.testing.assert_close(grm.model.state_dict()[name], weight, rtol=0, atol=0)
    assert grm.template == built.template
    assert grm.trie.outputs.tolist() == built.trie.outputs.tolist()
    assert "none" in (folder / "README.md").read_text()


def test_the_readme_of_a_model_has_readable_numbers(tmp_path: Path) -> None:
    card = {"held_out": {"auc": 0.995606794586637, "n": 12345678, "all": [0.25, 1e-06]}, "command": "--x 0.123456"}
    save_grm(build_grm(TINY), tmp_path / "grm", card)
    text = (tmp_path / "grm/README.md").read_text(encoding="utf-8")
    assert '- **held_out**: `{"auc": 0.9956, "n": 12345678, "all": [0.25, 1e-06]}`' in text
    assert "--x 0.123456" in text
    assert json.loads((tmp_path / "grm/grm.json").read_text(encoding="utf-8"))["card"] == card


def test_it_is_a_plain_hugging_face_folder(folder: Path) -> None:
    assert type(AutoModelForImageTextToText.from_pretrained(folder)).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert AutoTokenizer.from_pretrained(folder).decode(load_grm(folder).trie.outputs[133:134]) == "<score>+33%</score>"
    assert AutoImageProcessor.from_pretrained(folder).patch_size == TINY.patch


def test_the_version_names_the_content(folder: Path, tmp_path: Path) -> None:
    version = model_version(folder)
    assert len(version) == 12
    assert version == build_grm(TINY).model_version == load_grm(folder).model_version
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert model_version(copy) == version
    grm = load_grm(folder)
    with torch.no_grad():
        grm.model.lm_head.weight[0, 0] += 1e-3
    assert grm.model_version != version
    assert save_grm(grm, copy, {}) == model_version(copy) == grm.model_version
    template = json.loads((copy / "template.json").read_text())
    (copy / "template.json").write_text(json.dumps(template | {"name": "other"}))
    assert model_version(copy) != grm.model_version


DAMAGE = [
    (name, damage)
    for name in (*MODEL_FILES, "template.json", "model.safetensors")
    for damage in ("missing", "cut", "junk")
]


@pytest.mark.parametrize(("name", "damage"), [*DAMAGE, (GRM_FILE, "cut"), (GRM_FILE, "junk")])
def test_a_damaged_folder_is_named(folder: Path, tmp_path: Path, name: str, damage: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    content = (copy / name).read_bytes()
    if damage == "missing":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content[: len(content) // 2] if damage == "cut" else b'{"a": [1]}')
    with pytest.raises(CheckpointError, match=str(name).replace(".", r"\.")) as error:
        load_grm(copy)
    assert "again" in str(error.value) or "put the template" in str(error.value)


def test_weights_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config"):
        load_grm(copy)


def test_weights_that_are_not_those_that_were_saved_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=f"version {model_version(copy)}, but its grm.json says {model_version(folder)}"
    ):
        load_grm(copy)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        load_grm(tmp_path / "nothing")


def test_a_failed_save_leaves_the_old_model(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    version = save_grm(build_grm(TINY), target, {})
    with pytest.raises(TypeError):
        save_grm(build_grm(GRMConfig(**{**TINY.__dict__, "seed": 1})), target, {"card": object()})
    assert model_version(target) == version
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_seeds_differ_and_the_caller_keeps_its_randomness() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    versions = {build_grm(GRMConfig(**{**TINY.__dict__, "seed": seed})).model_version for seed in (0, 0, 1)}
    assert len(versions) == 2
    assert torch.rand(1) == expected


@pytest.mark.parametrize(("name", "value"), [("image_size", 100), ("vision_width", 33), ("text_width", 0)])
def test_bad_shapes_are_refused(name: str, value: int) -> None:
    with pytest.raises(BadInput, match=name):
        GRMConfig(**{name: value})


def test_the_default_is_a_small_model() -> None:
    assert 1e6 < build_grm(GRMConfig()).parameters < 4e6
    assert np.isfinite(build_grm(TINY).parameters)
