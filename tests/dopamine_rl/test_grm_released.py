"""Checkpoints in the released layout, of both architectures: answers in text, read by the trie."""

from __future__ import annotations

import pytest
import torch

from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import encode_images, forward_logits
from dopamine_rl.interfaces import Prompt
from tests.dopamine_rl.grm_toys import pictures
from tests.dopamine_rl.released import ARCHITECTURES, INSTRUCTION, released_grm, stock_answers


@pytest.fixture(scope="module", params=ARCHITECTURES)
def grm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GRM:
    torch.set_num_threads(1)
    return released_grm(tmp_path_factory.mktemp(request.param), request.param)


@torch.no_grad()
def test_every_answer_has_the_probability_that_the_stock_model_gives_it(grm: GRM) -> None:
    images = pictures(8, 2, 56, 120)
    prompts = [
        Prompt(INSTRUCTION, (0, 1), (2, 3), (4, 5)),
        Prompt("push it", (0, 1), (4,), (5,)),
    ]
    log_p = forward_logits(grm, encode_images(grm, images), prompts)
    stock = torch.stack([stock_answers(grm, images, prompt) for prompt in prompts])
    torch.testing.assert_close(log_p, stock, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_p.exp().sum(dim=1), torch.ones(2), rtol=0, atol=1e-5)
    assert log_p.exp().max() < 0.9
    assert not torch.allclose(log_p[0], log_p[1], atol=1e-2)
