from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.config import GRMConfig
from dopamine_rl.grm.layout import prompt_layout
from dopamine_rl.grm.model import GRM, build_grm
from dopamine_rl.grm.readout import HOPS, binned_hops, encode_images, forward_logits
from dopamine_rl.grm.vision import ImageFeatures, cut_patches
from dopamine_rl.interfaces import Prompt
from dopamine_rl.progress import split_hop
from tests.dopamine_rl.grm_toys import TINY, pictures

INSTRUCTION = "insert the peg into the hole"


@pytest.fixture(scope="module")
def grm() -> GRM:
    torch.set_num_threads(1)
    return build_grm(TINY)


def stock_inputs(grm: GRM, images: list[np.ndarray]) -> dict[str, torch.Tensor]:
    return dict(grm.image_processor(images=images, return_tensors="pt"))


def stock_logits(grm: GRM, images: np.ndarray, prompt: Prompt) -> torch.Tensor:
    """The model as it comes: one prompt with all its pictures, the answers' log-probabilities at the last token."""
    inputs = stock_inputs(grm, [images[index] for index in prompt.images])
    merge = grm.model.config.vision_config.spatial_merge_size
    _, rows, columns = (inputs["image_grid_thw"][0] // merge).tolist()
    ids = prompt_layout(grm, prompt.instruction, len(prompt.before), rows, columns).input_ids[None]
    kinds = (ids == grm.model.config.image_token_id).int()
    return grm.model(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits[0, -1, grm.trie.outputs].log_softmax(-1)


@pytest.mark.parametrize("size", [(56, 56), (64, 64), (48, 96), (200, 150)])
def test_patches_agree_with_the_image_processor(grm: GRM, size: tuple[int, int]) -> None:
    images = pictures(3, 0, *size)
    patches, rows, columns = cut_patches(grm.vision, images)
    stock = stock_inputs(grm, list(images))
    assert stock["image_grid_thw"].tolist() == [[1, rows, columns]] * 3
    once = stock["pixel_values"].view(3, rows * columns, 3, 2, -1)[:, :, :, 0]
    processor = grm.image_processor
    pixels = (patches.unflatten(-1, (-1, 3)) / 255.0 - torch.tensor(processor.image_mean)) / torch.tensor(
        processor.image_std
    )
    torch.testing.assert_close(pixels.transpose(2, 3), once, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(56, 56), (48, 96)])
def test_features_agree_with_the_stock_tower(grm: GRM, size: tuple[int, int]) -> None:
    images = pictures(4, 1, *size)
    with torch.no_grad():
        features = encode_images(grm, images)
        stock = grm.model.model.get_image_features(**stock_inputs(grm, list(images))).pooler_output
    torch.testing.assert_close(features.tokens, torch.stack(tuple(stock)), rtol=0, atol=1e-4)
    assert features.rows * features.columns == features.tokens.shape[1]


@pytest.mark.parametrize("size", [(112, 112), (84, 140)])
def test_windows_agree_with_the_stock_tower(size: tuple[int, int]) -> None:
    grm = build_grm(GRMConfig(**{**TINY.__dict__, "vision_depth": 3, "image_size": 112}))
    tower = grm.model.model.visual
    images = pictures(2, 1, *size)
    with torch.no_grad():
        whole = encode_images(grm, images).tokens
        tower.fullatt_block_indexes, tower.window_size = [1], 56
        windowed = encode_images(grm, images).tokens
        stock = grm.model.model.get_image_features(**stock_inputs(grm, list(images))).pooler_output
    torch.testing.assert_close(windowed, torch.stack(tuple(stock)), rtol=0, atol=1e-4)
    assert not torch.allclose(windowed, whole, atol=1e-2)


def test_logits_agree_with_the_stock_model(grm: GRM) -> None:
    images = pictures(9, 2)
    prompts = [
        Prompt(INSTRUCTION, (0, 1), (2, 3), (4, 5)),
        Prompt("push it", (0, 1), (2, 3), (6, 7)),
        Prompt(INSTRUCTION, (0, 1), (2, 3), (6, 7)),
        Prompt(INSTRUCTION, (1, 0), (2, 3), (6, 7)),
        Prompt(INSTRUCTION, (0, 1), (4, 5), (2, 3)),
        Prompt(INSTRUCTION, (0, 1), (8,), (2,)),
        Prompt(INSTRUCTION, (0, 1), (2, 3), (4, 5)),
    ]
    with torch.no_grad():
        logits = forward_logits(grm, encode_images(grm, images), prompts)
        stock = torch.stack([stock_logits(grm, images, prompt) for prompt in prompts])
    assert logits.shape == (7, 201)
    torch.testing.assert_close(logits, stock, rtol=0, atol=1e-3)


def test_gradients_agree_with_the_stock_model(grm: GRM) -> None:
    images = pictures(6, 3)
    prompts = [Prompt(INSTRUCTION, (0, 1), (2,), (after,)) for after in (3, 4, 5)]
    weight = grm.model.model.visual.patch_embed.proj.weight
    shared = torch.autograd.grad(forward_logits(grm, encode_images(grm, images), prompts).square().sum(), weight)[0]
    naive = sum(stock_logits(grm, images, prompt).square().sum() for prompt in prompts)
    torch.testing.assert_close(shared, torch.autograd.grad(naive, weight)[0], rtol=1e-3, atol=1e-3)


def test_bad_questions_are_refused(grm: GRM) -> None:
    features = encode_images(grm, pictures(4))
    with pytest.raises(BadInput, match="as many views"):
        forward_logits(grm, features, [Prompt(INSTRUCTION, (0, 1), (2, 3), (2,))])
    with pytest.raises(BadInput, match="instruction"):
        forward_logits(grm, features, [Prompt("<|im_end|>", (0, 1), (2,), (3,))])
    with pytest.raises(BadInput, match="uint8"):
        encode_images(grm, pictures(2).astype(np.float32))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 20.0))
def test_expectations_match_a_plain_loop(seed: int, spread: float) -> None:
    logits = np.random.default_rng(seed).normal(0.0, spread, 201)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    gain = sum(p[b] * split_hop(HOPS[b])[0] for b in range(201))
    loss = sum(p[b] * split_hop(HOPS[b])[1] for b in range(201))
    entropy = -sum(p[b] * np.log(p[b]) for b in range(201) if p[b] > 0)
    measured = [float(value[0]) for value in binned_hops(torch.from_numpy(logits)[None])]
    np.testing.assert_allclose(measured, [gain, loss, entropy], atol=2e-5)


def test_a_sharp_answer_is_its_bin_and_nan_stays_nan() -> None:
    logits = torch.full((2, 201), -1e4)
    logits[0, 133] = 0.0
    logits[1, 7] = float("nan")
    gain, loss, entropy = binned_hops(logits)
    assert gain[0] == pytest.approx(0.33)
    assert loss[0] == entropy[0] == 0.0
    assert torch.isnan(torch.stack([gain[1], loss[1], entropy[1]])).all()


def test_features_name_their_grid(grm: GRM) -> None:
    features = encode_images(grm, pictures(1, 0, 48, 96))
    assert isinstance(features, ImageFeatures)
    assert (features.rows, features.columns) == (2, 3)  # of a wide picture the height is kept, not its whole width
