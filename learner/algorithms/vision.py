"""Packed observations as the vectors that policy and critics read; with a learned encoder, its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dopamine_rl.encoders.cnn import FEATURES, Cnn
from dopamine_rl.encoders.eyes import Eyes
from dopamine_rl.encoders.packing import Packing
from dopamine_rl.encoders.recorded import shift_reach
from dopamine_rl.policy import PolicyState


@dataclass(frozen=True)
class VisionShape:
    """What the network of an encoder is built from.

    Args:
        packing: of the observations.
        side: of a learned encoder's pictures; 0 for frozen features.
        towers: of a learned encoder (`Cnn`).
    """

    packing: Packing
    side: int = 0
    towers: int = 1

    @classmethod
    def of(cls, eyes: Eyes, residual: bool = False) -> VisionShape:
        """That of a policy that starts from a clone with these eyes; a residual one keeps the clone's encoder too."""
        return cls(eyes.packing, eyes.saved.settings["side"] if eyes.learned else 0, 2 if residual else 1)

    @property
    def pictures(self) -> int:
        """Pictures V of an observation; of a learned encoder only."""
        return self.packing.seen // (3 * self.side**2)

    @property
    def size(self) -> int:
        """Length D of the vectors."""
        seen = self.pictures * self.towers * FEATURES if self.side else self.packing.seen
        return self.packing.proprioception + seen


class Vision(nn.Module):
    """Maps packed observations to vectors.

    Args:
        shape: of the observations and the network.
    """

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.shape = shape
        self.cnn = Cnn(shape.side, shape.towers) if shape.side else None

    def forward(self, observations: Tensor, shifts: torch.Generator | None = None) -> Tensor:
        """Vectors float32 [B, D] of packed observations uint8 [B, N]; vectors stay as they are.

        Args:
            shifts: pictures are shifted at random; None leaves them.
        """
        if observations.is_floating_point():
            return observations
        proprioception = self.proprioception(observations)
        seen = observations[:, self.shape.packing.split :].contiguous()
        if self.cnn is None:
            return torch.cat((proprioception, seen.view(torch.float16).float()), -1)
        pictures = seen.view(-1, self.shape.side, self.shape.side, 3)
        if shifts is not None:
            pictures = shifted(pictures, shifts)
        return torch.cat((proprioception, self.cnn(pictures).view(len(observations), -1)), -1)

    def proprioception(self, observations: Tensor) -> Tensor:
        """Proprioception float32 [B, P] of packed observations uint8 [B, N]."""
        # A copy of its own begins at a multiple of four bytes, as a view of floats must.
        bytes_ = observations[:, : self.shape.packing.split].clone(memory_format=torch.contiguous_format)
        return bytes_.view(torch.float32)

    def start_from(self, eyes: Eyes) -> None:
        """Start a learned encoder from that of a cloned policy."""
        if self.cnn is not None:
            self.cnn.start_from(eyes.saved.arrays)

    def widened(self, clone: PolicyState) -> PolicyState:
        """A clone's arrays for these vectors: a residual policy's have learned features after the clone's in each view.

        Args:
            clone: arrays of `save_policy`.
        """
        shape = self.shape
        if shape.towers == 1 or not shape.side:
            return clone
        views = np.arange(shape.pictures)[:, None] * shape.towers * FEATURES + np.arange(FEATURES)
        proprioception = shape.packing.proprioception
        places = np.append(np.arange(proprioception), proprioception + views.ravel())
        wide = {}
        for name, fill in {"layers.0.weight": 0.0, "observation_mean": 0.0, "observation_std": 1.0}.items():
            values = clone[f"actor.{name}"]
            wide[f"actor.{name}"] = np.full((*values.shape[:-1], shape.size), fill, np.float32)
            wide[f"actor.{name}"][..., places] = values
        return {**clone, **wide}


def shifted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each picture by whole pixels at random; what comes in repeats the edge. Args: pictures: uint8 [M, S, S, 3].

    Source: arXiv:2004.13649; the reach is that of `recorded.shift`.
    """
    count, side = pictures.shape[:2]
    reach, device = shift_reach(side, side), pictures.device
    offsets = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator, device=device)
    rows, columns = (torch.arange(side, device=device) + offsets).clamp_(0, side - 1)
    return pictures[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def cnn_weights(state: Mapping[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
    """The weights of a `Vision`'s network, by their names in a `Cnn`, from the state of the module that holds it.

    Args:
        prefix: where it is.
    """
    start = f"{prefix}.cnn."
    return {name.removeprefix(start): np.asarray(values) for name, values in state.items() if name.startswith(start)}
