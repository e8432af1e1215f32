"""What a reward model was trained to be shown and to say, beside the wording of its prompt.

Embedded models are shown as many views as there are cameras. Released ones are always shown three of BEFORE and three of AFTER
(with START and END eight pictures), however many cameras there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.score import format_decimal_score, format_score

AnswerForm = Literal["integer", "decimal"]
"""Whole percents, or percents with one decimal."""


@dataclass(frozen=True, slots=True)
class Contract:
    """The views of every prompt and the form of every answer.

    Args:
        views: views of BEFORE, and of AFTER, in every prompt; 0 means one for each camera.
        answer: the form in which the model is taught to answer. Both are read, whichever it was taught.
    Raises:
        BadInput: a value is out of range.
    """

    views: int = 0
    answer: AnswerForm = "integer"

    def __post_init__(self) -> None:
        if type(self.views) is not int or self.views < 0:
            raise BadInput("template.views", self.views, "give a number of views, or 0 for one a camera")
        if self.answer not in get_args(AnswerForm):
            raise BadInput("template.answer", self.answer, f"choose from {', '.join(get_args(AnswerForm))}")

    def fill(self, cameras: tuple[int, ...]) -> tuple[int, ...]:
        """The pictures of one moment, a view each: a view without a camera shows the first camera's picture again.

        So one camera stands for all three views, and with two the right wrist's view is the front camera's.
        Source: METHOD.md section 4 (one camera: the front view is repeated; a wrist without a goal: the front goal).
        """
        return cameras + cameras[:1] * (self.views - len(cameras))

    def format(self, hop: float) -> str:
        """The answer that says `hop`. Raises BadInput unless hop is in [−1, 1]."""
        return format_score(hop) if self.answer == "integer" else format_decimal_score(hop)


EMBEDDED = Contract()
"""Of the models that are trained here from nothing."""

RELEASED_LABELS = ("front", "left wrist", "right wrist")
"""The views of released models, in the order of their prompt."""

RELEASED = {"grm-3b": Contract(3, "integer"), "grm-2.0": Contract(3, "decimal")}
"""Contracts of the released checkpoints by preset."""

PRESET_OF = {"qwen2_5_vl": "grm-3b", "qwen3_vl": "grm-2.0"}
"""The preset of a released checkpoint by the `model_type` of its `config.json`."""

MIN_PIXELS, MAX_PIXELS = 12_544, 76_800
"""Pixels of a picture that released models were trained with. Source: METHOD.md section 4."""
