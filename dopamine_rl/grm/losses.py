"""Training losses: three losses of the answers to a batch of prompts, each with one value per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dopamine_rl.grm.config import Control, TrainConfig
from dopamine_rl.grm.layout import PromptLayout, prompt_layout
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import HOPS, Reader, binned_hops, by_layout, reader_logits
from dopamine_rl.grm.trie import chain
from dopamine_rl.grm.vision import ImageFeatures
from dopamine_rl.interfaces import Prompt

CONSTANT_HOP = 0.2
"""Target of every prompt in the constant control."""

IGNORED = -100
"""Target of positions after the end of the answer."""


def soft_labels(hops: torch.Tensor, sigma: float) -> torch.Tensor:
    """Soft labels [N, 201]: a Gaussian with standard deviation `sigma` around each hop [N]."""
    bins = torch.as_tensor(HOPS, dtype=hops.dtype, device=hops.device)
    return (-0.5 * ((bins - hops[:, None]) / sigma) ** 2).softmax(dim=-1)


def hop_losses(logits: torch.Tensor, hops: torch.Tensor) -> torch.Tensor:
    """Squared error of E[H⁺] and E[H⁻], [N].

    Args:
        logits: float [N, 201].
        hops: float [N] in [−1, 1].
    Source: arXiv:2512.23703, Eq. 12. Differs: gain and loss separately, because the inverse of a hop has a kink at 0.
    """
    gain, loss, _ = binned_hops(logits)
    return (gain - hops.clamp(min=0)) ** 2 + (loss - (-hops).clamp(min=0)) ** 2


def binned_losses(logits: torch.Tensor, hops: torch.Tensor, sigma: float, hop_weight: float) -> torch.Tensor:
    """Cross-entropy against soft labels plus `hop_weight` × `hop_losses`, [N]; arguments as for `hop_losses`."""
    cross_entropy = F.cross_entropy(logits, soft_labels(hops, sigma), reduction="none")
    return cross_entropy + hop_weight * hop_losses(logits, hops)


def token_losses(
    reader: Reader, features: ImageFeatures, prompts: Sequence[Prompt], hops: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the answer's text including its end token, [N].

    The answers' tokens follow the prompts, whose common prefixes are computed once.

    Source: METHOD.md section 5 (token cross-entropy on the answer, the released fine-tune).
    """
    grm = reader.grm
    tails, targets = (part.to(hops.device) for part in answer_tokens(grm, hops.tolist()))
    prompts = [grm.template.fill(prompt) for prompt in prompts]
    layout = partial(prompt_layout, grm, rows=features.rows, columns=features.columns, tail=chain(tails.shape[1]))

    def answer(layout: PromptLayout, indices: Sequence[int]) -> torch.Tensor:
        questions = [prompts[index].images for index in indices]
        is_answer = targets[indices] != IGNORED
        states = reader.states(layout, questions, features.tokens, tails[indices])
        logits = grm.model.lm_head(states[is_answer]).float()
        losses = F.cross_entropy(logits, targets[indices][is_answer], reduction="none")
        return torch.zeros(is_answer.shape, device=losses.device).masked_scatter(is_answer, losses).sum(dim=1)

    return by_layout(layout, prompts, answer)


def answer_tokens(grm: GRM, hops: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokenize the answers to N prompts.

    Returns:
        tails int64 [N, K], the tokens after each prompt, padded with the end token; targets int64 [N, K + 1], the next
        token after the prompt and after each of its tail's tokens, IGNORED after the end of the answer.
    """
    answers = grm.tokenizer([grm.template.contract.format(hop) for hop in hops], add_special_tokens=False)["input_ids"]
    end, longest = grm.tokenizer.eos_token_id, max(map(len, answers))
    tails = torch.full((len(answers), longest), end)
    targets = torch.full((len(answers), longest + 1), IGNORED)
    for row, ids in enumerate(answers):
        tails[row, : len(ids)] = torch.tensor(ids)
        targets[row, : len(ids) + 1] = torch.tensor([*ids, end])
    return tails, targets


def question_losses(
    config: TrainConfig, reader: Reader, features: ImageFeatures, prompts: Sequence[Prompt], hops: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss of every prompt [N], and E[hop] [N] without gradient (None for the text loss)."""
    if config.loss == "text":
        return token_losses(reader, features, prompts, hops), None
    logits = reader_logits(reader, features, prompts)
    gain, loss, _ = binned_hops(logits.detach())
    if config.loss == "hops":
        return hop_losses(logits, hops), gain - loss
    return binned_losses(logits, hops, config.label_sigma, config.hop_weight), gain - loss


def target_hops(hops: NDArray[np.float32], control: Control, rng: np.random.Generator) -> NDArray[np.float32]:
    """The target hops [N] of a batch: the true ones, or those of a negative control."""
    if control == "shuffled":
        return rng.permutation(hops)
    if control == "constant":
        return np.full_like(hops, CONSTANT_HOP)
    return hops
