"""The models of a service: the ledger that lists them, and a replica's loaded models. No Ray.

A new model is staged first: every replica loads it beside its current ones. It becomes current only when all replicas
have loaded it, so no version is announced that some replica cannot serve. Older models stay loaded for the episodes
that started with them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from dopamine_rl.errors import CheckpointError
from dopamine_rl.interfaces import ProgressScorer

logger = logging.getLogger(__name__)

KEEP = 1
"""Default number of older models that stay loaded."""


@dataclass(frozen=True)
class Release:
    """One model of a service.

    Args:
        number: increasing; the same folder with new content is a new release.
        folder: absolute path of the checkpoint, the same on every node.
        version: content name of the weights; None until a replica has loaded them.
    """

    number: int
    folder: str
    version: str | None = None


@dataclass(frozen=True)
class Ledger:
    """The models of a service.

    Args:
        releases: the current one first, then older ones for the running episodes.
        staged: being loaded, not yet served.
    """

    releases: tuple[Release, ...]
    staged: Release | None = None

    @property
    def wanted(self) -> tuple[Release, ...]:
        """The releases that every replica should load."""
        return self.releases if self.staged is None else (*self.releases, self.staged)

    def stage(self, folder: str) -> Ledger:
        """Stage a model; it replaces one that was staged before."""
        return replace(self, staged=Release(1 + max(release.number for release in self.wanted), folder))

    def withdraw(self) -> Ledger:
        """Remove the staged model."""
        return replace(self, staged=None)

    def promote(self, version: str, keep: int) -> Ledger:
        """Make the staged model the current one; the `keep` newest of the others stay."""
        if self.staged is None:
            raise ValueError("nothing is staged")
        older = [release for release in self.releases if release.version != version]
        return Ledger((replace(self.staged, version=version), *older[:keep]))

    def to_json(self) -> bytes:
        """Serialise as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Ledger:
        """Parse the JSON of `to_json`."""
        values = json.loads(data)
        staged, releases = values["staged"], tuple(Release(**release) for release in values["releases"])
        return cls(releases, None if staged is None else Release(**staged))


@dataclass
class LoadedModels:
    """The models that a replica has loaded.

    Args:
        load: makes a ready scorer from a checkpoint folder.
        refused: why a release could not be loaded, by its number.
    """

    load: Callable[[str], ProgressScorer]
    refused: dict[int, str] = field(default_factory=dict)
    _scorers: dict[int, ProgressScorer] = field(default_factory=dict)

    def update(self, ledger: Ledger) -> dict[int, ProgressScorer]:
        """Load new releases and unload those no longer listed. Each release is tried once.

        Returns:
            The scorers by release number, in the order of `ledger.wanted`, without refused releases.
        """
        for release in ledger.wanted:
            if release.number not in self._scorers and release.number not in self.refused:
                try:
                    self._scorers[release.number] = self._load(release)
                except Exception as error:  # A bad model must not disturb the others.
                    logger.warning("Model %s cannot be used: %s", release.folder, error)
                    self.refused[release.number] = f"{type(error).__name__}: {error}"
        wanted = [release.number for release in ledger.wanted]
        self.refused = {number: why for number, why in self.refused.items() if number in wanted}
        self._scorers = {number: self._scorers[number] for number in wanted if number in self._scorers}
        return dict(self._scorers)

    def _load(self, release: Release) -> ProgressScorer:
        scorer = self.load(release.folder)
        if release.version not in (None, scorer.model_version):
            raise CheckpointError(f"{release.folder} held {release.version} and holds {scorer.model_version} now")
        return scorer
