"""Every error that is raised on purpose. A failure is one of these or an estimate marked invalid, never a number.

DopamineError
├── BadInput                 a field has an unusable value: names the field, the value and the fix
│   └── EpisodeError         an episode on disk is malformed: names episode, file and field
├── Diverged                 training produced a non-finite value: names it, the update and the fix
├── ActingTimeout            no env runner answered within the learner's patience
├── CheckpointError          a model folder is missing, incomplete or of the wrong kind
├── WireError                bytes that are not a request or a reply of this protocol version
├── RenderingUnavailable     no usable Vulkan driver
├── RobotError               a robot or its server does not do what it was asked
│   └── RobotLost            the connection to the robot broke, or it does not answer
└── ScoringError             the reward service could not answer
    ├── ScoringTimeout       the deadline passed (counted as late)
    ├── Overloaded           the service's bounded queue is full (counted as rejected)
    ├── VersionUnavailable   the required model version is not being served (counted as rejected)
    ├── TowerUnavailable     the model cannot use a request's tokens; it answers the same one with pictures
    └── ServiceUnavailable   no replica answered within the caller's budget (counted as rejected)
"""

from __future__ import annotations

import json


class DopamineError(Exception):
    """Base class of all errors raised on purpose."""


class BadInput(DopamineError, ValueError):
    """A field has an unusable value.

    Args:
        field: dotted name of the field as the user wrote it.
        value: its value.
        fix: what to write instead, as an imperative.
    """

    def __init__(self, field: str, value: object, fix: str) -> None:
        text = repr(value)
        if len(text) > 200:
            text = text[:200] + "…"
        # The whole sentence as one argument: command-line parsers print that of a ValueError.
        super().__init__(f"{field} = {text}: {fix}")
        self.field, self.value, self.fix = field, value, fix

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.fix)


def require(section: str, owner: object, *checks: tuple[str, bool, str]) -> None:
    """Raise BadInput for the first check that fails.

    Args:
        section: dotted name of the preset's section.
        owner: the settings object.
        checks: (field, whether its value is valid, what to write instead).
    """
    for name, valid, fix in checks:
        if not valid:
            raise BadInput(f"{section}.{name}".lstrip("."), getattr(owner, name), fix)


MAX_SEED = 2**31 - 1
"""Largest seed that a user can give. torch, numpy, RLlib and the simulator take it, and the seeds derived from it."""


def seed_check(name: str, seed: int) -> tuple[str, bool, str]:
    """A check for `require`: whether a seed can be used."""
    return name, 0 <= seed <= MAX_SEED, f"give 0 to {MAX_SEED}"


def error_to_text(error: DopamineError | OSError) -> str:
    """Encode an error as JSON, for places where an exception would lose its type. See `error_from_text`."""
    kind = type(error).__name__
    parts: list[object] = [str(error)]
    if isinstance(error, BadInput):
        parts = [error.field, error.value, error.fix]
    elif not isinstance(error, DopamineError):
        kind, parts = "OSError", [error.errno, error.strerror, error.filename]
    return json.dumps({"kind": kind, "parts": parts}, default=repr)


def error_from_text(text: str) -> DopamineError | OSError:
    """Decode an error written by `error_to_text`; an unknown type becomes a DopamineError with its message."""
    content = json.loads(text)
    kinds = {kind.__name__: kind for kind in _with_subclasses(DopamineError)} | {"OSError": OSError}
    error: DopamineError | OSError = kinds.get(content["kind"], DopamineError)(*content["parts"])
    return error


def _with_subclasses(kind: type[DopamineError]) -> list[type[DopamineError]]:
    return [kind, *(member for child in kind.__subclasses__() for member in _with_subclasses(child))]


class EpisodeError(BadInput):
    """An episode on disk is malformed; `field` is `episode/file: field`."""


class Diverged(DopamineError, FloatingPointError):
    """Training produced a non-finite value; its weights are neither sent nor saved.

    Args:
        column: the loss, or the weights.
        value: its value.
        update: number of the update.
        fix: what to change, as an imperative.
    """

    def __init__(self, column: str, value: float, update: int, fix: str) -> None:
        super().__init__(f"{column} = {value} at update {update}: {fix}")
        self.column, self.value, self.update, self.fix = column, value, update, fix

    def __reduce__(self) -> tuple[type[Diverged], tuple[str, float, int, str]]:
        return type(self), (self.column, self.value, self.update, self.fix)


class ActingTimeout(DopamineError, TimeoutError):
    """No env runner answered within the learner's patience."""


class CheckpointError(DopamineError):
    """A model folder is missing, incomplete or of the wrong kind."""


class WireError(DopamineError, ValueError):
    """Bytes that are not a request or a reply of this protocol version."""


class ClusterUnavailable(DopamineError):
    """Ray did not start on this machine."""


class RenderingUnavailable(DopamineError):
    """No usable Vulkan driver; the message says what to install."""


class RobotError(DopamineError):
    """A robot or its server does not do what it was asked; the message says why."""


class RobotLost(RobotError, ConnectionError):
    """The connection to the robot broke, or it does not answer."""


class ScoringError(DopamineError):
    """The reward service could not answer."""


class ScoringTimeout(ScoringError, TimeoutError):
    """The deadline passed; counted as late."""


class Overloaded(ScoringError):
    """The service's bounded queue is full; counted as rejected."""


class VersionUnavailable(ScoringError):
    """The required model version is not being served; counted as rejected."""


class TowerUnavailable(ScoringError):
    """A request's tokens are not those of the model's vision tower, or the model takes pictures alone."""


class ServiceUnavailable(ScoringError):
    """No replica answered within the caller's budget; counted as rejected."""
