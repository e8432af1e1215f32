"""The prompt: which words surround which pictures. A template is data, kept as `template.json` beside the weights.

Wording is trained in, so a checkpoint and its template belong together. Ours follows the structure of the released one
(role, task with its two references, labelled BEFORE and AFTER views, goal, calibration, answer line) in few words,
because every token costs an embedded model time.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.files import write_atomically
from dopamine_rl.grm.contract import EMBEDDED, Contract
from dopamine_rl.interfaces import Prompt

TEMPLATE_FILE = "template.json"
IMAGE_TOKEN = "<|image_pad|>"
IMAGE_SLOT = f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"
_SLOT = re.compile(r"\{(instruction|start|end|before|after)\}")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The wording of one model's prompt.

    Args:
        name: what the wording is called, for logs and model cards.
        text: the whole chat turn, up to where the answer begins, with the slots {instruction}, {start}, {end}, {before} and
            {after}, in this order; the instruction may be said again later. Where the contract fixes the views, {before} and
            {after} stand once for each of them; else they stand once, for all.
        view: one view inside BEFORE or AFTER, with the slot {image}, and {label} where the text does not label the views.
        labels: names of the views in the order of the cameras; a prompt may use fewer where the contract does not fix them.
        contract: how many views there are, and the form of the answer.
    Raises:
        BadInput: a slot is missing, doubled or out of order.
    """

    name: str
    text: str
    view: str
    labels: tuple[str, ...]
    contract: Contract = EMBEDDED

    def __post_init__(self) -> None:
        times = self.contract.views or 1
        wanted = ["start", "end", *["before"] * times, *["after"] * times]
        slots = _SLOT.findall(self.text)
        if [slot for slot in slots if slot != "instruction"] != wanted or slots[0] != "instruction":
            raise BadInput(
                "template.text",
                f"{self.text[:60]} … with {', '.join(f'{n} {slot}' for slot, n in Counter(slots).items()) or 'no slots'}",
                f"use the slots {{instruction}} {' '.join(f'{{{slot}}}' for slot in wanted)}, in this order; the instruction may "
                "be said again later",
            )
        if self.view.count("{label}") != (not self.contract.views) or self.view.count("{image}") != 1:
            labelled = "{image} alone" if self.contract.views else "{label} and {image}"
            raise BadInput("template.view", self.view, f"use the slots {labelled}, once each")
        if len(self.labels) != (self.contract.views or max(1, len(self.labels))):
            raise BadInput("template.labels", self.labels, f"name {self.contract.views or 'at least one'} of the views")

    def fill(self, prompt: Prompt) -> Prompt:
        """The question as the model is asked it: with a picture for every view that the contract fixes.

        What is no question, because it has not as many views after as before, stays so.
        """
        if len(prompt.before) != len(prompt.after):
            return prompt
        before, after = self.contract.fill(prompt.before), self.contract.fill(prompt.after)
        return replace(prompt, before=before, after=after)

    def render(self, instruction: str, views: int) -> str:
        """The prompt for `views` views, with 2 + 2·views image slots of one `<|image_pad|>` each.

        Raises:
            BadInput: the instruction holds a control token, or the template has not that many views.
        """
        if not instruction.strip() or "<|" in instruction:
            raise BadInput("instruction", instruction, "give the task in plain words, without control tokens")
        least, most = self.contract.views or 1, len(self.labels)
        if not least <= views <= most:
            known = f"{least} to {most} views" if least < most else f"{most} views"
            raise BadInput("views", views, f"give {known}: {', '.join(self.labels)}")
        labels = self.labels[:views]
        shown = [self.view.replace("{label}", label).replace("{image}", IMAGE_SLOT) for label in labels]
        pieces = shown if self.contract.views else ["".join(shown)]
        moments = {
            "start": iter([IMAGE_SLOT]),
            "end": iter([IMAGE_SLOT]),
            "before": iter(pieces),
            "after": iter(pieces),
        }
        return _SLOT.sub(lambda slot: next(moments[slot[1]]) if slot[1] in moments else instruction.strip(), self.text)

    def phrases(self) -> Sequence[str]:
        """The template's own pieces of text between slots: what a tokenizer for it should know by heart."""
        pieces = _SLOT.split(self.text)[::2]
        views = [part for label in self.labels for part in self.view.replace("{label}", label).split("{image}")]
        return [piece for piece in (*pieces, *views) if piece]

    def document(self) -> dict[str, Any]:
        """The content of `template.json`. What is as in embedded models is left out, so that their versions stay."""
        content: dict[str, Any] = {"name": self.name, "text": self.text, "view": self.view, "labels": list(self.labels)}
        if self.contract != EMBEDDED:
            content["contract"] = {"views": self.contract.views, "answer": self.contract.answer}
        return content

    def save(self, folder: Path) -> bool:
        """Write `template.json` into `folder`. False if it was there already, and stays."""
        path, text = folder / TEMPLATE_FILE, json.dumps(self.document(), indent=2, ensure_ascii=False) + "\n"
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return False
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return True


def load_template(folder: Path) -> PromptTemplate:
    """Read `template.json` from a model folder. Raises CheckpointError naming the file and what to do."""
    path = folder / TEMPLATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        contract = Contract(**content.get("contract", {}))
        return PromptTemplate(content["name"], content["text"], content["view"], tuple(content["labels"]), contract)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: a released checkpoint gets the wording that it was trained with by `dopamine grm "
            "import-template CLONE CHECKPOINT`; copy any other again from where it comes"
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
