from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.score import answers
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


def test_a_path_multiplies_the_choices_on_it() -> None:
    trie = answer_trie(letters, "here")
    prefixes = [""] + ["".join(path) for path in _prefixes(trie.tokens.tolist(), trie.sight)]
    forks = [prefixes[fork] for fork in trie.forks]
    logits = torch.from_numpy(np.random.default_rng(0).normal(0.0, 2.0, (2, len(forks), len(trie.outputs)))).float()
    log_p = trie.log_probabilities(logits)
    spelled = answers()
    for number, answer in enumerate(spelled):
        wanted = 0.0
        for place, letter in enumerate(answer):
            follow = {other[place] for other in spelled if other.startswith(answer[:place])}
            if len(follow) > 1:
                row = logits[1, forks.index(answer[:place])].tolist()
                odds = {chr(token): math.exp(row[c]) for c, token in enumerate(trie.outputs) if chr(token) in follow}
                wanted += math.log(odds[letter] / sum(odds.values()))
        assert log_p[1, number] == pytest.approx(wanted, abs=1e-4)


def _prefixes(tokens: list[int], sight: torch.Tensor) -> list[list[str]]:
    return [[chr(tokens[other]) for other in range(len(tokens)) if sight[node, other]] for node in range(len(tokens))]


def test_depths_count_from_the_prompt() -> None:
    trie = answer_trie(letters, "here")
    assert trie.depths.tolist() == trie.sight.sum(dim=1).tolist()
    assert trie.depths.min() == 1


def test_answers_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(CheckpointError, match="here cannot tell"):
        answer_trie(lambda texts, **_: {"input_ids": [[7] for _ in texts]}, "here")
    with pytest.raises(CheckpointError, match="here cannot tell"):
        answer_trie(lambda texts, **_: {"input_ids": [[7] * (n + 1) for n in range(len(texts))]}, "here")
