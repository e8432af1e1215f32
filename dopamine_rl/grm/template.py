"""The prompt: which words surround which pictures. A template is data, kept as `template.json` beside the weights.

Wording is trained in, so a checkpoint and its template belong together. Ours follows the structure of the released one
(role, task with its two references, labelled BEFORE and AFTER views, goal, calibration, answer line) in few words,
because every token costs an embedded model time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dopamine_rl.errors import BadInput, CheckpointError

TEMPLATE_FILE = "template.json"
IMAGE_TOKEN = "<|image_pad|>"
IMAGE_SLOT = f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"
_SLOTS = ("{instruction}", "{start}", "{end}", "{before}", "{after}")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The wording of one model's prompt.

    Args:
        name: what the wording is called, for logs and model cards.
        text: the whole chat turn, with the slots {instruction}, {start}, {end}, {before} and {after}, once each and in
            this order; it ends where the answer begins.
        view: one labelled view inside BEFORE or AFTER, with the slots {label} and {image}.
        labels: names of the views in the order of the cameras; a prompt may use fewer.
    Raises:
        BadInput: a slot is missing, doubled or out of order.
    """

    name: str
    text: str
    view: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        places = [self.text.find(slot) for slot in _SLOTS]
        if places != sorted(places) or places[0] < 0 or any(self.text.count(slot) != 1 for slot in _SLOTS):
            raise BadInput("template.text", self.text, f"use the slots {' '.join(_SLOTS)} once each, in this order")
        if self.view.count("{label}") != 1 or self.view.count("{image}") != 1:
            raise BadInput("template.view", self.view, "use the slots {label} and {image} once each")
        if not self.labels:
            raise BadInput("template.labels", self.labels, "name at least one view")

    def render(self, instruction: str, views: int) -> str:
        """The prompt for `views` cameras, with 2 + 2·views image slots of one `<|image_pad|>` each.

        Raises:
            BadInput: the instruction holds a control token, or there are more views than labels.
        """
        if not instruction.strip() or "<|" in instruction:
            raise BadInput("instruction", instruction, "give the task in plain words, without control tokens")
        if not 1 <= views <= len(self.labels):
            raise BadInput("views", views, f"give 1 to {len(self.labels)} views: {', '.join(self.labels)}")
        shown = "".join(
            self.view.replace("{label}", label).replace("{image}", IMAGE_SLOT) for label in self.labels[:views]
        )
        values = (instruction.strip(), IMAGE_SLOT, IMAGE_SLOT, shown, shown)
        prompt, rest = "", self.text
        for slot, value in zip(_SLOTS, values, strict=True):
            before, rest = rest.split(slot)
            prompt += before + value
        return prompt + rest

    def phrases(self) -> Sequence[str]:
        """The template's own pieces of text between slots: what a tokenizer for it should know by heart."""
        pieces = [self.text]
        for slot in _SLOTS:
            pieces = [part for piece in pieces for part in piece.split(slot)]
        views = [part for label in self.labels for part in self.view.replace("{label}", label).split("{image}")]
        return [piece for piece in (*pieces, *views) if piece]

    def save(self, folder: Path) -> None:
        """Write `template.json` into `folder`."""
        content = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / TEMPLATE_FILE).write_text(content + "\n", encoding="utf-8")


def load_template(folder: Path) -> PromptTemplate:
    """Read `template.json` from a model folder. Raises CheckpointError naming the file and what to do."""
    path = folder / TEMPLATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return PromptTemplate(content["name"], content["text"], content["view"], tuple(content["labels"]))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: put the template that the model was trained with there, as PromptTemplate.save writes it"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy it again from where the model came") from error


SHORT_TEMPLATE = PromptTemplate(
    name="dopamine-short-1",
    text=(
        "<|im_start|>user\nJudge this robot's progress.\n<Task>{instruction}\nSTART{start}END{end}</Task>\n"
        "BEFORE{before}\nAFTER{after}\nGoal: END. Gain: share of what remained. Loss: share of what was covered. "
        "Round to whole percents.\nAnswer: <score>±N%</score><|im_end|>\n<|im_start|>assistant\n"
    ),
    view=" {label}{image}",
    labels=("front", "wrist", "close-up"),
)
"""Our wording of the structure; the views are labelled in the order front, wrist, close-up."""
