"""A reward model's vision tower as a policy's encoder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from dopamine_rl.encoders.encoder import GRID, SavedEncoder
from dopamine_rl.encoders.pooling import as_arrays, as_tensors, pooled
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.lora import merged_weights
from dopamine_rl.grm.model import VisionModel
from dopamine_rl.grm.vision import cut_patches, encode_patches, make_tower, picture_grid, picture_size

TOWERS: dict[str, tuple[Any, Any]] = {
    "qwen2_5_vl_vision": (Qwen2_5_VLVisionConfig, Qwen2_5_VisionTransformerPretrainedModel),
    "qwen3_vl_vision": (Qwen3VLVisionConfig, Qwen3VLVisionModel),
}
"""Configuration and module of a tower by its `model_type`."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What of an image processor decides how images are cut and scaled; fields as there."""

    patch_size: int
    merge_size: int
    size: dict[str, int]
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]

    @classmethod
    def of(cls, processor: Any) -> ImageSettings:
        """Those of a checkpoint's image processor."""
        size = {edge: int(processor.size[edge]) for edge in ("shortest_edge", "longest_edge")}
        mean, std = tuple(map(float, processor.image_mean)), tuple(map(float, processor.image_std))
        return cls(int(processor.patch_size), int(processor.merge_size), size, mean, std)


class TowerEncoder:
    """The vision tower of a reward model: an image's tokens, averaged to GRID × GRID places.

    Args:
        vision: the tower; its weights are not changed any more.
    """

    encoded = 0
    """Images that were encoded so far."""

    def __init__(self, vision: VisionModel) -> None:
        self._vision = vision
        self._tower = make_tower(vision)
        self._grid = lru_cache(8)(partial(picture_grid, vision))
        self._width = int(vision.visual.config.out_hidden_size)
        self.size = GRID * GRID * self._width

    @classmethod
    def load(cls, checkpoint: str | Path) -> TowerEncoder:
        """That of a reward model's folder. Raises CheckpointError as `load_grm`."""
        return cls(load_grm(checkpoint).vision)

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Encoder."""
        return self.look(images)[0]

    @torch.inference_mode()
    def look(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See TokenEncoder."""
        patches, rows, columns = cut_patches(self._vision, images)
        tokens = encode_patches(self._tower, patches, self._grid(rows, columns)).float()
        self.encoded += len(images)
        merge = self._vision.image_processor.merge_size
        maps = tokens[..., : self._width].unflatten(1, (rows // merge, columns // merge)).movedim(-1, 1)
        return pooled(maps), tokens.cpu().numpy()

    def token_shape(self, height: int, width: int) -> tuple[int, int]:
        """N and D of the tokens of an image of that size. Raises BadInput if it is too narrow."""
        side = self._vision.image_processor.patch_size * self._vision.image_processor.merge_size
        rows, columns = (length // side for length in picture_size(self._vision.image_processor, height, width))
        return rows * columns, (1 + len(self._tower.taps)) * self._width

    def saved(self) -> SavedEncoder:
        """See Encoder."""
        visual = self._vision.visual
        images = ImageSettings.of(self._vision.image_processor)
        settings = {"tower": json.loads(visual.config.to_json_string(use_diff=False)), "images": asdict(images)}
        settings["tower"].pop("transformers_version", None)
        return SavedEncoder("grm", json.loads(json.dumps(settings)), as_arrays(merged_weights(visual)))

    @classmethod
    def restore(cls, saved: SavedEncoder) -> TowerEncoder:
        """The encoder that was saved."""
        make_config, make_visual = TOWERS[saved.settings["tower"]["model_type"]]
        visual = make_visual(make_config(**saved.settings["tower"]))
        visual.load_state_dict(as_tensors(saved.arrays))
        return cls(VisionModel(visual.eval(), ImageSettings(**saved.settings["images"])))
