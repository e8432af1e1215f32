"""A model that is always shown three views, asked about fewer cameras: the front view again, at no cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.adapters import add_lora, save_adapter
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.config import LoRAConfig
from dopamine_rl.grm.contract import RELEASED, RELEASED_LABELS
from dopamine_rl.grm.lora import adapters
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import Reader
from dopamine_rl.grm.template import SHORT_TEMPLATE, PromptTemplate
from dopamine_rl.interfaces import Prompt
from reward_service.engines.prompts import open_prompts
from reward_service.engines.questions import prepare_prompts
from reward_service.engines.transformers import TransformersEngine
from reward_service.engines.vllm import model_inputs
from tests.dopamine_rl.grm_toys import pictures
from tests.dopamine_rl.released import INSTRUCTION, released_folder

THREE_VIEWS = PromptTemplate(
    "three-views",
    SHORT_TEMPLATE.text.replace("{before}", "{before} l{before} r{before}").replace(
        "{after}", "{after} l{after} r{after}"
    ),
    "{image}",
    RELEASED_LABELS,
    RELEASED["grm-3b"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = released_folder(tmp_path_factory.mktemp("released") / "GRM", "qwen2_5_vl", template=False)
    THREE_VIEWS.save(folder)
    return folder


@pytest.fixture(scope="module")
def grm(folder: Path) -> GRM:
    return load_grm(folder)


ONE, TWO = Prompt(INSTRUCTION, (0, 1), (2,), (4,)), Prompt(INSTRUCTION, (0, 1), (2, 3), (4, 5))


def written_out(prompt: Prompt) -> Prompt:
    """The same question with the front view named for each missing one."""
    views = {1: (0, 0, 0), 2: (0, 1, 0)}[len(prompt.before)]
    before, after = (tuple(moment[view] for view in views) for moment in (prompt.before, prompt.after))
    return replace(prompt, before=before, after=after)


def test_missing_views_are_the_front_view(grm: GRM) -> None:
    images, engine = list(pictures(6, 1)), TransformersEngine(grm)
    short = engine.estimate(images, [ONE, TWO])
    full = TransformersEngine(grm).estimate(images, [written_out(ONE), written_out(TWO)])
    assert short.reasons == ("", "")
    np.testing.assert_array_equal(short.hop, full.hop)
    assert short.hop[0] != short.hop[1]


def test_no_picture_is_encoded_twice(grm: GRM, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = Reader.encode
    monkeypatch.setattr(Reader, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images))
    engine, images = TransformersEngine(grm), list(pictures(6, 2))
    engine.estimate(images, [ONE])
    assert encoded == [4]
    kept = engine.cached_bytes
    engine.estimate(images, [written_out(ONE)])
    assert (encoded, engine.cached_bytes) == ([4], kept)


def test_vllm_is_given_one_picture_by_one_name(folder: Path) -> None:
    prompts, images = open_prompts(folder), list(pictures(6, 3))
    [prompt], reasons = prepare_prompts(prompts.template, images, [ONE])
    assert (prompt, reasons) == (written_out(ONE), [""])
    tokens = prompts.tokens(INSTRUCTION, len(prompt.before), 56, 56)
    [given] = model_inputs(images, [(tokens, prompt.images)], prompts)
    shown, names = given["multi_modal_data"]["image"], given["multi_modal_uuids"]["image"]
    assert (len(shown), len(set(map(id, shown))), len(set(names))) == (8, 4, 4)
    assert tokens.count(prompts.tokenizer.convert_tokens_to_ids("<|image_pad|>")) == prompts.pictures == 8


def test_an_adapter_is_served_like_any_model_and_vllm_says_what_it_needs(folder: Path, tmp_path: Path) -> None:
    trained = load_grm(folder)
    add_lora(trained, LoRAConfig(rank=2))
    for _, adapter in adapters(trained.model):
        adapter.up.data.fill_(0.05)
    version = save_adapter(trained, tmp_path / "adapter", {})
    engines, images = [TransformersEngine(tmp_path / "adapter"), TransformersEngine(trained)], list(pictures(6, 1))
    assert {engine.model_version for engine in engines} == {version}
    first, second = (engine.estimate(images, [ONE, TWO]).hop for engine in engines)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-5)
    with pytest.raises(CheckpointError, match="whole models: write one by save_grm"):
        open_prompts(tmp_path / "adapter")


def test_too_many_cameras_are_a_reason_and_no_number(grm: GRM) -> None:
    estimates = TransformersEngine(grm).estimate(
        list(pictures(10, 4)), [Prompt(INSTRUCTION, (0, 1), (2, 3, 4, 5), (6, 7, 8, 9)), ONE]
    )
    assert "give 3 views" in estimates.reasons[0]
    assert estimates.valid.tolist() == [False, True]
