"""The trained policy in numpy, as evaluation and robots run it, without RLlib or torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from dopamine_rl.encoders.eyes import ARRAYS, Eyes, eyes_of
from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.files import write_atomically

PolicyState = dict[str, NDArray[np.float32]]
"""`actor.*` and, for a residual policy, `base.*` and `residual_scale`; names as in the state of networks.Policy. With
`critic.*`, of a networks.CriticEnsemble, a residual policy takes the better of its own action and the base's."""

LAYER_NORM_EPSILON = np.float32(1e-5)
"""As in torch."""

PROVENANCE = "provenance"
"""Key of a policy file's metadata."""


class DeterministicPolicy:
    """The mean action of a policy; with critics in the file, the better of it and the base's.

    Args:
        state: arrays of a `Policy`; with a base also `residual_scale`, and `critic.*` if it chooses.
    """

    def __init__(self, state: Mapping[str, NDArray[np.float32]]) -> None:
        self._actor = _Actor(state, "actor")
        self._base = _Actor(state, "base") if "base.mean.weight" in state else None
        self._scale = np.float32(state["residual_scale"].item() if self._base else 0.0)
        self._critic = _Critics(state, "critic") if "critic.weights.0" in state else None

    @classmethod
    def load(cls, path: Path) -> DeterministicPolicy:
        """Read a file written by `save_policy`.

        Raises:
            CheckpointError: the file is missing or is not a policy.
        """
        return cls(load_policy(path))

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions float32 [..., A] in [−1, 1] for observations float32 [..., D].

        Raises:
            BadInput: wrong observation size.
        """
        action = np.tanh(self._actor(observations))
        if self._base is None:
            return action
        base = np.tanh(self._base(observations))
        residual = np.clip(base + self._scale * action, -1.0, 1.0)
        if self._critic is None:
            return residual
        normalised = self._actor.normalise(observations)
        better = self._critic(normalised, residual) > self._critic(normalised, base)
        return np.where(better[..., None], residual, base)


class _Critics:
    """The mean of an ensemble of critics."""

    def __init__(self, state: Mapping[str, NDArray[np.float32]], prefix: str) -> None:
        layers = sum(name.startswith(f"{prefix}.weights.") for name in state)
        linear = [(state[f"{prefix}.weights.{i}"], state[f"{prefix}.biases.{i}"]) for i in range(layers)]
        norms = [(state[f"{prefix}.gains.{i}"], state[f"{prefix}.shifts.{i}"]) for i in range(layers - 1)]
        self._hidden, self._last = list(zip(linear, norms, strict=False)), linear[-1]

    def __call__(self, normalised: NDArray[np.float32], actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Q values [...] of normalised observations [..., D] and actions [..., A]."""
        joined = np.concatenate((normalised, actions), -1)
        values = joined.reshape(-1, joined.shape[-1])
        for (weight, bias), (gain, shift) in self._hidden:
            values = values @ weight + bias
            values = (values - values.mean(-1, keepdims=True)) / np.sqrt(
                values.var(-1, keepdims=True) + LAYER_NORM_EPSILON
            )
            values = np.maximum(values * gain + shift, 0.0)
        weight, bias = self._last
        return (values @ weight + bias).mean(0).reshape(joined.shape[:-1])


class _Actor:
    def __init__(self, state: Mapping[str, NDArray[np.float32]], prefix: str) -> None:
        count = sum(name.startswith(f"{prefix}.layers.") and name.endswith(".weight") for name in state)
        names = [*(f"{prefix}.layers.{index}" for index in range(count)), f"{prefix}.mean"]
        self._layers = [(state[f"{name}.weight"].T, state[f"{name}.bias"]) for name in names]
        self._mean, self._std = state[f"{prefix}.observation_mean"], state[f"{prefix}.observation_std"]

    def normalise(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        given = np.asarray(observations, np.float32)
        if given.shape[-1:] != self._mean.shape:
            raise BadInput("observations", given.shape, f"give {len(self._mean)} numbers in the last axis")
        return (given - self._mean) / self._std

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        hidden = self.normalise(observations)
        for weight, bias in self._layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0.0)
        weight, bias = self._layers[-1]
        return hidden @ weight + bias


