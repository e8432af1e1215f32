"""Turns requests into prompts and estimates into replies: three perspectives per frame, every picture passed once.

Plain Python: the same object runs inside a Serve replica, in an offline audit and in a unit test.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import TowerUnavailable, VersionUnavailable
from dopamine_rl.interfaces import Engine, Prompt, TokenEngine, tower_version
from dopamine_rl.progress import ROUNDING, fold_reply
from dopamine_rl.tokens import EncodedImage, Image, images_of
from dopamine_rl.types import PERSPECTIVES, ScoreReply, ScoreRequest

PREVIOUS = -1
"""Stands for the request's `previous` frame in place of the index or time of a scored frame."""

_UNASKED = -1


class Scorer:
    """Answers requests with one engine (a ProgressScorer).

    All requests of a call share one table of deduplicated pictures and prompts, answered by one `engine.estimate`. If
    an answer is invalid, the frames after it were compared with a frame without a value; their incremental prompt is
    repeated against the last valid frame. All requests do this together, and every pass settles at least one more
    frame, so there are never more passes than frames in a request.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def model_version(self) -> str:
        """The engine's model version."""
        return self._engine.model_version

    @property
    def tower_version(self) -> str:
        """The version of the engine's vision tower; "" if it takes pixels alone."""
        return tower_version(self._engine)

    def check_health(self) -> None:
        """Raise RuntimeError if the engine cannot recover. Most engines have no health check."""
        check = getattr(self._engine, "check_health", None)
        if check is not None:
            check()

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreReply]:
        """Score a batch. Replies are in the order of the requests, and independent of the rest of the batch.

        Raises:
            VersionUnavailable: a request needs another model version than the engine's; nothing was scored.
            TowerUnavailable: a request has tokens of another tower than the engine's; nothing was scored.
        """
        for request in requests:
            version = request.context.model_version
            if version not in (None, self.model_version):
                raise VersionUnavailable(f"version {version} is requested, {self.model_version} is served")
            check_tower(request, self.tower_version)
        started = time.perf_counter()
        table = _PromptTable(self._engine)
        fragments = [_Fragment(table, request) for request in requests]
        while True:
            for fragment in fragments:
                fragment.ask_incremental()
            if not table.answer():
                break
        model_ms = (time.perf_counter() - started) * 1e3
        return [fragment.reply(self.model_version, model_ms) for fragment in fragments]


def check_tower(request: ScoreRequest, served: str) -> None:
    """Raise TowerUnavailable if a request has tokens, and not those of the tower that is served ("": none is)."""
    for tower in request.towers - {served}:
        taken = f"those of {served} are taken" if served else "this model takes pictures alone"
        raise TowerUnavailable(f"the tokens are those of vision tower {tower}, {taken}: send pictures")


class _PromptTable:
    """The unique pictures and prompts of a batch, each identified by a number, and the answers so far."""

    def __init__(self, engine: Engine) -> None:
        self._engine = cast(TokenEngine, engine)  # one that names no tower is given no tokens (check_tower)
        self._pictures: list[Image] = []
        self._picture_ids: dict[tuple[object, ...], int] = {}
        self._prompts: list[Prompt] = []
        self._prompt_ids: dict[Prompt, int] = {}
        self.values = np.zeros((0, 3), np.float32)
        self.reasons: list[str] = []

    def picture(self, picture: Image) -> int:
        """The number of a picture; pictures with equal pixels, or equal tokens, share one."""
        if isinstance(picture, EncodedImage):
            key: tuple[object, ...] = ("tokens", picture.shape, picture.tokens.dtype.str, picture.tokens.tobytes())
        else:
            key = (picture.shape, picture.tobytes())  # Four times as fast as a cryptographic hash.
        if key not in self._picture_ids:
            self._picture_ids[key] = len(self._pictures)
            self._pictures.append(picture)
        return self._picture_ids[key]

    def views(self, views: Iterable[Image]) -> tuple[int, ...]:
        """The numbers of a frame's V pictures."""
        return tuple(self.picture(view) for view in views)

    def ask(self, prompt: Prompt) -> int:
        """The number of a prompt; equal prompts are answered once."""
        if prompt not in self._prompt_ids:
            self._prompt_ids[prompt] = len(self._prompts)
            self._prompts.append(prompt)
        return self._prompt_ids[prompt]

    def refused(self, question: int) -> bool:
        """True if the answer is invalid; False if it is valid or pending."""
        return question < len(self.reasons) and bool(self.reasons[question])

    def answer(self) -> bool:
        """Answer all new prompts in one engine call, passing only the pictures they use. False if there are none."""
        new = self._prompts[len(self.reasons) :]
        if not new:
            return False
        used = sorted({number for prompt in new for number in prompt.images})
        place = {number: position for position, number in enumerate(used)}
        estimates = self._engine.estimate(
            [self._pictures[number] for number in used], [p.reindexed(place) for p in new]
        )
        rows = np.stack([estimates.gain, estimates.loss, estimates.entropy], axis=1).astype(np.float32)
        self.values = np.concatenate([self.values, rows])
        self.reasons += [reason or fault for reason, fault in zip(estimates.reasons, _faults(rows), strict=True)]
        return True


