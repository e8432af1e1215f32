"""Encoders: features of an image, weights that travel, and names that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import ConvNextConfig, ConvNextModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from dopamine_rl.encoders.encoder import GRID, Encoder, SavedEncoder
from dopamine_rl.encoders.eyes import PROPRIOCEPTION, Eyes, Sight
from dopamine_rl.encoders.loading import encoder_source, load_encoder, restore
from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.readout import encode_images
from dopamine_rl.policy import load_eyes, load_policy, save_policy

BACKBONES = {
    "vit": (ViTModel, ViTConfig, {"patch_size": 8, "num_attention_heads": 2, "intermediate_size": 32}),
    "dinov2": (Dinov2Model, Dinov2Config, {"patch_size": 8, "num_attention_heads": 2, "mlp_ratio": 2}),
    "convnext": (ConvNextModel, ConvNextConfig, {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
}


def pictures(count: int, side: int = 112) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture(params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder as on the hub, with random weights."""
    from transformers import ViTImageProcessor

    make, config, options = BACKBONES[request.param]
    sizes = {"image_size": 32, "hidden_size": 16, "num_hidden_layers": 1} if request.param != "convnext" else {}
    torch.manual_seed(0)
    make(config(**sizes, **options)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return tmp_path


def same_after_travelling(encoder: Encoder) -> None:
    images = pictures(3)
    again = restore(encoder.saved())
    assert encoder.saved().version == again.saved().version
    assert np.array_equal(encoder.encode(images), again.encode(images))
    assert encoder.encode(images).shape == (3, encoder.size)


def test_the_tower_of_a_reward_model_gives_its_tokens() -> None:
    encoder, images = load_encoder("grm:grm-mini"), pictures(2)
    tokens = encode_images(load_grm("grm-mini"), images).tokens
    assert tokens.shape[1] == GRID * GRID
    assert np.array_equal(encoder.encode(images), tokens.detach().numpy().reshape(2, -1))
    same_after_travelling(encoder)


def test_a_learned_encoder_travels_with_the_size_of_its_pictures() -> None:
    encoder = load_encoder("cnn:40", seed=1)
    same_after_travelling(encoder)
    assert encoder.saved().settings == {"side": 40, "towers": 1}
    assert encoder.saved().version == load_encoder("cnn:40", seed=1).saved().version
    assert encoder.saved().version != load_encoder("cnn:40", seed=2).saved().version
    assert np.abs(encoder.encode(pictures(3))).max() < 1.0


def test_any_backbone_of_transformers_can_see(backbone: Path) -> None:
    encoder = load_encoder(f"hf:{backbone}")
    same_after_travelling(encoder)
    changed = pictures(2)
    changed[1, :40, :40] = 0
    before, after = encoder.encode(pictures(2)), encoder.encode(changed)
    assert np.allclose(before[0], after[0], atol=1e-6)
    assert not np.allclose(before[1], after[1], atol=1e-3)


def test_the_runs_own_model_is_named_by_grm_alone() -> None:
    assert encoder_source("grm", "folder") == ("grm", "folder")
    assert encoder_source("grm:other", "folder") == ("grm", "other")
    assert encoder_source("cnn", None) == ("cnn", "64")
    assert encoder_source("cnn:84", "folder") == ("cnn", "84")
    for name in ("cnn:", "cnn:8", "cnn:big", "cnn:1024"):
        with pytest.raises(BadInput, match=r"encoder = .*write cnn or cnn:PIXELS"):
            encoder_source(name, "folder")
    for name in ("hf", "hf:", "grm:", "", "resnet:folder"):
        with pytest.raises(BadInput, match=r"encoder = .*write grm, grm:FOLDER"):
            encoder_source(name, "folder")
    with pytest.raises(BadInput, match="no reward model of its own"):
        encoder_source("grm", None)


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in (f"hf:{tmp_path}", f"grm:{tmp_path}"):
        with pytest.raises(BadInput, match=name):
            load_encoder(name)


def eyes(views: tuple[str, ...] = ("front", "wrist")) -> Eyes:
    return Eyes(Sight(3, views, 112, 112), load_encoder("grm:grm-mini").saved())


def test_a_vector_is_proprioception_and_the_features_of_each_view() -> None:
    seeing, images = eyes(), pictures(2)
    joints = np.array([0.1, 0.2, 0.3], np.float32)
    vector = seeing.vector({PROPRIOCEPTION: joints, "wrist": images[1], "front": images[0], "other": images[1]})
    assert vector.shape == (seeing.size,)
    assert np.array_equal(vector[:3], joints)
    features = seeing.encoder.encode(images)
    assert np.allclose(vector[3:].reshape(2, -1), features, atol=1e-2)
    assert np.array_equal(vector[3:], vector[3:].astype(np.float16).astype(np.float32))
    packed = seeing.packing.packed(vector[None])
    assert packed.shape == (1, seeing.packing.width) == (1, 4 * 3 + 2 * (seeing.size - 3))
    assert np.array_equal(np.append(seeing.packing.proprioception_of(packed), seeing.packing.seen_of(packed)), vector)
    assert np.array_equal(seeing.given(joints[None], images[None])[0], vector)
    many = seeing.vectors(np.stack([joints] * 40), np.stack([images] * 40))
    assert np.allclose(many[-1], vector, atol=1e-2)


def test_what_does_not_fit_the_eyes_is_refused() -> None:
    seeing, images = eyes(), pictures(2)
    joints = np.zeros(3, np.float32)
    with pytest.raises(BadInput, match="give wrist too"):
        seeing.vector({PROPRIOCEPTION: joints, "front": images[0]})
    with pytest.raises(BadInput, match="give uint8"):
        seeing.vector({PROPRIOCEPTION: joints, "front": images[0, :64, :64], "wrist": images[1, :64, :64]})
    with pytest.raises(BadInput, match="3 numbers"):
        seeing.vector({PROPRIOCEPTION: np.zeros(4, np.float32), "front": images[0], "wrist": images[1]})


def test_the_encoder_travels_in_the_policys_file(tmp_path: Path) -> None:
    seeing, path = eyes(), tmp_path / "policy.safetensors"
    sizes = {"mean.weight": (2, 4), "mean.bias": (2,), "observation_mean": (4,), "observation_std": (4,)}
    state = {f"actor.{name}": np.ones(shape, np.float32) for name, shape in sizes.items()}
    save_policy(path, state, {"seed": 1}, seeing)
    found = load_eyes(path)
    assert found is not None
    assert found.sight == seeing.sight
    assert found.saved.version == seeing.saved.version
    assert set(load_policy(path)) == set(state)
    save_policy(path, state)
    assert load_eyes(path) is None


def test_a_learned_encoder_comes_back_from_a_file_as_it_was(tmp_path: Path) -> None:
    """Its weights lie in memory with the channels last, of which safetensors knows nothing."""
    seeing, path = Eyes(Sight(3, ("front",), 112, 112), load_encoder("cnn").saved()), tmp_path / "policy.safetensors"
    state = {f"actor.{name}": np.ones(2, np.float32) for name in ("mean.weight", "mean.bias")}
    state |= {f"actor.observation_{name}": np.ones(2, np.float32) for name in ("mean", "std")}
    save_policy(path, state, eyes=seeing)
    found = load_eyes(path)
    assert found is not None
    assert found.learned
    images = pictures(2)[None].swapaxes(0, 1)
    assert np.array_equal(found.vectors(np.zeros((2, 3)), images), seeing.vectors(np.zeros((2, 3)), images))


def test_a_damaged_encoder_is_refused(tmp_path: Path) -> None:
    seeing, path = eyes(), tmp_path / "policy.safetensors"
    arrays = {name: np.array(values) for name, values in seeing.saved.arrays.items()}
    broken = Eyes(seeing.sight, replace(seeing.saved, arrays=arrays))
    metadata = broken.metadata()
    next(iter(arrays.values())).flat[0] += 1.0
    from dopamine_rl.encoders.eyes import eyes_of

    with pytest.raises(CheckpointError, match="damaged"):
        eyes_of(metadata, broken.arrays())
    with pytest.raises(CheckpointError, match="cannot be read"):
        eyes_of({"eyes": "{}"}, {})
    with pytest.raises(CheckpointError, match="of kind resnet"):
        restore(SavedEncoder("resnet", {}, {}))
    assert not path.exists()
