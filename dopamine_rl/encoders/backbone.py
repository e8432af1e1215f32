"""Any vision backbone of transformers as a policy's encoder: ViT, DINOv2, ConvNeXt, ResNet, …"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from dopamine_rl.encoders.encoder import GRID, SavedEncoder
from dopamine_rl.encoders.pooling import as_arrays, as_tensors, pooled
from dopamine_rl.episodes.scale import resize
from dopamine_rl.errors import CheckpointError

VOLATILE = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
"""Settings that do not change what a model computes."""


class BackboneEncoder:
    """A vision backbone: its last hidden state, averaged to GRID × GRID places.

    Args:
        model: the backbone; its weights are not changed any more.
        side: height and width to which images are resized.
        mean, std: of the pixels of each channel, in [0, 1].
    """

    def __init__(self, model: Any, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._model, self._side = model.eval(), side
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
        self.size = self.encode(np.zeros((1, side, side, 3), np.uint8)).shape[1]

    @classmethod
    def load(cls, checkpoint: str | Path) -> BackboneEncoder:
        """That of a checkpoint's folder, or of a hub id in the cache.

        Raises:
            CheckpointError: it cannot be read, or does not take images alone.
        """
        try:
            model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
            processor: Any = AutoImageProcessor.from_pretrained(checkpoint, use_fast=False)
        except Exception as error:  # transformers and safetensors raise errors of their own
            raise CheckpointError(f"{checkpoint} cannot be read ({type(error).__name__}: {error})") from error
        if getattr(model, "main_input_name", "") != "pixel_values":
            raise CheckpointError(f"{checkpoint} does not take images alone: give a vision backbone, such as a ViT")
        mean, std = (tuple(map(float, values)) for values in (processor.image_mean, processor.image_std))
        return cls(model, _side(processor), mean, std)

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Encoder."""
        size = (self._side, self._side)
        if images.shape[1:3] != size:
            images = np.stack([resize(image, size) for image in images])
        pixels = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1).float() / 255.0
        return pooled(_maps(self._model((pixels - self._mean) / self._std).last_hidden_state))

    def saved(self) -> SavedEncoder:
        """See Encoder."""
        config = json.loads(self._model.config.to_json_string(use_diff=False))
        settings = {
            "model": {name: value for name, value in config.items() if name not in VOLATILE},
            "side": self._side,
            "mean": self._mean.flatten().tolist(),
            "std": self._std.flatten().tolist(),
        }
        return SavedEncoder("hf", json.loads(json.dumps(settings)), as_arrays(self._model.state_dict()))

    @classmethod
    def restore(cls, saved: SavedEncoder) -> BackboneEncoder:
        """The encoder that was saved."""
        config = dict(saved.settings["model"])
        model = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
        model.load_state_dict(as_tensors(saved.arrays))
        return cls(model, saved.settings["side"], tuple(saved.settings["mean"]), tuple(saved.settings["std"]))


def _side(processor: Any) -> int:
    """The side of the square images that a checkpoint was trained with."""
    size = dict(getattr(processor, "crop_size", None) or processor.size)
    return int(next(size[name] for name in ("height", "shortest_edge") if size.get(name)))


def _maps(hidden: Tensor) -> Tensor:
    """A last hidden state as maps [M, D, rows, columns]; tokens before the square of patches are left out."""
    if hidden.ndim == 4:
        return hidden
    side = math.isqrt(hidden.shape[1])
    if side < GRID:
        raise CheckpointError(f"the encoder has {hidden.shape[1]} tokens an image: give one with at least {GRID}²")
    return hidden[:, hidden.shape[1] - side * side :].unflatten(1, (side, side)).movedim(-1, 1)
