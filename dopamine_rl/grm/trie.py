"""The 201 answers as a trie of tokens, whose distribution one forward pass reads.

Where a tokenizer knows every answer as one token, as the embedded model's does, the trie is one fork with 201 branches at the
prompt's end. Released tokenizers spell: `<`, `score`, `>+`, `3`, `3`, `%</` … The answers' shared beginnings are then a
small tree behind the prompt (some 25 tokens: what follows once the hop bin is settled costs nothing). Released training data
has answers with one decimal, too; they count for the whole percent that they begin with, because without them all that a
model would give to `+1.5%` would go to `+10%` … `+19%`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.score import HOP_BINS, answers, decimal_answers


@dataclass(frozen=True, eq=False, slots=True)
class Tail:
    """What stands behind a prompt, and where the model is asked how it goes on.

    Args:
        tokens: int64 [n], parents first.
        depths: int64 [n], their distance from the prompt's last token.
        sight: bool [n, n], True where a token sees another: itself and its ancestors.
        forks: int64 [F], where it is asked: 0 is the prompt's last token, i + 1 the i-th of `tokens`.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    sight: torch.Tensor
    forks: torch.Tensor


def chain(length: int) -> Tail:
    """Room for `length` tokens one after the other, each of which and the prompt's last is asked."""
    sight = torch.ones(length, length, dtype=torch.bool).tril()
    return Tail(torch.zeros(length, dtype=torch.long), torch.arange(1, length + 1), sight, torch.arange(length + 1))


@dataclass(frozen=True, eq=False, slots=True)
class AnswerTrie(Tail):
    """Where the answers part, and how their probabilities follow from what the model says at those forks.

    The tail's tokens are the inner nodes that must be looked at, none if each answer is one token; its forks are those where
    more than one token may follow.

    Args:
        outputs: int64 [R], the tokens that may follow any fork.
        branches: bool [F, R], which of them may follow which.
        paths: int64 [201, K, D], up to K ways to each hop bin, each way's up to D choices as places in [F · R]; filled up with
            F · R, which is certain, and missing ways with F · R + 1, which is impossible.
    """

    outputs: torch.Tensor
    branches: torch.Tensor
    paths: torch.Tensor

    def to(self, device: torch.device) -> AnswerTrie:
        """The same trie with what `log_probabilities` needs on a device."""
        return replace(self, branches=self.branches.to(device), paths=self.paths.to(device))

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities float32 [N, 201] of the hop bins from logits [N, F, R] at the forks.

        At every fork the softmax runs over the tokens that may follow there, as in decoding constrained to the score grammar; so
        the probabilities sum to 1, are those with which such decoding would sample, and the most likely of them is what it
        would give if it searched whole answers instead of one token after the other.
        """
        choices = logits.float().masked_fill(~self.branches, -torch.inf).log_softmax(dim=-1).flatten(1)
        ways = F.pad(F.pad(choices, (0, 1)), (0, 1), value=-torch.inf)[:, self.paths].sum(dim=-1)
        return ways.logsumexp(dim=-1)


def answer_trie(tokenizer: Any, where: str) -> AnswerTrie:
    """The trie of a tokenizer. Raises CheckpointError, naming `where` it comes from, if the answers cannot be told apart."""
    bins = {answer: place for place, answer in enumerate(answers())}
    if any(len(ids) > 1 for ids in _spell(tokenizer, bins)):
        bins |= decimal_answers()
    spelled = dict(zip(_spell(tokenizer, bins), bins.values(), strict=True))
    begun = {ids[:length] for ids in spelled for length in range(len(ids))}
    if len(spelled) != len(bins) or not begun.isdisjoint(spelled):
        raise CheckpointError(f"{where} cannot tell the {HOP_BINS} answers apart: use the tokenizer of the checkpoint")
    return _trie(spelled)


def _spell(tokenizer: Any, texts: Iterable[str]) -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def _trie(spelled: Mapping[tuple[int, ...], int]) -> AnswerTrie:
    following: dict[tuple[int, ...], list[int]] = defaultdict(list)
    reached: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for ids, hop_bin in spelled.items():
        for length, token in enumerate(ids):
            reached[ids[:length]].add(hop_bin)
            if token not in following[ids[:length]]:
                following[ids[:length]].append(token)
    forks = [prefix for prefix, tokens in following.items() if len(tokens) > 1 and len(reached[prefix]) > 1]
    nodes = sorted({fork[:length] for fork in forks for length in range(1, len(fork) + 1)})
    outputs = list(dict.fromkeys(token for fork in forks for token in following[fork]))
    place = {(): 0} | {node: number + 1 for number, node in enumerate(nodes)}
    return AnswerTrie(
        tokens=torch.tensor([node[-1] for node in nodes], dtype=torch.long),
        depths=torch.tensor([len(node) for node in nodes], dtype=torch.long),
        sight=torch.tensor([[node[: len(other)] == other for other in nodes] for node in nodes], dtype=torch.bool),
        forks=torch.tensor([place[fork] for fork in forks]),
        outputs=torch.tensor(outputs),
        branches=torch.tensor([[token in following[fork] for token in outputs] for fork in forks]),
        paths=_paths(spelled, forks, outputs),
    )


def _paths(
    spelled: Mapping[tuple[int, ...], int], forks: Sequence[tuple[int, ...]], outputs: Sequence[int]
) -> torch.Tensor:
    """The `paths` of a trie."""
    column, row = ({name: place for place, name in enumerate(names)} for names in (outputs, forks))
    ways: list[dict[tuple[int, ...], None]] = [{} for _ in range(HOP_BINS)]
    for ids, hop_bin in spelled.items():
        taken = [(row.get(ids[:length]), token) for length, token in enumerate(ids)]
        ways[hop_bin][tuple(fork * len(outputs) + column[token] for fork, token in taken if fork is not None)] = None
    certain = len(forks) * len(outputs)
    most, longest = max(map(len, ways)), max(len(way) for some in ways for way in some)
    paths = torch.full((HOP_BINS, most, longest), certain + 1)
    for hop_bin, some in enumerate(ways):
        for number, way in enumerate(some):
            paths[hop_bin, number] = torch.tensor([*way, *[certain] * (longest - len(way))])
    return paths
