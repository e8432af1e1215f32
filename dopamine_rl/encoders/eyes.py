"""From an observation with pictures to the vector that a policy reads. The same object in actors, evaluations, films
and on a robot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.encoders.encoder import LEARNED, Encoder, SavedEncoder, TokenEncoder
from dopamine_rl.encoders.loading import restore
from dopamine_rl.encoders.packing import Packing
from dopamine_rl.episodes.scale import squares
from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.types import Demonstration

PROPRIOCEPTION = "proprioception"
"""Key of the joint angles and the like in an observation; every other key names a picture."""
ARRAYS, ABOUT = "encoder.", "eyes"
"""Prefix of an encoder's arrays in a policy's file, and the key of its metadata."""

BATCH = 64
"""Images that are encoded at once."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a policy sees.

    Args:
        proprioception: length of that vector.
        views: names of the pictures, in the order of their features.
        height, width: of each, pixels.
    """

    proprioception: int
    views: tuple[str, ...]
    height: int
    width: int

    @classmethod
    def of(cls, demonstration: Demonstration, views: tuple[str, ...]) -> Sight:
        """What a policy sees that learns from a demonstration whose observations are proprioception."""
        height, width = demonstration.frames.shape[2:4]
        return cls(demonstration.observations.shape[1], views, height, width)


@dataclass(frozen=True, eq=False)
class Eyes:
    """An encoder and what it looks at.

    Args:
        sight: what the policy sees.
        saved: the encoder's content.
    """

    sight: Sight
    saved: SavedEncoder

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder. Raises CheckpointError as `restore`."""
        return restore(self.saved)

    @cached_property
    def size(self) -> int:
        """Length D of the vector."""
        return self.sight.proprioception + len(self.sight.views) * self.encoder.size

    @property
    def learned(self) -> bool:
        """Whether the encoder is learned with the policy: then its learner is given pictures."""
        return self.saved.kind == LEARNED

    @property
    def packing(self) -> Packing:
        """How a replay buffer keeps what the policy sees."""
        sight = self.sight
        if not self.learned:
            return Packing(sight.proprioception, len(sight.views) * self.encoder.size, "float16")
        side = self.saved.settings["side"]
        return Packing(sight.proprioception, len(sight.views) * side * side * 3, "uint8")

    def given(self, proprioception: NDArray[Any], pictures: NDArray[np.uint8]) -> NDArray[Any]:
        """What a learner is given of T instants: `vectors`, or with a learned encoder pictures, packed uint8 [T, N].

        Args and Raises: as `vectors`.
        """
        if not self.learned:
            return self.vectors(proprioception, pictures)
        images = squares(self._images(proprioception, pictures), self.saved.settings["side"])
        return self.packing.pack(proprioception, images.reshape(len(proprioception), -1))

    def vector(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """What the policy reads, float32 [D]: proprioception, then the features of each view.

        Args:
            observation: proprioception float32 [P], and each view uint8 [H, W, 3].
        Raises:
            BadInput: a view is missing, or something has another shape.
        """
        return self.vectors(*self._instant(observation))[0]

    def given_now(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """`given` of one observation; arguments as of `vector`."""
        return self.given(*self._instant(observation))[0]

    def _instant(self, observation: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Proprioception [1, P] and pictures [1, V, H, W, 3] of an observation. Raises BadInput as `vector`."""
        missing = [name for name in (PROPRIOCEPTION, *self.sight.views) if name not in observation]
        if missing:
            raise BadInput("observation", sorted(observation), f"give {missing[0]} too: the policy was trained with it")
        pictures = [np.asarray(observation[name]) for name in self.sight.views]
        return observation[PROPRIOCEPTION][None], np.stack(pictures)[None]

    def look(
        self, observation: Mapping[str, NDArray[Any]], others: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """`vector`, and the tokens behind it; all pictures are encoded together.

        Args:
            others: uint8 [M, H, W, 3], pictures that the policy does not see but whose tokens are wanted.
        Returns:
            The vector, and tokens float32 [V + M, N, D]; None if the encoder is no reward model's tower.
        """
        proprioception, pictures = self._instant(observation)
        if not isinstance(self.encoder, TokenEncoder):
            return self.vectors(proprioception, pictures)[0], None
        images = self._images(proprioception, pictures)
        features, tokens = self.encoder.look(np.concatenate((images, others)))
        return _joined(proprioception, features[: len(self.sight.views)])[0], tokens

    def vectors(self, proprioception: NDArray[Any], pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`vector` of T instants, float32 [T, D].

        Args:
            proprioception: float32 [T, P].
            pictures: uint8 [T, V, H, W, 3], in the order of the sight's views.
        Raises:
            BadInput: something has another shape.
        """
        images = self._images(proprioception, pictures)
        parts = [self.encoder.encode(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return _joined(proprioception, np.concatenate(parts))

    def _images(self, proprioception: NDArray[Any], pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pictures of all instants and views, uint8 [M, H, W, 3]. Raises BadInput as `vectors`."""
        sight = self.sight
        shape = (len(proprioception), len(sight.views), sight.height, sight.width, 3)
        if pictures.shape != shape or pictures.dtype != np.uint8:
            raise BadInput("pictures", (pictures.shape, str(pictures.dtype)), f"give uint8 {list(shape)}")
        if proprioception.shape[1:] != (sight.proprioception,):
            raise BadInput(PROPRIOCEPTION, proprioception.shape, f"give {sight.proprioception} numbers an instant")
        return pictures.reshape(-1, *shape[2:])

    def metadata(self) -> dict[str, str]:
        """The text that a policy's file holds beside `arrays`."""
        saved = self.saved
        about = {"kind": saved.kind, "settings": saved.settings, "version": saved.version}
        return {ABOUT: json.dumps({"sight": asdict(self.sight), **about})}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The encoder's weights, by their names in a policy's file."""
        # safetensors writes memory as it lies, so that channels last would come back in another order.
        return {ARRAYS + name: np.ascontiguousarray(values) for name, values in self.saved.arrays.items()}


def _joined(proprioception: NDArray[Any], features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors float32 [T, D] of proprioception [T, P] and the features [T · V, F] of the views."""
    # Half precision, so that storing features as float16 loses nothing.
    rounded = features.astype(np.float16).astype(np.float32).reshape(len(proprioception), -1)
    return np.concatenate((np.asarray(proprioception, np.float32), rounded), axis=1)


def eyes_of(metadata: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> Eyes | None:
    """The eyes in the content of a policy's file; None if the policy reads the observation as it is.

    Raises:
        CheckpointError: the encoder is damaged.
    """
    if ABOUT not in metadata:
        return None
    try:
        about = json.loads(metadata[ABOUT])
        sight = about["sight"]
        weights = {name.removeprefix(ARRAYS): values for name, values in arrays.items() if name.startswith(ARRAYS)}
        saved = SavedEncoder(about["kind"], about["settings"], weights)
        seen = Sight(sight["proprioception"], tuple(sight["views"]), sight["height"], sight["width"])
        eyes = Eyes(seen, saved)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the policy's encoder cannot be read ({error}): train the policy again") from error
    if saved.version != about["version"]:
        raise CheckpointError(
            f"the policy's encoder is damaged: it has version {saved.version}, not {about['version']}"
        )
    return eyes
