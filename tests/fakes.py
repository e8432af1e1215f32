"""Stand-ins for the reward model: their answers follow from the pictures alone, so every test can compute them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.interfaces import Prompt
from dopamine_rl.tokens import EncodedImage, FrameTokens, Image
from dopamine_rl.types import EpisodeContext, HopEstimates, ScoreRequest

VIEWS, SIDE = 2, 8

Unreadable = Callable[[float, float], bool]
"""(progress seen in BEFORE, progress seen in AFTER) → the answer cannot be read."""


def picture(progress: float, view: int = 0) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] that shows a progress (its red channel) and which camera took it (its blue channel)."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[..., 0] = round(progress * 250)
    pixels[..., 2] = view
    return pixels


def frame(progress: float) -> NDArray[np.uint8]:
    """uint8 [V, H, W, 3]."""
    return np.stack([picture(progress, view) for view in range(VIEWS)])


def tokens(progress: float, tower: str) -> FrameTokens:
    """What the vision tower of a FakeEngine makes of `frame`."""
    return FrameTokens(tower, np.full((VIEWS, 1, 1), seen(picture(progress)), np.float32))


def seen(pixels: Image) -> float:
    """The progress that a picture shows."""
    if isinstance(pixels, EncodedImage):
        return float(pixels.tokens[0, 0])
    return float(pixels[..., 0].mean()) / 250


def hop(before: float, after: float) -> tuple[float, float]:
    """Gain and loss between two values of progress (METHOD.md Eq. 2, spelled out)."""
    if after >= before:
        return ((after - before) / (1.0 - before) if before < 1.0 else 0.0), 0.0
    return 0.0, (before - after) / before


class FakeEngine:
    """Reads progress off the pictures. Counts what it was given.

    Args:
        version: its model version.
        unreadable: which answers cannot be read; none by default.
        base_s, picture_s: how long a call takes, and each picture in it.
        tower: whose tokens it takes; "" takes pictures alone.
    """

    def __init__(
        self,
        version: str = "fake-1",
        unreadable: Unreadable = lambda before, after: False,
        base_s: float = 0.0,
        picture_s: float = 0.0,
        tower: str = "",
    ) -> None:
        self.model_version, self.tower_version = version, tower
        self.calls: list[tuple[int, int]] = []
        self._unreadable, self._base_s, self._picture_s = unreadable, base_s, picture_s

    def estimate(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> HopEstimates:
        self.calls.append((len(images), len(prompts)))
        time.sleep(self._base_s + self._picture_s * len(images))
        pairs = [(seen(images[p.before[0]]), seen(images[p.after[0]])) for p in prompts]
        readable = np.array([not self._unreadable(*pair) for pair in pairs], bool)
        hops = np.array([hop(*pair) for pair in pairs], np.float32).reshape(-1, 2)
        hops[~readable] = np.nan
        return HopEstimates(
            gain=hops[:, 0],
            loss=hops[:, 1],
            entropy=np.full(len(prompts), np.nan, np.float32),
            reasons=tuple("" if ok else "unreadable on purpose" for ok in readable),
        )


def sometimes(rate: float) -> Unreadable:
    """Unreadable for a fixed pseudo-random share of all (before, after) that differ: never for a warm-up's blanks."""

    def unreadable(before: float, after: float) -> bool:
        digest = hashlib.blake2b(f"{before:.4f} {after:.4f}".encode(), digest_size=4).digest()
        return before != after and int.from_bytes(digest, "big") < rate * 2**32

    return unreadable


def write_checkpoint(
    folder: Path,
    version: str,
    unreadable_rate: float = 0.0,
    base_s: float = 0.0,
    picture_s: float = 0.0,
    tower: str = "",
) -> Path:
    """A folder that `engine_from_folder` loads, also in another process."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"version": version, "unreadable_rate": unreadable_rate, "base_s": base_s, "picture_s": picture_s}
    settings |= {"tower": tower}
    (folder / "fake.json").write_text(json.dumps(settings))
    return folder


def engine_from_folder(folder: Path, threads: int) -> FakeEngine:
    """The engine factory named by `ServiceConfig.engine` in tests."""
    settings = json.loads((Path(folder) / "fake.json").read_text())
    rate = settings.pop("unreadable_rate")
    return FakeEngine(unreadable=sometimes(rate), **settings)


def make_request(
    progress: Sequence[float] = (0.2, 0.4, 0.3, 0.8),
    *,
    previous: float = 0.0,
    init: float = 0.0,
    goal: float = 1.0,
    episode_id: str = "episode",
    model_version: str | None = None,
    start_progress: float | None = None,
    remaining_ms: float = 20_000.0,
) -> ScoreRequest:
    """A request about frames that show the given progress, one every five environment steps."""
    context = EpisodeContext(
        episode_id=episode_id,
        instruction="insert the peg",
        reference_start=picture(0.0),
        reference_end=picture(1.0),
        init=frame(init),
        goal=frame(goal),
        model_version=model_version,
    )
    return ScoreRequest(
        context=context,
        previous=frame(previous),
        frames=np.stack([frame(p) for p in progress]),
        times=tuple(5 * (i + 1) for i in range(len(progress))),
        remaining_ms=remaining_ms,
        start_progress=start_progress,
    )


def seeded_request(frames: int, seed: int) -> ScoreRequest:
    """A request whose pictures follow from its seed, for the suites of `tests.contracts`."""
    rng = np.random.default_rng(seed)
    return make_request(rng.random(frames).tolist(), previous=float(rng.random()), episode_id=f"episode-{seed}")
