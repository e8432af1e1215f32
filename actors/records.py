"""The scored frames of one episode, kept whole so that its potentials can be checked or replaced later.

A record holds pictures, the hops that came back and the progress they were folded into. Re-scoring a record with the
version it names must give the stored progress again; `experiments.commands.audit` does that for a whole run.
"""

from __future__ import annotations

import json
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
    """One frame that was asked for, and what became of it.

    Args:
        time: environment step of the frame.
        outcome: what became of the question.
        reason: why there is no value; "" where answered.
        anchor_time: environment step of the frame that the incremental question compared with.
        gain, loss, entropy: float32 [3], the model's answer by perspective; NaN where there is none.
        progress: fused Φ* after the frame; where not answered, the value held.
        perspectives: float32 [3], progress of each perspective; NaN where not answered.
        views: uint8 [V, H, W, 3], the pictures; None where they were not kept.
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


_ARRAYS = ("gain", "loss", "entropy", "perspectives")


@dataclass(frozen=True, eq=False, slots=True)
class EpisodeRecord:
    """Everything that is needed to score an episode again.

    Args:
        context: instruction, references, anchors and the model version that answered.
        frames: the frames asked for, in order of time; the first frame of the episode is `context.init`.
        fusion: how their hops were folded.
    """

    context: EpisodeContext
    frames: tuple[ScoredFrame, ...]
    fusion: FusionConfig

    def save(self, folder: Path) -> Path:
        """Write `folder/<episode id>.npz`, whole or not at all. Raises ValueError where the pictures were not kept."""
        if any(frame.views is None for frame in self.frames):
            raise ValueError(f"episode {self.context.episode_id} was labelled without keeping its pictures")
        context = self.context
        header = {
            "episode_id": context.episode_id,
            "instruction": context.instruction,
            "model_version": context.model_version,
            "fusion": asdict(self.fusion),
            "outcomes": [frame.outcome for frame in self.frames],
            "reasons": [frame.reason for frame in self.frames],
        }
        arrays: dict[str, NDArray[Any]] = {
            name: np.array([getattr(f, name) for f in self.frames], np.float32).reshape(-1, 3) for name in _ARRAYS
        }
        arrays |= {
            "times": np.array([frame.time for frame in self.frames], np.int64),
            "anchor_times": np.array([frame.anchor_time for frame in self.frames], np.int64),
            "progress": np.array([frame.progress for frame in self.frames], np.float32),
            "views": np.array([f.views for f in self.frames], np.uint8).reshape(-1, *context.init.shape),
        }
        arrays |= {name: getattr(context, name) for name in ("reference_start", "reference_end", "init", "goal")}
        arrays["header"] = np.array(json.dumps(header))
        path = folder / f"{context.episode_id}.npz"
        return write_atomically(path, lambda temporary: write_npz(temporary, arrays))

    @classmethod
    def load(cls, path: Path) -> EpisodeRecord:
        """Read a record. Raises BadInput where the file is not one."""
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
            header = json.loads(str(arrays["header"]))
            pictures = {name: arrays[name] for name in ("reference_start", "reference_end", "init", "goal")}
            context = EpisodeContext(
                header["episode_id"], header["instruction"], **pictures, model_version=header["model_version"]
            )
            frames = tuple(
                ScoredFrame(
                    time=int(arrays["times"][i]),
                    outcome=header["outcomes"][i],
                    reason=header["reasons"][i],
                    anchor_time=int(arrays["anchor_times"][i]),
                    progress=float(arrays["progress"][i]),
                    views=arrays["views"][i],
                    **{name: arrays[name][i] for name in _ARRAYS},
                )
                for i in range(len(arrays["times"]))
            )
            return cls(context, frames, FusionConfig(**header["fusion"]))
        except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
            raise BadInput(str(path), type(error).__name__, f"give an episode record ({error})") from error
