"""Which models a service answers with: the record that says so, and a replica's shelf that follows it. No Ray.

A new model is staged first: every replica loads it beside those it has. Only when all hold it does it become current, so
there is no moment in which a version is promised that some replica cannot answer with. Older models stay for the episodes
that began with them.
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
"""Older models that stay, where nobody says otherwise."""


@dataclass(frozen=True)
class Release:
    """One model of a service.

    Args:
        number: counts up; the same folder with new content is another release.
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
        releases: the current one first, then those that running episodes began with.
        staged: being loaded, not yet answered with.
    """

    releases: tuple[Release, ...]
    staged: Release | None = None

    @property
    def wanted(self) -> tuple[Release, ...]:
        """What every replica should hold."""
        return self.releases if self.staged is None else (*self.releases, self.staged)

    def stage(self, folder: str) -> Ledger:
        """The same with a model to load; one that was staged before gives way."""
        return replace(self, staged=Release(1 + max(release.number for release in self.wanted), folder))

    def withdraw(self) -> Ledger:
        """The same without the staged model."""
        return replace(self, staged=None)

    def promote(self, version: str, keep: int) -> Ledger:
        """The staged model becomes current; of the others the youngest `keep` stay."""
        if self.staged is None:
            raise ValueError("nothing is staged")
        older = [release for release in self.releases if release.version != version]
        return Ledger((replace(self.staged, version=version), *older[:keep]))

    def to_json(self) -> bytes:
        """The record's bytes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Ledger:
        """Read the record's bytes."""
        values = json.loads(data)
        staged = values["staged"]
        return cls(tuple(Release(**one) for one in values["releases"]), None if staged is None else Release(**staged))


@dataclass
class LoadedModels:
    """The models that a replica holds.

    Args:
        load: makes a scorer, ready to answer, of a checkpoint folder.
        refused: why a release could not be loaded, by its number.
    """

    load: Callable[[str], ProgressScorer]
    refused: dict[int, str] = field(default_factory=dict)
    _scorers: dict[int, ProgressScorer] = field(default_factory=dict)

    def follow(self, ledger: Ledger) -> dict[int, ProgressScorer]:
        """Load what is new and let go of what is not wanted any more; each release is tried once.

        Returns:
            The scorers by release number, in the order of `ledger.wanted`, without those that were refused.
        """
        for release in ledger.wanted:
            if release.number not in self._scorers and release.number not in self.refused:
                try:
                    self._scorers[release.number] = self._checked(release)
                except Exception as error:  # Whatever is wrong with a model, those that answer must go on.
                    logger.warning("Model %s cannot be used: %s", release.folder, error)
                    self.refused[release.number] = f"{type(error).__name__}: {error}"
        wanted = [release.number for release in ledger.wanted]
        self.refused = {number: why for number, why in self.refused.items() if number in wanted}
        self._scorers = {number: self._scorers[number] for number in wanted if number in self._scorers}
        return dict(self._scorers)

    def _checked(self, release: Release) -> ProgressScorer:
        scorer = self.load(release.folder)
        if release.version not in (None, scorer.model_version):
            raise CheckpointError(f"{release.folder} held {release.version} and holds {scorer.model_version} now")
        return scorer
