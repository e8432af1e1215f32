"""Tokenised prompts and their limits, for engines that load a model folder themselves. Does not load weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.checkpoint import model_version
from dopamine_rl.grm.folder import is_adapter
from dopamine_rl.grm.template import PromptTemplate, load_template
from dopamine_rl.grm.trie import AnswerTrie, answer_trie
from dopamine_rl.grm.vision import picture_size

INSTRUCTION_TOKENS = 256
"""Most tokens of an instruction; longer ones are refused."""


@dataclass(frozen=True, eq=False, slots=True)
class Prompts:
    """The prompts of one model folder.

    Args:
        version: content hash of the weights.
        precision: of the weights, such as "float32".
        context: the model's context length, tokens.
        tokenizer, template: of the checkpoint.
        processor: of its pictures.
        trie: the token sequences of the 201 answers.
        forks: for each fork of the trie the tokens before it, and the tokens that may follow as indices into
            `trie.outputs`.
    """

    version: str
    precision: str
    context: int
    tokenizer: Any
    template: PromptTemplate
    processor: Any
    trie: AnswerTrie
    forks: tuple[tuple[list[int], list[int]], ...]

    @property
    def unit(self) -> int:
        """Side of the square of pixels that becomes one token."""
        return int(self.processor.patch_size * self.processor.merge_size)

    @property
    def pixels(self) -> tuple[int, int]:
        """Minimum and maximum number of pixels of a picture."""
        return self.processor.size["shortest_edge"], self.processor.size["longest_edge"]

    @property
    def pictures(self) -> int:
        """Most pictures in a prompt: two references, and all views before and after."""
        return 2 + 2 * len(self.template.labels)

    @property
    def answer(self) -> int:
        """Most tokens of an answer up to its last fork."""
        return 1 + max(len(prefix) for prefix, _ in self.forks)

    @property
    def longest(self) -> int:
        """Most tokens of a prompt and its answer."""
        words = len(self._words("x", len(self.template.labels))) + INSTRUCTION_TOKENS
        return min(self.context, words + self.pictures * (self.pixels[1] // self.unit**2) + self.answer)

    def tokens(self, instruction: str, views: int, height: int, width: int) -> list[int]:
        """The tokens of a prompt about pictures of height × width pixels, with one placeholder token per picture.

        Raises:
            BadInput: the template does not accept the instruction or the number of views, the pictures are too narrow,
                or the prompt is too long.
        """
        ids = self._words(instruction, views)
        rows, columns = (side // self.unit for side in self.picture_size(height, width))
        if len(ids) + (2 + 2 * views) * (rows * columns - 1) + self.answer > self.longest:
            raise BadInput("instruction", instruction, f"say it in fewer words, at most {INSTRUCTION_TOKENS} tokens")
        return ids

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels of a picture's model input. Raises BadInput if the picture is too narrow."""
        return picture_size(self.processor, height, width)

    def _words(self, instruction: str, views: int) -> list[int]:
        text = self.template.render(instruction, views)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def open_prompts(folder: Path) -> Prompts:
    """Read a model folder. Raises CheckpointError, also for an adapter's folder, which holds no complete model."""
    if is_adapter(folder):
        raise CheckpointError(
            f"{folder} is an adapter, and this engine reads whole models: "
            f"write one by save_grm(load_grm({str(folder)!r}), OUT, {{}})"
        )
    version = model_version(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    trie = answer_trie(tokenizer, str(folder / "tokenizer.json"))
    return Prompts(
        version=version,
        precision=str(config.dtype or torch.float32).removeprefix("torch."),
        context=config.get_text_config().max_position_embeddings,
        tokenizer=tokenizer,
        template=load_template(folder),
        processor=processor,
        trie=trie,
        forks=_forks(trie),
    )


def _forks(trie: AnswerTrie) -> tuple[tuple[list[int], list[int]], ...]:
    """`Prompts.forks`; the tokens before a fork are its ancestors in the trie."""
    prefixes = [[], *(trie.tokens[ancestors].tolist() for ancestors in trie.visible)]
    return tuple(
        (prefixes[fork], follows.nonzero()[:, 0].tolist())
        for fork, follows in zip(trie.forks.tolist(), trie.branches, strict=True)
    )
