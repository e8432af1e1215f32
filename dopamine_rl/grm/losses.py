"""What training makes small: three losses of the answers to a batch of questions, each a value a question."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dopamine_rl.grm.config import Control, TrainConfig
from dopamine_rl.grm.layout import Layout, prompt_layout
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import HOPS, Reader, binned_hops, by_layout, reader_logits
from dopamine_rl.grm.trie import chain
from dopamine_rl.grm.vision import ImageFeatures
from dopamine_rl.interfaces import Prompt

CONSTANT_HOP = 0.2
"""What the constant control answers to everything: always some progress."""

IGNORED = -100
"""Target of a place that holds no token of the answer."""


def soft_labels(hops: torch.Tensor, sigma: float) -> torch.Tensor:
    """Distributions [N, 201] with the weights of a Gaussian of width `sigma` around each hop [N]."""
    bins = torch.as_tensor(HOPS, dtype=hops.dtype, device=hops.device)
    return (-0.5 * ((bins - hops[:, None]) / sigma) ** 2).softmax(dim=-1)


def hop_losses(logits: torch.Tensor, hops: torch.Tensor) -> torch.Tensor:
    """Squared error of E[H⁺] and E[H⁻], [N].

    Args:
        logits: float [N, 201].
        hops: float [N] in [−1, 1].
    Source: arXiv:2512.23703, Eq. 12. Differs: gain and loss apart, because the inverse of a hop has a kink at 0.
    """
    gain, loss, _ = binned_hops(logits)
    return (gain - hops.clamp(min=0)) ** 2 + (loss - (-hops).clamp(min=0)) ** 2


def binned_losses(logits: torch.Tensor, hops: torch.Tensor, sigma: float, hop_weight: float) -> torch.Tensor:
    """Cross-entropy against soft labels plus `hop_weight` × `hop_losses`, [N]; the arguments are those of `hop_losses`."""
    cross_entropy = F.cross_entropy(logits, soft_labels(hops, sigma), reduction="none")
    return cross_entropy + hop_weight * hop_losses(logits, hops)


def token_losses(
    reader: Reader, features: ImageFeatures, prompts: Sequence[Prompt], hops: torch.Tensor
) -> torch.Tensor:
    """−log p of the answer's text, its end included, among all texts the model could write, [N].

    The answers' tokens stand behind the prompts, whose common beginnings are computed once.

    Source: METHOD.md section 5 (token cross-entropy on the answer, the released fine-tune).
    """
    grm = reader.grm
    tails, targets = (part.to(hops.device) for part in answer_tokens(grm, hops.tolist()))
    prompts = [grm.template.fill(prompt) for prompt in prompts]
    layout = partial(prompt_layout, grm, rows=features.rows, columns=features.columns, tail=chain(tails.shape[1]))

    def answer(layout: Layout, numbers: Sequence[int]) -> torch.Tensor:
        questions = [prompts[number].images for number in numbers]
        said = targets[numbers] != IGNORED
        states = reader.states(layout, questions, features.tokens, tails[numbers])
        words = F.cross_entropy(grm.model.lm_head(states[said]).float(), targets[numbers][said], reduction="none")
        return torch.zeros(said.shape, device=words.device).masked_scatter(said, words).sum(dim=1)

    return by_layout(layout, prompts, answer)


def answer_tokens(grm: GRM, hops: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The answers to N questions as tokens.

    Returns:
        int64 [N, K], what stands behind each prompt, filled up with the end; int64 [N, K + 1], what shall be said at the
        prompt's end and after each of them, IGNORED where the answer is over.
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
    """The loss of every question [N], and E[hop] [N] without gradient where the loss comes by it."""
    if config.loss == "text":
        return token_losses(reader, features, prompts, hops), None
    logits = reader_logits(reader, features, prompts)
    gain, loss, _ = binned_hops(logits.detach())
    if config.loss == "hops":
        return hop_losses(logits, hops), gain - loss
    return binned_losses(logits, hops, config.label_sigma, config.hop_weight), gain - loss


def taught_hops(hops: NDArray[np.float32], control: Control, rng: np.random.Generator) -> NDArray[np.float32]:
    """The answers [N] that a batch teaches: the right ones, or those of a negative control."""
    if control == "shuffled":
        return rng.permutation(hops)
    if control == "constant":
        return np.full_like(hops, CONSTANT_HOP)
    return hops
