"""Label records: the scored frames of an episode, stored completely so that its potentials can be audited or replaced.

A record holds pictures, the hops that came back and the progress they were folded into. Re-scoring a record with the
version it names must give the stored progress again; `dopamine audit` does that for a whole run. Pictures are
therefore kept without loss: each as its difference from the one before, compressed, a sixth of their size for simulated
ones. What all episodes of a task share, its references and goal, lies once in `references/`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_atomically, write_npz
from dopamine_rl.types import EpisodeContext, FusionConfig, Outcome, Views


def _unknown() -> NDArray[np.float32]:
    return np.full(3, np.nan, np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class ScoredFrame:
    """A requested frame and its outcome.

    Args:
        time: environment step of the frame.
        outcome: of the request.
        reason: why there is no value; "" if answered.
        anchor_time: environment step of the incremental perspective's anchor.
        gain, loss, entropy: float32 [3], the model's answer by perspective; NaN if there is none.
        progress: fused Φ* after the frame; the held value if not answered.
        perspectives: float32 [3], progress of each perspective; NaN if not answered.
        views: uint8 [V, H, W, 3], the pictures; None if they were not recorded.
    """

    time: int
    outcome: Outcome
    reason: str = ""
    anchor_time: int = -1
    gain: NDArray[np.float32] = field(default_factory=_unknown)
    loss: NDArray[np.float32] = field(default_factory=_unknown)
    entropy: NDArray[np.float32] = field(default_factory=_unknown)
    progress: float = float("nan")
    perspectives: NDArray[np.float32] = field(default_factory=_unknown)
    views: Views | None = None


@dataclass(frozen=True, eq=False, slots=True)
class EpisodeEnding:
    """What an episode of the training paid and how it ended. People look at it; nothing learns from it.

    Args:
        success: the environment's verdict on the last step.
        reached: its verdict on any step.
        claimed: the episode ended by a claim of success; None where nobody claims.
        task_rewards, rewards: float32 [T], the task's reward and the learner's at each environment step.
    """

    success: bool
    reached: bool
    claimed: bool | None
    task_rewards: NDArray[np.float32]
    rewards: NDArray[np.float32]

    def header(self) -> dict[str, Any]:
        """Everything but the arrays, and their sums; ready for JSON."""
        returns = {"task_return": float(self.task_rewards.sum()), "learner_return": float(self.rewards.sum())}
        return {**{name: getattr(self, name) for name in _ENDED}, **returns}

    @classmethod
    def of(cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> EpisodeEnding | None:
        """The ending in a record's header and arrays; None where it has none."""
        if "ending" not in header:
            return None
        return cls(*(header["ending"][name] for name in _ENDED), *(arrays[name] for name in _PAID))


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """What a list of episodes shows of a record; read without its pictures.

    Args:
        episode_id, instruction, model_version: of the episode.
        frames, unanswered: requested frames, and how many of them have no value.
        environment_steps: of the last requested frame.
        final_progress: Φ* after it; None if there is none.
        success, reached, claimed, task_return, learner_return: of the ending; None where it is not recorded.
    """

    episode_id: str
    instruction: str
    model_version: str
    frames: int
    unanswered: int
    environment_steps: int
    final_progress: float | None
    success: bool | None = None
    reached: bool | None = None
    claimed: bool | None = None
    task_return: float | None = None
    learner_return: float | None = None

    @classmethod
    def read(cls, path: Path) -> RecordSummary:
        """Read a record's summary. Raises BadInput if the file is not a valid one."""
        with _reading(path), np.load(path, allow_pickle=False) as data:
            header = json.loads(str(data["header"]))
            last = header.get("last") or _last(data["times"], data["progress"])
            named = {name: header[name] for name in ("episode_id", "instruction", "model_version")}
            outcomes = header["outcomes"]
            unanswered = sum(outcome != "answered" for outcome in outcomes)
            return cls(**named, frames=len(outcomes), unanswered=unanswered, **last, **header.get("ending", {}))


def _last(times: Sequence[int] | NDArray[np.int64], progress: Sequence[float] | NDArray[np.float32]) -> dict[str, Any]:
    """Time and progress of the last frame, ready for JSON."""
    final = float(progress[-1]) if len(progress) else math.nan
    return {
        "environment_steps": int(times[-1]) if len(times) else 0,
        "final_progress": final if math.isfinite(final) else None,
    }


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of reading a file in the block become BadInput."""
    try:
        yield
    except (OSError, KeyError, IndexError, TypeError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise BadInput(str(path), type(error).__name__, f"give an episode record ({error})") from error


_ARRAYS = ("gain", "loss", "entropy", "perspectives")
_PAID = ("task_rewards", "rewards")
_ENDED = ("success", "reached", "claimed")
_SHARED = ("reference_start", "reference_end", "goal")
REFERENCES, FORMAT = "references", 2
"""The folder, among the records, of what episodes share; and the format of a record. Records without one hold all their
pictures as they are."""
LEVEL = 1
"""zlib's: differences of pictures are a few per cent smaller at 6, and take three times as long."""


