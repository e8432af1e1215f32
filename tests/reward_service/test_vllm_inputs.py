"""What of the vLLM engine is plain Python; vLLM itself need not be installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.checkpoint import save_grm
from dopamine_rl.grm.config import GRMConfig
from dopamine_rl.grm.layout import prompt_layout
from dopamine_rl.grm.model import GRM, build_grm
from dopamine_rl.grm.score import HOP_BINS, answers, decimal_answers
from reward_service.engines import vllm
from reward_service.engines.prompts import Prompts, open_prompts
from reward_service.engines.vllm import VLLMEngine, model_inputs
from tests.dopamine_rl.released import released_folder

TINY = GRMConfig(
    image_size=56, patch=14, vision_width=32, vision_depth=1, vision_heads=2, text_width=32, text_depth=1, text_heads=2
)
PUSH = "push the cube"


@pytest.fixture(scope="module")
def grm() -> GRM:
    return build_grm(TINY)


@pytest.fixture(scope="module")
def prompts(grm: GRM, tmp_path_factory: pytest.TempPathFactory) -> Prompts:
    folder = tmp_path_factory.mktemp("grm") / "grm"
    save_grm(grm, folder, {})
    return open_prompts(folder)


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install -e .*make vllm-env"):
        VLLMEngine(tmp_path)
    with pytest.raises(BadInput, match="threads"):
        VLLMEngine(tmp_path, threads=0)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_prompts_are_those_of_the_embedded_engine(grm: GRM, prompts: Prompts, views: int) -> None:
    tokens, pad = prompts.tokens(PUSH, views, 56, 56), grm.model.config.image_token_id
    expanded = [token for token in tokens for _ in range(4 if token == pad else 1)]
    assert expanded == prompt_layout(grm, PUSH, views, 2, 2).input_ids.tolist()
    assert len(expanded) < prompts.longest


def test_a_folder_says_what_its_model_takes(grm: GRM, prompts: Prompts) -> None:
    assert prompts.version == grm.model_version
    assert prompts.precision == "float32"
    assert (prompts.unit, prompts.pictures) == (28, 8)
    assert prompts.forks == (([], list(range(HOP_BINS))),)


def test_released_answers_fork_where_they_part(tmp_path: Path) -> None:
    prompts = open_prompts(released_folder(tmp_path, "qwen2_5_vl"))
    spelled = set(map(tuple, prompts.tokenizer([*answers(), *decimal_answers()])["input_ids"]))
    assert len({tuple(said) for said, _ in prompts.forks}) == len(prompts.forks) > 20
    for said, follows in prompts.forks:
        begun = {ids[len(said)] for ids in spelled if ids[: len(said)] == tuple(said)}
        assert {int(prompts.trie.outputs[place]) for place in follows} == begun


def test_prompts_that_the_model_cannot_take_are_refused(prompts: Prompts) -> None:
    with pytest.raises(BadInput, match="fewer words"):
        prompts.tokens("push " * 400, 2, 56, 56)
    with pytest.raises(BadInput, match="narrow"):
        prompts.tokens(PUSH, 2, 56, 56 * 300)
    with pytest.raises(BadInput, match="views"):
        prompts.tokens(PUSH, 4, 56, 56)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        open_prompts(tmp_path)


def test_equal_pictures_have_one_name_and_the_size_that_the_model_sees(prompts: Prompts) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (3, 84, 84, 3), dtype=np.uint8))
    images.append(images[2].copy())
    first, second = model_inputs(images, [([7, 8], (0, 1, 2, 3)), ([9], (3, 1))], prompts)
    names = first["multi_modal_uuids"]["image"]
    assert names[2] == names[3] == second["multi_modal_uuids"]["image"][0]
    assert len(set(names)) == 3
    assert [picture.size for picture in second["multi_modal_data"]["image"]] == [(56, 56)] * 2
    assert (first["prompt_token_ids"], second["prompt_token_ids"]) == ([7, 8], [9])
