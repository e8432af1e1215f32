"""What a reward model expects besides the wording of its prompt: the views of a prompt and the form of an answer.

Embedded models get as many views as there are cameras. Released models always get three views of BEFORE and three of
AFTER (with START and END eight images), however many cameras there are.
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
        views: views of BEFORE, and of AFTER, in every prompt; 0 means one per camera.
        answer: the form of the answers in training. Reading accepts both forms.
    Raises:
        BadInput: a value is out of range.
    """

    views: int = 0
    answer: AnswerForm = "integer"

    def __post_init__(self) -> None:
        if type(self.views) is not int or self.views < 0:
            raise BadInput("template.views", self.views, "give a number of views, or 0 for one per camera")
        if self.answer not in get_args(AnswerForm):
            raise BadInput("template.answer", self.answer, f"choose from {', '.join(get_args(AnswerForm))}")

    def fill(self, cameras: tuple[int, ...]) -> tuple[int, ...]:
        """Pad the images of one moment to the number of views: missing views repeat the first camera.

        So a single camera fills all three views, and with two cameras the right wrist view shows the front camera.
        Source: METHOD.md section 4 (one camera: the front view is repeated; a wrist without a goal: the front goal).
        """
        return cameras + cameras[:1] * (self.views - len(cameras))

    def format(self, hop: float) -> str:
        """Format a hop as an answer. Raises BadInput unless hop is in [−1, 1]."""
        return format_score(hop) if self.answer == "integer" else format_decimal_score(hop)


EMBEDDED = Contract()
"""Contract of the models that are trained from scratch here."""

RELEASED_LABELS = ("front", "left wrist", "right wrist")
"""View labels of the released models, in prompt order."""

RELEASED = {"grm-3b": Contract(3, "integer"), "grm-2.0": Contract(3, "decimal")}
"""Contracts of the released checkpoints by preset."""

PRESET_OF = {"qwen2_5_vl": "grm-3b", "qwen3_vl": "grm-2.0"}
"""The preset of a released checkpoint by the `model_type` of its `config.json`."""

MIN_PIXELS, MAX_PIXELS = 12_544, 76_800
"""Image size limits in pixels in the training of the released models. Source: METHOD.md section 4."""
