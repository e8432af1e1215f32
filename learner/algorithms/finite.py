"""Checks that weights are finite before a learner sends or saves them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from dopamine_rl.errors import Diverged

FIX = "lower the learning rates, or check for extreme rewards and observations; the last checkpoint is unchanged"


def require_finite_weights(weights: Iterable[tuple[str, Tensor]], update: int) -> None:
    """Raise Diverged for the first tensor with non-finite weights.

    Args:
        weights: names and floating-point tensors.
        update: number of the last update.
    """
    names, tensors = zip(*((name, tensor.detach()) for name, tensor in weights), strict=True)
    norms = torch.stack(torch._foreach_norm(list(tensors)))  # Fused: a single device synchronisation.
    for name, norm in zip(names, norms.tolist(), strict=True):
        if norm != norm or norm == float("inf"):
            raise Diverged(f"weights of {name}", norm, update, FIX)


class FiniteWeights:
    """A mixin for RLlib learners: checks the weights after every `update` call, and before they are sent or saved."""

    module: Any
    _weights_seq_no: int

    def number_of_update(self) -> int:
        """Number of the last update, for error messages."""
        return self._weights_seq_no

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """RLlib's hook, preceded by the check."""
        self._require_finite_weights()
        super().after_gradient_based_update(timesteps=timesteps)  # type: ignore[misc]

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, after the check: all weights leave a learner through its state."""
        self._require_finite_weights()
        state: dict[str, Any] = super().get_state(*args, **kwargs)  # type: ignore[misc]
        return state

    def _require_finite_weights(self) -> None:
        require_finite_weights(self.module[DEFAULT_MODULE_ID].named_parameters(), self.number_of_update())
