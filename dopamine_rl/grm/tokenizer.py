"""A small tokenizer for the embedded model: byte-level BPE trained on the template, with one token per answer.

It is trained at build time on a fixed text, so it is the same on every machine. It does not split at words: each phrase
of the template becomes one token, which keeps prompts short. Unknown words fall back to pieces and bytes.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dopamine_rl.grm.score import answers
from dopamine_rl.grm.template import PromptTemplate

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_MAX_LEARNED = 1024
_TASK_WORDS = (
    "insert the peg into the hole; push the cube to the goal; pick up the cup and place it on the plate; "
    "stack the red block on the green block; open the drawer; close the door; turn the handle; "
    "plug the charger into the socket; pull the lever; lift the box; move the object left, right, up, down; "
    "clean the table; press the button; pour water; fold the cloth; screw the bolt; "
    "side, orange, white, blue, end, with, from, in, at, its"
)


def build_tokenizer(template: PromptTemplate) -> PreTrainedTokenizerFast:
    """Train the tokenizer for `template`. The 201 answers get consecutive ids, in the order of the hop bins."""
    tokenizer = Tokenizer(models.BPE())
    # No prefix space and no splitting by regular expression, so that a phrase may become one token.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = sorted({word.strip(";,") for word in _TASK_WORDS.split()})
    phrases = [part for phrase in template.phrases() for part in _between_special(phrase)]
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_LEARNED,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*phrases, *words, *(" " + word for word in words)], trainer)
    tokenizer.add_tokens([AddedToken(answer, normalized=False, special=False) for answer in answers()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )


def _between_special(text: str) -> list[str]:
    """The pieces of `text` between special tokens, which BPE trains on separately."""
    pieces = [text]
    for special in SPECIAL_TOKENS:
        pieces = [part for piece in pieces for part in piece.split(special)]
    return [piece for piece in pieces if piece]