def hidden_widths(state: Mapping[str, NDArray[np.float32]], prefix: str = "actor") -> tuple[int, ...]:
    """Widths of the layers of a saved policy's network."""
    biases = [name for name in state if name.startswith(f"{prefix}.layers.") and name.endswith(".bias")]
    return tuple(len(state[f"{prefix}.layers.{index}.bias"]) for index in range(len(biases)))


def save_policy(
    path: Path, state: PolicyState, about: Mapping[str, Any] | None = None, eyes: Eyes | None = None
) -> None:
    """Write a policy as safetensors, atomically.

    Args:
        about: its provenance (JSON values), kept in the file's metadata.
        eyes: what turns observations into the vectors that it reads, with the encoder's weights; None if it reads
            observations as they are.
    Raises:
        BadInput: an array has a non-finite value.
    """
    arrays = {name: np.array(values, np.float32, order="C") for name, values in state.items()}
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise BadInput(name, "nan or inf", "save a policy whose training did not diverge")
    metadata = {PROVENANCE: json.dumps(about, sort_keys=True)} if about else {}
    content: dict[str, NDArray[Any]] = dict(arrays)
    if eyes is not None:
        content |= eyes.arrays()
        metadata |= eyes.metadata()
    write_atomically(path, lambda temporary: save_file(content, temporary, metadata or None))


def policy_provenance(path: Path) -> dict[str, Any] | None:
    """The provenance that `save_policy` was given; None without one, as in files of older versions.

    Raises:
        CheckpointError: the file is missing or is no safetensors file.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        about = json.loads(metadata.get(PROVENANCE, "null"))
    except Exception as error:  # safetensors raises errors of its own besides OSError
        raise CheckpointError(f"{path} is no policy file: {error}") from error
    return about if isinstance(about, dict) else None


def load_eyes(path: Path) -> Eyes | None:
    """What a policy sees with, from a file of `save_policy`; None if it reads observations as they are.

    Raises:
        CheckpointError: the file is missing, is no safetensors file, or its encoder is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if name.startswith(ARRAYS)]  # noqa: SIM118 (no mapping)
            arrays = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # safetensors raises errors of its own besides OSError
        raise CheckpointError(f"{path} is no policy file: {error}") from error
    return eyes_of(metadata, arrays)


def load_policy(path: Path) -> PolicyState:
    """Read the policy's own arrays from a file of `save_policy`; `load_eyes` reads those of its encoder.

    Raises:
        CheckpointError: the file is missing, is not a policy, or has a non-finite value.
    """
    try:
        with safe_open(path, framework="np") as file:
            names = {name for name in file.keys() if not name.startswith(ARRAYS)}  # noqa: SIM118 (no mapping)
            _check_names(path, names)  # before gigabytes of a reward model are read
            state = {name: file.get_tensor(name) for name in names}
    except CheckpointError:
        raise
    except Exception as error:  # safetensors raises errors of its own besides OSError
        raise CheckpointError(f"{path} is no policy file: {error}") from error
    broken = [name for name, values in state.items() if not np.isfinite(values).all()]
    if broken:
        raise CheckpointError(f"{path} holds nan or inf in {broken[0]}: its training diverged, train it again")
    return state


def _check_names(path: Path, names: set[str]) -> None:
    """Raise CheckpointError unless these are the names of a policy's arrays."""
    if any("visual." in name or "language_model." in name for name in names):
        raise CheckpointError(f"{path} is a reward model's file, not a policy")
    if not {"actor.mean.weight", "actor.mean.bias", "actor.observation_mean", "actor.observation_std"} <= names:
        raise CheckpointError(f"{path} is a safetensors file, but not a policy")


def policy_sizes(state: Mapping[str, NDArray[np.float32]]) -> tuple[int, int]:
    """Length D of the observations that a policy reads, and A of its actions."""
    return len(state["actor.observation_mean"]), len(state["actor.mean.bias"])
