"""Checkpoints in the released layout, of both architectures: answers in text, read by the trie."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.checkpoint import load_grm, model_version, save_grm
from dopamine_rl.grm.config import TrainConfig
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import Reader, binned_hops, encode_images, forward_logits
from dopamine_rl.grm.vision import Grid, encode_patches, make_tower, picture_grid
from dopamine_rl.interfaces import Prompt
from tests.dopamine_rl.grm_toys import make_trainer, moving_square, pictures
from tests.dopamine_rl.released import (
    ARCHITECTURES,
    INSTRUCTION,
    Architecture,
    released_folder,
    stock_answers,
)

PROMPTS = [Prompt(INSTRUCTION, (0, 1), (2, 3), (4, 5)), Prompt("push it", (0, 1), (4,), (5,))]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return released_folder(tmp_path_factory.mktemp("released") / "GRM", request.param)


@pytest.fixture
def grm(folder: Path) -> GRM:
    return load_grm(folder)


@torch.no_grad()
def test_every_answer_has_the_probability_that_the_stock_model_gives_it(grm: GRM) -> None:
    images = pictures(6, 2, 56, 120)
    log_p = forward_logits(grm, encode_images(grm, images), PROMPTS)
    stock = torch.stack([stock_answers(grm, images, prompt) for prompt in PROMPTS])
    torch.testing.assert_close(log_p, stock, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_p.exp().sum(dim=1), torch.ones(2), rtol=0, atol=1e-5)
    assert log_p.exp().max() < 0.9
    assert not torch.allclose(log_p[0], log_p[1], atol=1e-2)


@torch.no_grad()
def test_features_agree_with_the_stock_tower(grm: GRM) -> None:
    images = pictures(3, 1, 140, 230)
    stock = grm.model.model.get_image_features(**grm.image_processor(images=list(images), return_tensors="pt"))
    layers = [stock.pooler_output, *getattr(stock, "deepstack_features", ())]
    features = encode_images(grm, images)
    wanted = torch.cat([torch.stack(tuple(layer)) for layer in layers], dim=-1)
    torch.testing.assert_close(features.tokens, wanted, rtol=0, atol=1e-4)


def test_the_answers_cost_a_few_tokens_behind_the_prompt(grm: GRM) -> None:
    layout = Reader(grm).layout(INSTRUCTION, 3, 56, 56)
    assert layout.parts[-1].stop - len(layout.input_ids) == len(grm.trie.tokens) < 30


@torch.no_grad()
def test_half_precision_is_as_near_to_the_truth_as_the_stock_model_in_it(grm: GRM) -> None:
    images = pictures(6, 2, 56, 120)
    truth = forward_logits(grm, encode_images(grm, images), PROMPTS)
    grm.model.to(torch.bfloat16)
    ours = forward_logits(grm, encode_images(grm, images), PROMPTS)
    assert ours.dtype == torch.float32
    for hops, wanted in zip(binned_hops(ours)[:2], binned_hops(truth)[:2], strict=True):
        torch.testing.assert_close(hops, wanted, rtol=0, atol=0.1)
    stock = torch.stack([stock_answers(grm, images, prompt) for prompt in PROMPTS])
    assert (ours - truth).abs().mean() < 2.0 * (stock - truth).abs().mean()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_runs_on_the_device_of_the_model(grm: GRM, dtype: torch.dtype) -> None:
    """PyTorch's device without memory refuses to be mixed with the CPU as a GPU does."""
    grm.model.to(dtype)
    places = picture_grid(grm.vision, 8, 10)  # which reads values, so a device without any cannot make it
    grm.model.to("meta")
    parts = [getattr(places, field.name) for field in fields(places)]
    grid = Grid(*(None if part is None else part.to("meta") for part in parts))
    tower = make_tower(grm.vision)
    patches = torch.zeros(8, 80, grm.image_processor.patch_size**2 * 3, dtype=torch.uint8, device="meta")
    tokens = encode_patches(tower, patches, grid)
    reader = Reader(grm)
    layout, known = reader.grid_layout(INSTRUCTION, 2, 4, 5), {}
    for questions in ([(0, 1, 2, 3, 4, 5)], [(0, 1, 2, 3, 6, 7), (0, 1, 4, 5, 6, 7)]):
        logits = reader.logits(layout, questions, tokens, range(8), known)
        for answer in (logits, *binned_hops(logits)):
            assert answer.device.type == "meta"
    assert {tensor.dtype for tensor in (tokens, *known.values())} == {dtype}
    assert {tensor.device.type for tensor in known.values()} == {"meta"}


def test_its_image_budget_is_that_of_the_checkpoint(grm: GRM) -> None:
    layout = Reader(grm).layout(INSTRUCTION, 1, 480, 640)
    tokens = sum(len(part.slots) for part in layout.parts) // 4
    assert tokens == {"qwen2_5_vl": 88, "qwen3_vl": 70}[grm.model.config.model_type]


def test_the_version_is_the_same_in_memory_and_on_disk(folder: Path, grm: GRM, tmp_path: Path) -> None:
    assert grm.model_version == model_version(folder)
    version = save_grm(grm, tmp_path / "saved", {})
    saved = load_grm(tmp_path / "saved")
    assert saved.model_version == version
    images = pictures(6)
    with torch.no_grad():
        first, second = (forward_logits(one, encode_images(one, images), PROMPTS) for one in (grm, saved))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_training_reaches_every_weight(grm: GRM) -> None:
    trainer = make_trainer(grm, [moving_square(0), moving_square(1)], TrainConfig(updates=1))
    assert trainer.step(0.5).loss is not None
    unreached = [name for name, weight in grm.model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_config_decides_and_not_the_name(architecture: Architecture, tmp_path: Path) -> None:
    other = {"qwen2_5_vl": "Qwen3-VL-4B", "qwen3_vl": "Qwen2.5-VL-3B"}[architecture]
    assert load_grm(released_folder(tmp_path / other, architecture)).model.config.model_type == architecture


def test_without_a_template_it_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "template.json").unlink()
    with pytest.raises(CheckpointError, match=r"template\.json is missing: .*grm import-template CLONE CHECKPOINT"):
        load_grm(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_grm(copy)


def test_other_architectures_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    with pytest.raises(CheckpointError, match=r"llava model: use a Qwen2\.5-VL or Qwen3-VL"):
        load_grm(copy)


def test_the_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"image_token_id": 3}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has no"):
        load_grm(copy)
