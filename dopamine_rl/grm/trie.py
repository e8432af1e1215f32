"""The 201 answers as a trie of tokens, whose distribution is read in one forward pass.

In the embedded model's tokenizer every answer is one token, so the trie is one fork with 201 branches at the end of the
prompt. Released tokenizers spell: `<`, `score`, `>+`, `3`, `3`, `%</` … There the answers' common prefixes form a small
tree after the prompt, of about 25 tokens; tokens after the hop bin is determined cost nothing. Released training data
also has answers with one decimal. They count towards the whole percent they begin with; otherwise the probability of
`+1.5%` would go to `+10%` … `+19%`.
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
    """The tokens after a prompt, and the positions at which the next token is predicted.

    Args:
        tokens: int64 [n], parents first.
        depths: int64 [n], their distance from the prompt's last token.
        visible: bool [n, n], True where a token attends to another: itself and its ancestors.
        forks: int64 [F], positions of prediction: 0 is the prompt's last token, i + 1 the i-th of `tokens`.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    visible: torch.Tensor
    forks: torch.Tensor


def chain(length: int) -> Tail:
    """A sequence of `length` tokens, with a prediction after the prompt and after each of them."""
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    return Tail(torch.zeros(length, dtype=torch.long), torch.arange(1, length + 1), visible, torch.arange(length + 1))


@dataclass(frozen=True, eq=False, slots=True)
class AnswerTrie(Tail):
    """The forks at which answers differ, and how answer probabilities follow from the predictions there.

    The tail's tokens are the inner nodes that need computing, none if each answer is one token. Its forks are the nodes
    where more than one token may follow.

    Args:
        outputs: int64 [R], the tokens that may follow any fork.
        branches: bool [F, R], which of them may follow which fork.
        paths: int64 [201, K, D], up to K paths to each hop bin, each with up to D choices as indices into [F · R].
            Padding: F · R (probability 1) within a path, F · R + 1 (probability 0) for a missing path.
    """

    outputs: torch.Tensor
    branches: torch.Tensor
    paths: torch.Tensor

    def to(self, device: torch.device) -> AnswerTrie:
        """The same trie with the tensors of `log_probabilities` on a device."""
        return replace(self, branches=self.branches.to(device), paths=self.paths.to(device))

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities float32 [N, 201] of the hop bins from logits [N, F, R] at the forks.

        At every fork the softmax runs over the tokens that may follow, as in decoding constrained to the score grammar.
        So the probabilities sum to 1 and are those with which constrained decoding samples; the most likely answer is
        the one that constrained decoding finds by exact search instead of greedily.
        """
        choices = logits.float().masked_fill(~self.branches, -torch.inf).log_softmax(dim=-1).flatten(1)
        path_log_probs = F.pad(F.pad(choices, (0, 1)), (0, 1), value=-torch.inf)[:, self.paths].sum(dim=-1)
        return path_log_probs.logsumexp(dim=-1)


def answer_trie(tokenizer: Any, where: str) -> AnswerTrie:
    """The trie of a tokenizer. Raises CheckpointError, naming its origin `where`, if answers are indistinguishable."""
    bins = {answer: index for index, answer in enumerate(answers())}
    if any(len(ids) > 1 for ids in _spell(tokenizer, bins)):
        bins |= decimal_answers()
    spelled = dict(zip(_spell(tokenizer, bins), bins.values(), strict=True))
    prefixes = {ids[:length] for ids in spelled for length in range(len(ids))}
    if len(spelled) != len(bins) or not prefixes.isdisjoint(spelled):
        raise CheckpointError(f"{where} cannot distinguish the {HOP_BINS} answers: use the tokenizer of the checkpoint")
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
    position = {(): 0} | {node: number + 1 for number, node in enumerate(nodes)}
    return AnswerTrie(
        tokens=torch.tensor([node[-1] for node in nodes], dtype=torch.long),
        depths=torch.tensor([len(node) for node in nodes], dtype=torch.long),
        visible=torch.tensor([[node[: len(other)] == other for other in nodes] for node in nodes], dtype=torch.bool),
        forks=torch.tensor([position[fork] for fork in forks]),
        outputs=torch.tensor(outputs),
        branches=torch.tensor([[token in following[fork] for token in outputs] for fork in forks]),
        paths=_paths(spelled, forks, outputs),
    )


def _paths(
    spelled: Mapping[tuple[int, ...], int], forks: Sequence[tuple[int, ...]], outputs: Sequence[int]
) -> torch.Tensor:
    """The `paths` of a trie."""
    column, row = ({name: index for index, name in enumerate(names)} for names in (outputs, forks))
    paths_by_bin: list[dict[tuple[int, ...], None]] = [{} for _ in range(HOP_BINS)]
    for ids, hop_bin in spelled.items():
        choices = [(row.get(ids[:length]), token) for length, token in enumerate(ids)]
        path = tuple(fork * len(outputs) + column[token] for fork, token in choices if fork is not None)
        paths_by_bin[hop_bin][path] = None
    certain = len(forks) * len(outputs)
    most, longest = max(map(len, paths_by_bin)), max(len(path) for paths in paths_by_bin for path in paths)
    table = torch.full((HOP_BINS, most, longest), certain + 1)
    for hop_bin, paths in enumerate(paths_by_bin):
        for number, path in enumerate(paths):
            table[hop_bin, number] = torch.tensor([*path, *[certain] * (longest - len(path))])
    return table
