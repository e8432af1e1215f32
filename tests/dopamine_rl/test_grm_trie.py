from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.score import answers, decimal_answers
from dopamine_rl.grm.trie import answer_trie


def letters(texts: list[str], **_: object) -> dict[str, list[list[int]]]:
    """A tokenizer whose tokens are letters."""
    return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def words(texts: list[str], **_: object) -> dict[str, list[list[int]]]:
    """A tokenizer that knows every text by heart."""
    return {"input_ids": [[1000 + number] for number in range(len(texts))]}


def test_answers_of_one_token_are_one_fork() -> None:
    trie = answer_trie(words, "here")
    assert trie.tokens.numel() == 0
    assert trie.outputs.tolist() == list(range(1000, 1201))
    logits = torch.randn(3, 1, 201)
    torch.testing.assert_close(trie.log_probabilities(logits), logits[:, 0].log_softmax(-1))


def test_ways_multiply_the_choices_on_them_and_add_up() -> None:
    trie = answer_trie(letters, "here")
    prefixes = ["", *_prefixes(trie.tokens.tolist(), trie.visible)]
    forks = [prefixes[fork] for fork in trie.forks]
    logits = torch.from_numpy(np.random.default_rng(0).normal(0.0, 2.0, (2, len(forks), len(trie.outputs)))).float()
    bins = {answer: place for place, answer in enumerate(answers())} | decimal_answers()
    p = np.zeros(201)

    def go(said: str, chance: float) -> None:
        possible = [answer for answer in bins if answer.startswith(said)]
        reached = {bins[answer] for answer in possible}
        if len(reached) == 1:
            p[reached.pop()] += chance
            return
        follow = sorted({answer[len(said)] for answer in possible})
        row = logits[1, forks.index(said)] if len(follow) > 1 else torch.zeros(len(trie.outputs))
        odds = [
            math.exp(row[trie.outputs.tolist().index(ord(letter))]) if len(follow) > 1 else 1.0 for letter in follow
        ]
        for letter, odd in zip(follow, odds, strict=True):
            go(said + letter, chance * odd / sum(odds))

    go("", 1.0)
    np.testing.assert_allclose(trie.log_probabilities(logits)[1], np.log(p), atol=1e-4)


def test_an_answer_with_a_decimal_counts_for_its_whole_percent() -> None:
    trie = answer_trie(letters, "here")
    prefixes = ["", *_prefixes(trie.tokens.tolist(), trie.visible)]
    column = {chr(token): place for place, token in enumerate(trie.outputs.tolist())}
    logits = torch.zeros(1, len(trie.forks), len(trie.outputs))
    for said, letter in (("<score>", "-"), ("<score>-", "7"), ("<score>-7", ".")):
        logits[0, [prefixes[fork] for fork in trie.forks].index(said), column[letter]] = 30.0
    assert trie.log_probabilities(logits).exp()[0, 100 - 7] == pytest.approx(1.0)


def _prefixes(tokens: list[int], sight: torch.Tensor) -> list[str]:
    places = range(len(tokens))
    return ["".join(chr(tokens[other]) for other in places if sight[node, other]) for node in places]


def test_depths_count_from_the_prompt() -> None:
    trie = answer_trie(letters, "here")
    assert trie.depths.tolist() == trie.visible.sum(dim=1).tolist()
    assert trie.depths.min() == 1


def test_answers_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(CheckpointError, match="here cannot distinguish"):
        answer_trie(lambda texts, **_: {"input_ids": [[7] for _ in texts]}, "here")
    with pytest.raises(CheckpointError, match="here cannot distinguish"):
        answer_trie(lambda texts, **_: {"input_ids": [[0, 9], *([n] for n in range(len(texts) - 1))]}, "here")
