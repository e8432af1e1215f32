"""Frames that an actor has encoded: sent as tokens where the service can use them, else as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.labeller import Labeller, LabellerConfig
from actors.rescoring import audit
from dopamine_rl.errors import BadInput
from dopamine_rl.types import EpisodeContext, ScoreReply, ScoreRequest
from reward_service.local import BackgroundRewardClient, LocalPendingScore, LocalRewardClient
from reward_service.scorer import Scorer
from tests.fakes import FakeEngine, frame, picture, tokens
from tests.waiting import wait_until


class Refused:
    """What an older service says to a frame without pictures."""

    retries = 0

    def ready(self) -> bool:
        return True

    def result(self, timeout_s: float) -> ScoreReply:
        raise BadInput("previous", (0, 8, 8, 3), "give the same views as init")


class Recording(LocalRewardClient):
    """Keeps the requests; as a client of an older service it knows no tokens."""

    def __init__(self, engine: FakeEngine, older: bool = False) -> None:
        super().__init__(Scorer(engine))
        self.requests: list[ScoreRequest] = []
        self._older = older

    def submit(self, request: ScoreRequest) -> LocalPendingScore:
        self.requests.append(request)
        return Refused() if self._older and request.towers else super().submit(request)  # type: ignore[return-value]

    @property
    def encoded(self) -> list[bool]:
        """Whether each request had tokens."""
        return [request.frame_tokens is not None for request in self.requests]


def labelled(client: LocalRewardClient, folder: Path | None = None, tower: str = "a", together: bool = False):
    """Label an episode whose actor encodes with tower `tower`; returns its labeller, labels and record."""
    labeller = Labeller(LabellerConfig("grm", 0.9, 2, deadline_s=60.0, records_dir=folder), client)
    context = EpisodeContext("episode", "insert", picture(0.0), picture(1.0), frame(0.0), frame(1.0))
    labeller.begin("episode", context)
    for time in (2, 4, 6):
        labeller.observe("episode", time, frame(time / 10), not together, tokens(time / 10, tower))
    labels = labeller.collect("episode", 0, np.zeros(6, np.float32), False)
    return labeller, labels, labeller.finish("episode")


def test_tokens_are_sent_and_pictures_are_kept(tmp_path: Path) -> None:
    client = Recording(FakeEngine(tower="a"))
    labeller, (rewards, _), record = labelled(client, tmp_path)
    assert client.encoded == [True, True, True]
    assert [request.previous_tokens is not None for request in client.requests] == [False, True, True]  # INIT is kept
    assert all(request.frames.nbytes == 0 for request in client.requests)
    assert (labeller.counts.answered, labeller.counts.retried) == (3, 0)
    alone = Recording(FakeEngine())
    np.testing.assert_allclose(rewards, labelled(alone)[1][0], atol=1e-6)
    assert record is not None
    assert np.array_equal(record.frames[1].views, frame(0.4))
    assert audit([record], Scorer(FakeEngine()), "fake-1")["max_abs_difference"] < 1e-6


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("older", [False, True])
def test_where_tokens_are_refused_pictures_are_sent_and_no_label_is_lost(older: bool, together: bool) -> None:
    client = Recording(FakeEngine(tower="b"), older)
    labeller, (rewards, columns), _ = labelled(client, together=together)
    assert labeller.counts.answered == labeller.counts.asked == 3
    assert columns.valid.all()
    np.testing.assert_array_equal(rewards, labelled(Recording(FakeEngine()))[1][0])
    count = len(client.requests)
    labeller.begin("next", EpisodeContext("next", "insert", picture(0.0), picture(1.0), frame(0.0), frame(1.0)))
    labeller.observe("next", 2, frame(0.2), True, tokens(0.2, "a"))
    labeller.collect("next", 0, np.zeros(2, np.float32), False)
    assert client.encoded[count:] == [False]  # the refusal is remembered
    labeller.observe("next", 4, frame(0.4), True, tokens(0.4, "b"))
    if not older:
        assert client.encoded[-1]  # for that tower alone


def test_a_refusal_is_found_without_waiting() -> None:
    client = BackgroundRewardClient(Scorer(FakeEngine(tower="b")))
    labeller = Labeller(LabellerConfig("grm", 0.9, 2, deadline_s=60.0), client)
    labeller.begin("e", EpisodeContext("e", "insert", picture(0.0), picture(1.0), frame(0.0), frame(1.0)))
    labeller.observe("e", 2, frame(0.2), True, tokens(0.2, "a"))
    outcomes: list[str] = []
    wait_until(lambda: outcomes.extend(f.outcome for f in labeller.arrived("e")) or outcomes, what="the answer")
    assert outcomes == ["answered"]
    assert labeller.counts.retried == 1
