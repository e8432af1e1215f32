"""The 201 answers as a trie of tokens, whose distribution one forward pass reads.

Where a tokenizer knows every answer as one token, as the embedded model's does, the trie is one fork with 201 branches at the
prompt's end. Released tokenizers spell: `<`, `score`, `>+`, `3`, `3`, `%</` … The answers' shared beginnings are then a
small tree behind the prompt (some 25 tokens: what follows the last fork of an answer is certain and costs nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.score import HOP_BINS, answers


@dataclass(frozen=True, eq=False, slots=True)
class AnswerTrie:
    """Where the answers part, and how their probabilities follow from what the model says at those forks.

    Args:
        tokens: int64 [n], inner nodes that must be looked at behind the prompt, parents first; none if each answer is one token.
        depths: int64 [n], their distance from the prompt's last token.
        sight: bool [n, n], True where a node sees another: itself and its ancestors.
        forks: int64 [F], where more than one token may follow: 0 is the prompt's last token, i + 1 the i-th node.
        outputs: int64 [R], the tokens that may follow any fork.
        branches: bool [F, R], which of them may follow which.
        paths: int64 [201, D], each answer's choices as places in [F · R], filled up with F · R.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    sight: torch.Tensor
    forks: torch.Tensor
    outputs: torch.Tensor
    branches: torch.Tensor
    paths: torch.Tensor

    def to(self, device: torch.device) -> AnswerTrie:
        """The same trie with what `log_probabilities` needs on a device."""
        return replace(self, branches=self.branches.to(device), paths=self.paths.to(device))

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [N, 201] of the answers from logits [N, F, R] at the forks.

        At every fork the softmax runs over the tokens that may follow there, as in decoding constrained to the 201 answers; so
        the probabilities sum to 1, are those with which such decoding would sample, and the most likely of them is what it
        would give if it searched whole answers instead of one token after the other.
        """
        allowed = logits.float().masked_fill(~self.branches, -torch.inf).log_softmax(dim=-1)
        return F.pad(allowed.flatten(1), (0, 1))[:, self.paths].sum(dim=-1)


def answer_trie(tokenizer: Any, where: str) -> AnswerTrie:
    """The trie of a tokenizer. Raises CheckpointError, naming `where` it comes from, if the answers cannot be told apart."""
    spelled = [tuple(ids) for ids in tokenizer(list(answers()), add_special_tokens=False)["input_ids"]]
    begun = {ids[:length] for ids in spelled for length in range(len(ids))}
    if len(set(spelled)) != HOP_BINS or not begun.isdisjoint(spelled):
        raise CheckpointError(f"{where} cannot tell the {HOP_BINS} answers apart: use the tokenizer of the checkpoint")
    return _trie(spelled)


def _trie(spelled: Sequence[tuple[int, ...]]) -> AnswerTrie:
    following: dict[tuple[int, ...], list[int]] = {}
    for ids in spelled:
        for length, token in enumerate(ids):
            known = following.setdefault(ids[:length], [])
            if token not in known:
                known.append(token)
    forks = [prefix for prefix, tokens in following.items() if len(tokens) > 1]
    nodes = sorted({fork[:length] for fork in forks for length in range(1, len(fork) + 1)})
    outputs = list(dict.fromkeys(token for fork in forks for token in following[fork]))
    column, row = ({name: place for place, name in enumerate(names)} for names in (outputs, forks))
    choices = [
        [row[ids[:length]] * len(outputs) + column[token] for length, token in enumerate(ids) if ids[:length] in row]
        for ids in spelled
    ]
    longest, nothing = max(map(len, choices)), len(forks) * len(outputs)
    place = {(): 0} | {node: number + 1 for number, node in enumerate(nodes)}
    return AnswerTrie(
        tokens=torch.tensor([node[-1] for node in nodes], dtype=torch.long),
        depths=torch.tensor([len(node) for node in nodes], dtype=torch.long),
        sight=torch.tensor([[node[: len(other)] == other for other in nodes] for node in nodes], dtype=torch.bool),
        forks=torch.tensor([place[fork] for fork in forks]),
        outputs=torch.tensor(outputs),
        branches=torch.tensor([[token in following[fork] for token in outputs] for fork in forks]),
        paths=torch.tensor([choice + [nothing] * (longest - len(choice)) for choice in choices]),
    )
