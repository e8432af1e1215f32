"""The three losses, and what must not change them: shared prefixes, recomputation, bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.config import GRMConfig, TrainConfig
from dopamine_rl.grm.layout import prompt_layout
from dopamine_rl.grm.losses import IGNORED, answer_tokens, hop_losses, question_losses
from dopamine_rl.grm.model import GRM, build_grm
from dopamine_rl.grm.readout import HOPS, Reader
from dopamine_rl.grm.score import format_score
from dopamine_rl.interfaces import Prompt
from dopamine_rl.progress import split_hop
from tests.dopamine_rl.grm_toys import TINY, pictures
from tests.dopamine_rl.released import ARCHITECTURES, released_folder

INSTRUCTION = "insert the peg into the hole"
PROMPTS = (
    Prompt(INSTRUCTION, (0, 1), (2,), (3,)),
    Prompt("push it", (0, 1), (2,), (4,)),
    Prompt(INSTRUCTION, (0, 1), (2,), (4,)),
    Prompt(INSTRUCTION, (0, 1), (4,), (2,)),
)
ANSWERS = torch.tensor([0.33, -1.0, 0.0, -0.08])


@pytest.fixture(scope="module", params=["embedded", *ARCHITECTURES])
def grm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GRM]:
    torch.set_num_threads(1)
    if request.param == "embedded":
        yield build_grm(TINY)
    else:
        yield load_grm(released_folder(tmp_path_factory.mktemp("grm"), request.param))


def losses(grm: GRM, config: TrainConfig) -> torch.Tensor:
    reader = Reader(grm, config.recompute)
    return question_losses(config, reader, reader.encode(pictures(5)), PROMPTS, ANSWERS)[0]


def gradients(grm: GRM, value: torch.Tensor) -> dict[str, torch.Tensor]:
    grm.model.zero_grad(set_to_none=True)
    value.backward()
    return {name: weight.grad for name, weight in grm.model.named_parameters() if weight.grad is not None}


def stock_text_loss(grm: GRM, prompt: Prompt, answer: float) -> torch.Tensor:
    """The model as it comes, one whole conversation at a time; every token of the answer and its end are to be said."""
    shown = pictures(5)
    inputs = dict(grm.image_processor(images=[shown[index] for index in prompt.images], return_tensors="pt"))
    merge = grm.model.config.vision_config.spatial_merge_size
    _, rows, columns = (inputs["image_grid_thw"][0] // merge).tolist()
    begin = prompt_layout(grm, prompt.instruction, len(prompt.before), rows, columns).input_ids
    said = grm.tokenizer(format_score(answer), add_special_tokens=False)["input_ids"]
    said = torch.tensor([*said, grm.tokenizer.eos_token_id])
    ids = torch.cat((begin, said))[None]
    kinds = (ids == grm.model.config.image_token_id).int()
    logits = grm.model(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits[0]
    return F.cross_entropy(logits[len(begin) - 1 : -1], said, reduction="sum")


def test_text_loss_and_its_gradients_are_those_of_the_stock_model(grm: GRM) -> None:
    ours = losses(grm, TrainConfig(loss="text"))
    stock = torch.stack([stock_text_loss(grm, *pair) for pair in zip(PROMPTS, ANSWERS.tolist(), strict=True)])
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-3)
    ours_of, stock_of = (gradients(grm, value.sum()) for value in (ours, stock))
    assert ours_of.keys() == stock_of.keys()
    for name, gradient in stock_of.items():
        torch.testing.assert_close(ours_of[name], gradient, rtol=2e-3, atol=2e-3 * float(gradient.abs().max() + 1e-3))


def test_answers_end_and_shorter_ones_are_filled_up(grm: GRM) -> None:
    tails, targets = answer_tokens(grm, ANSWERS.tolist())
    for row, answer in enumerate(ANSWERS.tolist()):
        said = targets[row][targets[row] != IGNORED].tolist()
        assert said[-1] == grm.tokenizer.eos_token_id
        assert grm.tokenizer.decode(said[:-1]) == format_score(answer)
        assert tails[row, : len(said) - 1].tolist() == said[:-1]


def test_squared_hop_error_matches_a_plain_loop() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(0.0, 3.0, (4, 201)))
    expected = []
    for row, hop in zip(logits.double().softmax(-1), ANSWERS.tolist(), strict=True):
        gain, loss = (sum(float(p) * split_hop(h)[side] for p, h in zip(row, HOPS, strict=True)) for side in (0, 1))
        expected.append((gain - max(hop, 0.0)) ** 2 + (loss - max(-hop, 0.0)) ** 2)
    torch.testing.assert_close(
        hop_losses(logits, ANSWERS).double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("loss", ["binned", "hops", "text"])
def test_recomputing_changes_no_gradient_and_keeps_less(loss: str) -> None:
    deep = build_grm(GRMConfig(**{**TINY.__dict__, "vision_depth": 4, "text_depth": 6}))
    found, kept = [], []
    for recompute in (False, True):
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = losses(deep, TrainConfig(loss=loss, recompute=recompute)).sum()  # type: ignore[arg-type]
        weights = {weight.data_ptr() for weight in deep.model.parameters()}
        kept.append(sum(size for place, size in sizes.items() if place not in weights))
        found.append(gradients(deep, value))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=0)
    assert kept[1] < 0.35 * kept[0]


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_bfloat16_is_near_and_weights_stay_float32(grm: GRM) -> None:
    config = TrainConfig(loss="binned")
    exact = losses(grm, config)
    with torch.autocast("cpu", torch.bfloat16):
        near = losses(grm, config)
    found = gradients(grm, near.sum())
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0.1, atol=0.3)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}


@pytest.mark.parametrize("bad", [{"loss": "tokens"}, {"precision": "float16"}, {"batches": 0}, {"seed": -1}])
def test_unknown_ways_to_train_are_refused(bad: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"sft\.train\.{next(iter(bad))}"):
        TrainConfig(**bad)  # type: ignore[arg-type]
