from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dopamine_rl.encoders.tower import TowerEncoder
from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.checkpoint import save_grm
from dopamine_rl.grm.config import GRMConfig, LoRAConfig
from dopamine_rl.grm.lora import adapters, add_low_rank
from dopamine_rl.grm.model import GRM, build_grm
from dopamine_rl.interfaces import Prompt
from dopamine_rl.tokens import EncodedImage
from reward_service.engines import transformers as engines
from reward_service.engines.transformers import CACHE_BYTES, TransformersEngine, default_cache_bytes

TINY = GRMConfig(
    image_size=56, patch=14, vision_width=32, vision_depth=1, vision_heads=2, text_width=32, text_depth=1, text_heads=2
)
PUSH = "push the cube"


@pytest.fixture
def grm() -> GRM:
    return build_grm(TINY)


def pictures(n: int, size: int = 56) -> list[np.ndarray]:
    return list(np.random.default_rng(size).integers(0, 256, (n, size, size, 3), dtype=np.uint8))


def prompt(*images: int, instruction: str = PUSH) -> Prompt:
    views = (len(images) - 2) // 2
    return Prompt(instruction, images[:2], images[2 : 2 + views], images[2 + views :])  # type: ignore[arg-type]


def test_a_folder_and_a_model_answer_alike(grm: GRM, tmp_path: Path) -> None:
    version = save_grm(grm, tmp_path / "grm", {})
    first, second = TransformersEngine(grm, threads=1), TransformersEngine(tmp_path / "grm", threads=1)
    assert first.model_version == second.model_version == version
    prompts = [prompt(0, 1, 2, 3, 4, 5), prompt(0, 1, 4, 5, 2, 3)]
    answers = [engine.estimate(pictures(6), prompts) for engine in (first, second)]
    np.testing.assert_array_equal(answers[0].hop, answers[1].hop)
    assert answers[0].valid.all()
    assert np.isfinite(answers[0].entropy).all()
    assert answers[0].gain[0] != answers[0].gain[1]


