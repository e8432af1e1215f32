"""Adapters: one weight for our forward pass, the stock one and peft's; folders of their own that name their base."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.adapters import add_lora, save_adapter
from dopamine_rl.grm.checkpoint import load_grm, model_version, save_grm
from dopamine_rl.grm.config import LoRAConfig, TrainConfig
from dopamine_rl.grm.lora import adapters, frozen_weights, merge
from dopamine_rl.grm.model import GRM, build_grm
from dopamine_rl.grm.readout import encode_images, forward_logits
from dopamine_rl.interfaces import Prompt
from tests.dopamine_rl.grm_toys import TINY, make_trainer, moving_square, pictures
from tests.dopamine_rl.released import ARCHITECTURES, INSTRUCTION, released_folder, stock_answers

LORA = LoRAConfig(rank=3, alpha=6.0, vision_targets=("qkv", "proj"))
PROMPT = Prompt(INSTRUCTION, (0, 1), (2, 3), (4, 5))
IMAGES = pictures(6, 2, 56, 120)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return released_folder(tmp_path_factory.mktemp("released") / "base", request.param)


def adapted(base: Path, seed: int = 0) -> GRM:
    """A model with adapters that change what it says."""
    grm = load_grm(base)
    add_lora(grm, LORA)
    generator = torch.Generator().manual_seed(seed)
    for _, adapter in adapters(grm.model):
        adapter.up.data.normal_(0.0, 0.3, generator=generator)
    return grm


@torch.no_grad()
def logits(grm: GRM) -> torch.Tensor:
    return forward_logits(grm, encode_images(grm, IMAGES), [PROMPT])[0]


@pytest.fixture(scope="module")
def folder(base: Path) -> Path:
    save_adapter(adapted(base), base.parent / "adapter", {"data": "toys"})
    return base.parent / "adapter"


@torch.no_grad()
def test_new_adapters_change_nothing(base: Path) -> None:
    grm, plain = load_grm(base), load_grm(base)
    add_lora(grm, LORA)
    torch.testing.assert_close(logits(grm), logits(plain), rtol=0, atol=0)
    assert grm.model_version == plain.model_version


@torch.no_grad()
def test_our_forward_pass_is_the_stock_one_with_them(base: Path) -> None:
    grm = adapted(base)
    ours = logits(grm)
    torch.testing.assert_close(ours, stock_answers(grm, IMAGES, PROMPT), rtol=0, atol=1e-4)
    assert (ours - logits(load_grm(base))).abs().max() > 0.1


@torch.no_grad()
def test_peft_reads_the_folder_and_gives_the_same_answers(base: Path, folder: Path) -> None:
    peft = pytest.importorskip("peft")
    grm, merged = load_grm(base), load_grm(folder)
    peft.PeftModel.from_pretrained(grm.model, folder)  # puts its layers into the model that it is given
    before = merged.model.model.get_image_features(**merged.image_processor(images=list(IMAGES), return_tensors="pt"))
    after = grm.model.model.get_image_features(**grm.image_processor(images=list(IMAGES), return_tensors="pt"))
    torch.testing.assert_close(torch.cat(before.pooler_output), torch.cat(after.pooler_output), rtol=0, atol=1e-5)
    theirs = stock_answers(grm, IMAGES, PROMPT)
    torch.testing.assert_close(logits(merged).exp(), theirs.exp(), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(merged), theirs, rtol=0, atol=1e-4)


def test_a_folder_that_peft_wrote_is_loaded(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    grm = load_grm(base)
    layers = peft.get_peft_model(
        grm.model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    layers.save_pretrained(tmp_path / "theirs")
    loaded = load_grm(tmp_path / "theirs")
    with torch.no_grad():
        theirs = stock_answers(grm, IMAGES, PROMPT)
    torch.testing.assert_close(logits(loaded).exp(), theirs.exp(), rtol=0, atol=1e-5)
    assert loaded.model_version != load_grm(base).model_version


def test_the_version_is_that_of_base_and_adapter_together(base: Path, folder: Path, tmp_path: Path) -> None:
    trained, loaded = adapted(base), load_grm(folder)
    versions = {trained.model_version, loaded.model_version, model_version(folder)}
    other = save_adapter(adapted(base, seed=1), tmp_path / "other", {})
    assert len(versions) == 1
    assert len(versions | {other, model_version(base)}) == 3
    assert save_grm(trained, tmp_path / "whole", {}) == load_grm(tmp_path / "whole").model_version
    torch.testing.assert_close(logits(loaded), logits(load_grm(tmp_path / "whole")), rtol=0, atol=0)


def test_another_base_is_refused(base: Path, folder: Path, tmp_path: Path) -> None:
    copies = [shutil.copytree(one, tmp_path / one.name) for one in (base, folder)]
    about = json.loads((copies[1] / "grm.json").read_text())
    about["base"]["path"] = str(copies[0])
    (copies[1] / "grm.json").write_text(json.dumps(about))
    assert load_grm(copies[1]).model_version == model_version(folder)
    template = json.loads((copies[0] / "template.json").read_text())
    (copies[0] / "template.json").write_text(json.dumps(template | {"name": "other"}))
    with pytest.raises(CheckpointError, match=r"adapter of the model \w{12}, but .*base has version"):
        load_grm(copies[1])
    shutil.rmtree(copies[0])
    with pytest.raises(CheckpointError, match=r"whose base cannot be loaded: .* is not a folder"):
        load_grm(copies[1])


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("adapter_config.json", {"use_dora": True}, "use_dora"),
        ("adapter_config.json", {"peft_type": "IA3"}, "not plain LoRA"),
        ("adapter_config.json", {"lora_alpha": 7.0}, "has version"),
    ],
)
def test_what_is_no_plain_adapter_is_refused(
    folder: Path, tmp_path: Path, name: str, change: dict[str, object], why: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | change))
    with pytest.raises(CheckpointError, match=why):
        load_grm(copy)


def test_a_damaged_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors does not fit"):
        load_grm(copy)


def test_training_changes_adapters_alone(base: Path) -> None:
    grm = load_grm(base)
    add_lora(grm, LORA)
    before = {name: weight.clone() for name, weight in frozen_weights(grm.model).items()}
    trainer = make_trainer(grm, [moving_square(0), moving_square(1)], TrainConfig(updates=2))
    for fraction in (0.2, 0.5):
        trainer.step(fraction)
    after = frozen_weights(grm.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(adapter.up.any() for _, adapter in adapters(grm.model))
    taught = {weight for weight in grm.model.parameters() if weight.requires_grad}
    assert taught == {weight for _, adapter in adapters(grm.model) for weight in adapter.parameters()}


def test_merging_is_exact_enough_and_adds_in_one_order() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, down, up = (torch.randn(*shape, generator=generator) for shape in ((70, 9), (4, 9), (70, 4)))
    merged = merge(weight, down, up, 8.0)
    torch.testing.assert_close(merged, weight + 2.0 * (up @ down), rtol=0, atol=1e-5)
    assert torch.equal(merge(weight[:10], down, up[:10], 8.0), merged[:10])
    half = merge(weight.bfloat16(), down, up, 8.0)
    assert half.dtype == torch.bfloat16


def test_what_cannot_be_adapted_is_refused(base: Path, tmp_path: Path) -> None:
    for wrong, why in ((LoRAConfig(rank=0), "rank"), (replace(LORA, targets=("w_proj",)), "targets")):
        with pytest.raises(BadInput, match=why):
            add_lora(load_grm(base), wrong)
    with pytest.raises(BadInput, match="already has adapters"):
        add_lora(adapted(base), LORA)
    with pytest.raises(BadInput, match=r"sft\.start_from"):
        add_lora(build_grm(TINY), LORA)
    with pytest.raises(CheckpointError, match="no adapters"):
        save_adapter(load_grm(base), tmp_path / "adapter", {})
