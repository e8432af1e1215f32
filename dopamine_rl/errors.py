"""Every error the system raises on purpose. A failure is one of these or an estimate marked invalid, never a number.

DopamineError
├── BadInput                 a field holds a value that cannot be used: names the field, the value and the fix
│   └── EpisodeError         an episode on disk is malformed: names episode, file and field
├── Diverged                 a training came to a value that is not finite: names what, the update and the fix
├── ActingTimeout            no env runner answered for so long that a training ends
├── CheckpointError          a model folder is missing, incomplete or of another kind
├── WireError                bytes that are not a request or a reply of this protocol version
├── RenderingUnavailable     no usable Vulkan driver
└── ScoringError             the reward service could not answer
    ├── ScoringTimeout       the deadline passed (counted as late)
    ├── Overloaded           the service's bounded queue is full (counted as rejected)
    ├── VersionUnavailable   the required model version is not being served (counted as rejected)
    └── ServiceUnavailable   no replica answered within the caller's budget (counted as rejected)
"""

from __future__ import annotations

import json


class DopamineError(Exception):
    """Base of everything raised on purpose."""


class BadInput(DopamineError, ValueError):
    """A field holds a value that cannot be used.

    Args:
        field: dotted name of the field as its author wrote it.
        value: what it holds.
        fix: what to write instead, as an imperative.
    """

    def __init__(self, field: str, value: object, fix: str) -> None:
        shown = repr(value)
        if len(shown) > 200:
            shown = shown[:200] + "…"
        # One argument, the whole sentence: that is what a command-line parser shows of a ValueError.
        super().__init__(f"{field} = {shown}: {fix}")
        self.field, self.value, self.fix = field, value, fix

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.fix)


def require(section: str, owner: object, *checks: tuple[str, bool, str]) -> None:
    """Raise BadInput for the first check that does not hold.

    Args:
        section: dotted name of the preset's section.
        owner: the settings.
        checks: (field, whether it is good, what to write instead).
    """
    for name, good, fix in checks:
        if not good:
            raise BadInput(f"{section}.{name}".lstrip("."), getattr(owner, name), fix)


def error_to_text(error: DopamineError | OSError) -> str:
    """An error as JSON, to be handed on as a value where an exception would lose its type. `error_from_text` reads it."""
    kind = type(error).__name__
    parts: list[object] = [str(error)]
    if isinstance(error, BadInput):
        parts = [error.field, error.value, error.fix]
    elif not isinstance(error, DopamineError):
        kind, parts = "OSError", [error.errno, error.strerror, error.filename]
    return json.dumps({"kind": kind, "parts": parts}, default=repr)


def error_from_text(text: str) -> DopamineError | OSError:
    """The error that `error_to_text` wrote; of a kind that is not known here, a DopamineError with its message."""
    content = json.loads(text)
    kinds = {kind.__name__: kind for kind in _family(DopamineError)} | {"OSError": OSError}
    made: DopamineError | OSError = kinds.get(content["kind"], DopamineError)(*content["parts"])
    return made


def _family(kind: type[DopamineError]) -> list[type[DopamineError]]:
    return [kind, *(member for child in kind.__subclasses__() for member in _family(child))]


class EpisodeError(BadInput):
    """An episode on disk is malformed; `field` is `episode/file: field`."""


class Diverged(DopamineError, FloatingPointError):
    """A training came to a value that is not finite; its weights are neither sent nor saved.

    Args:
        column: the loss, or the weights.
        value: what it holds.
        update: the number of the update that found it.
        fix: what to change, as an imperative.
    """

    def __init__(self, column: str, value: float, update: int, fix: str) -> None:
        super().__init__(f"{column} = {value} at update {update}: {fix}")
        self.column, self.value, self.update, self.fix = column, value, update, fix

    def __reduce__(self) -> tuple[type[Diverged], tuple[str, float, int, str]]:
        return type(self), (self.column, self.value, self.update, self.fix)


class ActingTimeout(DopamineError, TimeoutError):
    """Nothing came from any env runner within the learner's patience."""


class CheckpointError(DopamineError):
    """A model folder is missing, incomplete or of another kind."""


class WireError(DopamineError, ValueError):
    """Bytes that are not a request or a reply of this protocol version."""


class RenderingUnavailable(DopamineError):
    """No usable Vulkan driver; the message says what to install."""


class ScoringError(DopamineError):
    """The reward service could not answer."""


class ScoringTimeout(ScoringError, TimeoutError):
    """The deadline passed; counted as late."""


class Overloaded(ScoringError):
    """The service's bounded queue is full; counted as rejected."""


class VersionUnavailable(ScoringError):
    """The required model version is not being served; counted as rejected."""


class ServiceUnavailable(ScoringError):
    """No replica answered within the caller's budget; counted as rejected."""