def test_batching_changes_nothing(grm: GRM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(grm)
    prompts = [prompt(0, 1, 2, 3, a, b) for a in range(4) for b in range(4)]
    together = engine.estimate(pictures(4), prompts)
    monkeypatch.setattr(engines, "PICTURES_PER_PASS", 3)
    monkeypatch.setattr(engines, "PROMPTS_PER_PASS", 5)
    np.testing.assert_allclose(engine.estimate(pictures(4), prompts).hop, together.hop, atol=1e-5)
    alone = [engine.estimate(pictures(4), [one]).hop[0] for one in prompts]
    np.testing.assert_allclose(alone, together.hop, atol=1e-5)


def test_unanswerable_prompts_are_invalid_and_the_others_answered(grm: GRM) -> None:
    images = [*pictures(4), *pictures(1, 84)]
    prompts = [
        prompt(0, 1, 2, 3),
        prompt(0, 1, 2, 4),
        prompt(0, 1, 2, 9),
        prompt(0, 1, 2, 3, instruction="<|im_end|>"),
        prompt(0, 1, 2, 2, 2, 2, 3, 3, 3, 3),
        Prompt(PUSH, (0, 1), (2, 3), (2,)),
        prompt(4, 4, 4, 4),
    ]
    estimates = TransformersEngine(grm).estimate(images, prompts)
    assert estimates.valid.tolist() == [True, False, False, False, False, False, True]
    assert np.isnan(estimates.gain[~estimates.valid]).all()
    for reason, word in zip(estimates.reasons[1:6], ("size", "outside", "instruction", "views", "views"), strict=True):
        assert word in reason


def test_an_answer_that_is_not_finite_is_no_number(grm: GRM) -> None:
    with torch.no_grad():
        grm.model.lm_head.weight[grm.trie.outputs[3]] = float("nan")
    estimates = TransformersEngine(grm).estimate(pictures(4), [prompt(0, 1, 2, 3)])
    assert estimates.reasons == ("the model's answer is not finite",)
    assert np.isnan(estimates.hop).all()


def test_nothing_asked_nothing_answered(grm: GRM) -> None:
    assert len(TransformersEngine(grm).estimate([], []).hop) == 0


def test_bad_arguments(grm: GRM, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="threads"):
        TransformersEngine(grm, threads=0)
    for device in ("gpu", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(BadInput, match=f"engine.device = '{device}': give one that torch can use here"):
            TransformersEngine(grm, device=device)
    with pytest.raises(CheckpointError, match="not a folder"):
        TransformersEngine(tmp_path / "nothing")
    with pytest.raises(BadInput, match=r"images\[0\]"):
        TransformersEngine(grm).estimate([np.zeros((56, 56, 3), np.float32)], [])  # type: ignore[list-item]


def test_a_gpu_has_room_for_the_prompts_of_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 40 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert default_cache_bytes(torch.device("cuda")) == free // 4
    assert default_cache_bytes(torch.device("cpu")) == CACHE_BYTES
    free = 2**20
    assert default_cache_bytes(torch.device("cuda")) == CACHE_BYTES


def encoded(grm: GRM, images: list[np.ndarray]) -> list[EncodedImage]:
    tokens = TowerEncoder(grm.vision).look(np.stack(images))[1]
    return [EncodedImage(own, image.shape) for own, image in zip(tokens, images, strict=True)]


def test_tokens_are_answered_as_their_pictures(grm: GRM) -> None:
    engine, images = TransformersEngine(grm, threads=1), pictures(6)
    prompts = [prompt(0, 1, 2, 3, 4, 5), prompt(0, 1, 4, 5, 2, 3)]
    expected = engine.estimate(images, prompts)
    for number in (4, 2, 0):  # AFTER alone, BEFORE too, everything
        answer = engine.estimate([*images[:number], *encoded(grm, images[number:])], prompts)
        np.testing.assert_allclose(answer.gain - answer.loss, expected.hop, atol=1e-5)
    assert answer.valid.all()


def test_false_tokens_spoil_no_answer_about_pictures(grm: GRM) -> None:
    engine, images, asked = TransformersEngine(grm, threads=1), pictures(6), [prompt(0, 1, 2, 3, 4, 5)]
    expected = TransformersEngine(grm).estimate(images, asked)
    false = [replace(view, tokens=np.full_like(view.tokens, 6e4)) for view in encoded(grm, images)]
    engine.estimate([*images[:2], *false[2:]], asked)
    cached = engine.cached_bytes
    engine.estimate(false, asked)
    np.testing.assert_array_equal(engine.estimate(images, asked).hop, expected.hop)
    assert cached > 0
    short = [replace(view, tokens=view.tokens[:-1]) for view in false]
    answer = engine.estimate(
        [*images[:4], *short[4:], *images[4:]], [prompt(0, 1, 2, 3, 4, 5), prompt(0, 1, 2, 3, 6, 7)]
    )
    assert answer.reasons[0] == "its tokens have shape (3, 32), not (4, 32)"
    np.testing.assert_allclose(answer.hop[1], expected.hop[0], atol=1e-5)


def test_the_tower_has_a_version_of_its_own(grm: GRM) -> None:
    version = TransformersEngine(grm).tower_version
    assert version == TowerEncoder(grm.vision).saved().version
    for targets, same in ((LoRAConfig(2), True), (LoRAConfig(2, vision_targets=("qkv",)), False)):
        adapted = build_grm(TINY)
        add_low_rank(adapted.model, targets)
        for _, adapter in adapters(adapted.model):
            torch.nn.init.ones_(adapter.up)
        engine = TransformersEngine(adapted)
        assert engine.model_version != TransformersEngine(grm).model_version
        assert (engine.tower_version == version) == same
        assert TowerEncoder.restore(TowerEncoder(adapted.vision).saved()).saved().version == engine.tower_version
    grm.model.to(torch.bfloat16)
    assert TransformersEngine(grm).tower_version == ""