def _faults(rows: NDArray[np.float32]) -> list[str]:
    """Checks the engine's answers: "" for a gain and a loss in [0, 1], else what is wrong."""
    possible = np.all((rows[:, :2] >= -ROUNDING) & (rows[:, :2] <= 1.0 + ROUNDING), axis=1).tolist()
    return [
        "" if in_range else f"the engine gave gain {row[0]} and loss {row[1]}, which are not in [0, 1]"
        for in_range, row in zip(possible, rows, strict=True)
    ]


class _Fragment:
    """One request on the table: which questions stand for which frame and perspective."""

    def __init__(self, table: _PromptTable, request: ScoreRequest) -> None:
        self._table, self._request = table, request
        context = request.context
        self._references = (table.picture(context.reference_start), table.picture(context.reference_end))
        tokens = request.frame_tokens
        self._views = {
            index: table.views(images_of(frame, tokens.values[index] if tokens is not None else None))
            for index, frame in enumerate(request.frames)
        }
        before = request.previous_tokens
        self._views[PREVIOUS] = table.views(images_of(request.previous, before.values if before is not None else None))
        init, goal = table.views(context.init), table.views(context.goal)
        frames = range(len(request.frames))
        self._anchors = [PREVIOUS] * len(frames)
        self._questions = [[_UNASKED, self._ask(init, t), self._ask(goal, t)] for t in frames]

    def _ask(self, before: tuple[int, ...], frame: int) -> int:
        instruction = self._request.context.instruction
        return self._table.ask(Prompt(instruction, self._references, before, self._views[frame]))

    def ask_incremental(self) -> None:
        """Ask each frame's incremental question against the last frame before it that is not known to be invalid."""
        last_valid = PREVIOUS
        for frame, questions in enumerate(self._questions):
            if any(self._table.refused(question) for question in questions[1:]):
                continue  # The frame is invalid whatever the incremental answer is.
            questions[0] = self._ask(self._views[last_valid], frame)
            self._anchors[frame] = last_valid
            if not any(self._table.refused(question) for question in questions):
                last_valid = frame

    def reply(self, model_version: str, model_ms: float) -> ScoreReply:
        """The reply, once every question is answered."""
        values = self._table.values[np.array(self._questions)]
        reasons = [[self._table.reasons[question] for question in row] for row in self._questions]
        values[np.array([[bool(reason) for reason in row] for row in reasons])] = np.nan
        gain, loss, entropy = (np.ascontiguousarray(values[..., column]) for column in range(3))
        times = self._request.times
        reply = ScoreReply(
            gain=gain,
            loss=loss,
            entropy=entropy,
            reasons=tuple(_join(row) for row in reasons),
            anchor_times=tuple(PREVIOUS if anchor == PREVIOUS else times[anchor] for anchor in self._anchors),
            model_version=model_version,
            model_ms=model_ms,
        )
        if self._request.start_progress is None:
            return reply
        return replace(reply, folded=fold_reply(self._request, reply))


def _join(reasons: Sequence[str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in zip(PERSPECTIVES, reasons, strict=True) if why)
