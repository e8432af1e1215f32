"""Prompt templates, stored as `template.json` next to the weights.

A model is trained with its wording, so a checkpoint and its template belong together. Our template has the structure of
the released one (role, task with two references, labelled BEFORE and AFTER views, goal, calibration, answer line), but
is short, because every token costs an embedded model time.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dopamine_rl.episodes.cameras import VIEW_NAMES
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
        name: for logs and model cards.
        text: the whole chat turn up to the start of the answer, with the slots {instruction}, {start}, {end}, {before}
            and {after}, in this order; the instruction may be repeated later. If the contract fixes the number of
            views, {before} and {after} occur once per view, else once for all views.
        view: one view inside BEFORE or AFTER, with the slot {image}, and {label} if the text does not label the views.
        labels: of the views, in camera order; a prompt may use fewer if the contract does not fix their number.
        contract: number of views and form of the answer.
    Raises:
        BadInput: a slot is missing, repeated or out of order.
    """

    name: str
    text: str
    view: str
    labels: tuple[str, ...]
    contract: Contract = EMBEDDED

    def __post_init__(self) -> None:
        repeats = self.contract.views or 1
        expected = ["start", "end", *["before"] * repeats, *["after"] * repeats]
        slots = _SLOT.findall(self.text)
        if [slot for slot in slots if slot != "instruction"] != expected or slots[0] != "instruction":
            counts = ", ".join(f"{n} {slot}" for slot, n in Counter(slots).items()) or "no slots"
            order = " ".join(f"{{{slot}}}" for slot in ["instruction", *expected])
            fix = f"use the slots {order}, in this order; the instruction may be repeated later"
            raise BadInput("template.text", f"{self.text[:60]} … with {counts}", fix)
        if self.view.count("{label}") != (not self.contract.views) or self.view.count("{image}") != 1:
            labelled = "{image} alone" if self.contract.views else "{label} and {image}"
            raise BadInput("template.view", self.view, f"use the slots {labelled}, once each")
        if len(self.labels) != (self.contract.views or max(1, len(self.labels))):
            raise BadInput("template.labels", self.labels, f"name {self.contract.views or 'at least one'} of the views")

    def fill(self, prompt: Prompt) -> Prompt:
        """Pad a prompt to the number of views that the contract fixes.

        An invalid prompt, with different numbers of BEFORE and AFTER views, is returned unchanged.
        """
        if len(prompt.before) != len(prompt.after):
            return prompt
        before, after = self.contract.fill(prompt.before), self.contract.fill(prompt.after)
        return replace(prompt, before=before, after=after)

    def render(self, instruction: str, views: int) -> str:
        """The prompt for `views` views, with 2 + 2·views image slots of one `<|image_pad|>` each.

        Raises:
            BadInput: the instruction contains a control token, or the template does not have that many views.
        """
        if not instruction.strip() or "<|" in instruction:
            raise BadInput("instruction", instruction, "give the task in plain words, without control tokens")
        least, most = self.contract.views or 1, len(self.labels)
        if not least <= views <= most:
            valid = f"{least} to {most} views" if least < most else f"{most} views"
            raise BadInput("views", views, f"give {valid}: {', '.join(self.labels)}")
        labels = self.labels[:views]
        rendered = [self.view.replace("{label}", label).replace("{image}", IMAGE_SLOT) for label in labels]
        pieces = rendered if self.contract.views else ["".join(rendered)]
        moments = {
            "start": iter([IMAGE_SLOT]),
            "end": iter([IMAGE_SLOT]),
            "before": iter(pieces),
            "after": iter(pieces),
        }
        return _SLOT.sub(lambda slot: next(moments[slot[1]]) if slot[1] in moments else instruction.strip(), self.text)

    def phrases(self) -> Sequence[str]:
        """The template's text between slots, for training a tokenizer on it."""
        pieces = _SLOT.split(self.text)[::2]
        views = [part for label in self.labels for part in self.view.replace("{label}", label).split("{image}")]
        return [piece for piece in (*pieces, *views) if piece]

    def document(self) -> dict[str, Any]:
        """The content of `template.json`. The contract of embedded models is omitted, to keep their versions."""
        content: dict[str, Any] = {"name": self.name, "text": self.text, "view": self.view, "labels": list(self.labels)}
        if self.contract != EMBEDDED:
            content["contract"] = {"views": self.contract.views, "answer": self.contract.answer}
        return content

    def save(self, folder: Path) -> bool:
        """Write `template.json` into `folder`; returns False if it was already there with this content."""
        path, text = folder / TEMPLATE_FILE, json.dumps(self.document(), indent=2, ensure_ascii=False) + "\n"
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return False
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return True


def load_template(folder: Path) -> PromptTemplate:
    """Read `template.json` from a model folder. Raises CheckpointError naming the file and the fix."""
    path = folder / TEMPLATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        contract = Contract(**content.get("contract", {}))
        return PromptTemplate(content["name"], content["text"], content["view"], tuple(content["labels"]), contract)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: for a released checkpoint run `dopamine grm import-template CLONE CHECKPOINT`; "
            "copy any other model again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy it again from the original model") from error


SHORT_TEMPLATE = PromptTemplate(
    name="dopamine-short-1",
    text=(
        "<|im_start|>user\nJudge this robot's progress.\n<Task>{instruction}\nSTART{start}END{end}</Task>\n"
        "BEFORE{before}\nAFTER{after}\nGoal: END. Gain: share of what remained. Loss: share of what was covered. "
        "Round to whole percents.\nAnswer: <score>±N%</score><|im_end|>\n<|im_start|>assistant\n"
    ),
    view=" {label}{image}",
    labels=VIEW_NAMES,
)
"""Our wording of the prompt."""