@dataclass(frozen=True, eq=False, slots=True)
class LabelRecord:
    """Everything needed to score an episode again.

    Args:
        context: instruction, references, anchors and the model version.
        frames: the requested frames, ordered by time; the episode's first frame is `context.init`.
        fusion: how their hops were fused.
        ending: how the episode ended; None for recorded demonstrations, and in records of older versions.
    """

    context: EpisodeContext
    frames: tuple[ScoredFrame, ...]
    fusion: FusionConfig
    ending: EpisodeEnding | None = None

    def save(self, folder: Path) -> Path:
        """Write `folder/<episode id>.npz` atomically. Raises ValueError if the pictures were not recorded."""
        if any(frame.views is None for frame in self.frames):
            raise ValueError(f"episode {self.context.episode_id} was labelled without keeping its pictures")
        context = self.context
        pictures = np.array([context.init, *(frame.views for frame in self.frames)], np.uint8)
        header = {
            "format": FORMAT,
            "episode_id": context.episode_id,
            "instruction": context.instruction,
            "model_version": context.model_version,
            "fusion": asdict(self.fusion),
            "outcomes": [frame.outcome for frame in self.frames],
            "reasons": [frame.reason for frame in self.frames],
            "references": _save_shared(folder, context),
            "shape": pictures.shape,
            "last": _last([frame.time for frame in self.frames], [frame.progress for frame in self.frames]),
        }
        arrays: dict[str, NDArray[Any]] = {
            name: np.array([getattr(f, name) for f in self.frames], np.float32).reshape(-1, 3) for name in _ARRAYS
        }
        arrays |= {
            "times": np.array([frame.time for frame in self.frames], np.int64),
            "anchor_times": np.array([frame.anchor_time for frame in self.frames], np.int64),
            "progress": np.array([frame.progress for frame in self.frames], np.float32),
            "pictures": pack(pictures),
        }
        if self.ending is not None:
            header["ending"] = self.ending.header()
            arrays |= {name: np.asarray(getattr(self.ending, name), np.float32) for name in _PAID}
        arrays["header"] = np.array(json.dumps(header))
        path = folder / f"{context.episode_id}.npz"
        write_atomically(path, lambda temporary: write_npz(temporary, arrays))
        _save_shared(folder, context)  # again: they must not be older than the record
        return path

    @classmethod
    def load(cls, path: Path) -> LabelRecord:
        """Read a record. Raises BadInput if the file is not a valid one."""
        with _reading(path):
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
            header = json.loads(str(arrays["header"]))
            if header.get("format", 1) > FORMAT:
                raise ValueError(f"its format is {header['format']}, a newer version's; this one knows {FORMAT}")
            if "format" in header:
                init, *views = unpack(arrays["pictures"], header["shape"])
                shared = _load_shared(path.parent / REFERENCES / f"{header['references']}.npz")
            else:
                init, views = arrays["init"], list(arrays["views"])
                shared = {name: arrays[name] for name in _SHARED}
            context = EpisodeContext(
                header["episode_id"], header["instruction"], init=init, **shared, model_version=header["model_version"]
            )
            frames = tuple(
                ScoredFrame(
                    time=int(arrays["times"][i]),
                    outcome=header["outcomes"][i],
                    reason=header["reasons"][i],
                    anchor_time=int(arrays["anchor_times"][i]),
                    progress=float(arrays["progress"][i]),
                    views=views[i],
                    **{name: arrays[name][i] for name in _ARRAYS},
                )
                for i in range(len(arrays["times"]))
            )
            return cls(context, frames, FusionConfig(**header["fusion"]), EpisodeEnding.of(header, arrays))


def pack(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures uint8 [N, …] as compressed bytes, uint8 [size]; `unpack` gives exactly the same ones back."""
    differences = np.diff(pictures, axis=0, prepend=np.zeros_like(pictures[:1]))  # modulo 256
    return np.frombuffer(zlib.compress(differences.tobytes(), LEVEL), np.uint8)


def unpack(packed: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    """The pictures that `pack` was given. Raises ValueError or zlib.error where the bytes are not theirs."""
    size = math.prod(shape)
    stream = zlib.decompressobj()
    content = stream.decompress(packed.tobytes(), size + 1)
    if len(content) != size or not stream.eof:
        raise ValueError(f"its pictures have not the {size} bytes of {list(shape)}")
    return np.cumsum(np.frombuffer(content, np.uint8).reshape(shape), axis=0, dtype=np.uint8)  # modulo 256


def _save_shared(folder: Path, context: EpisodeContext) -> str:
    """Write what episodes of a task share, or mark it as used now if it is there; returns its name."""
    shared = {name: getattr(context, name) for name in _SHARED}
    digest = hashlib.sha256()
    for name, picture in shared.items():
        digest.update(f"{name} {picture.dtype} {picture.shape}\n".encode() + picture.tobytes())
    name = digest.hexdigest()[:16]
    path = folder / REFERENCES / f"{name}.npz"
    try:
        os.utime(path)
    except FileNotFoundError:
        write_atomically(path, lambda temporary: write_npz(temporary, shared))
    return name


def _load_shared(path: Path) -> dict[str, NDArray[np.uint8]]:
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in _SHARED}
