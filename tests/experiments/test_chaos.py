"""Chaos: the verdict sees what is lost, doubled or wrong; and a service that is really broken loses nothing."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from actors.labeller import Labeller, LabellerConfig
from experiments.chaos.clients import judge
from experiments.chaos.service_faults import FAULTS, schedule
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.experiments.test_peg_insert import ROOT, environment
from tests.fakes import FakeEngine, frame, make_request, sometimes

FRAMES = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two episodes of one client: one version each, some frames unreadable."""
    for number, version in enumerate(("v1", "v2")):
        labeller = Labeller(
            LabellerConfig("grm", 0.99, 1, records_dir=tmp_path / "records"), LocalRewardClient(_scorer(version))
        )
        episode = f"a-{number}"
        labeller.begin(episode, make_request(episode_id=episode).context)
        for time in range(1, FRAMES + 1):
            labeller.observe(episode, time, frame(time / 10))
        labeller.collect(episode, 0, np.zeros(FRAMES, np.float32), False)
        record = labeller.finish(episode)
        assert record is not None
        record.save(tmp_path / "records")
    (tmp_path / "a.journal").write_text("".join(f"a-{n} {t}\n" for n in range(2) for t in range(1, FRAMES + 1)))
    return tmp_path


def _scorer(version: str) -> Scorer:
    return Scorer(FakeEngine(version, sometimes(0.2)))


def _scorers() -> dict[str, Scorer]:
    return {version: _scorer(version) for version in ("v1", "v2")}


def test_frames_with_one_outcome_and_the_right_progress_are_fine(folder: Path) -> None:
    verdict = judge(folder, [], _scorers())
    assert (verdict.lost, verdict.doubled, verdict.wrong_version) == (0, 0, 0)
    assert verdict.outcomes.total() == 2 * FRAMES
    assert verdict.outcomes["answered"] > FRAMES
    assert verdict.versions == {"v1": 1, "v2": 1}


def test_frames_without_an_outcome_are_lost_unless_their_client_was_killed(folder: Path) -> None:
    with (folder / "a.journal").open("a") as journal:
        journal.write("a-2 1\na-2 2\na-2")  # The last line was being written when the client died.
    assert judge(folder, [], _scorers()).lost == 2
    killed = judge(folder, ["a"], _scorers())
    assert (killed.lost, killed.outcomes["abandoned"]) == (0, 2)


def test_frames_that_were_asked_for_twice_are_doubled(folder: Path) -> None:
    with (folder / "a.journal").open("a") as journal:
        journal.write("a-0 1\n")
    assert judge(folder, [], _scorers()).doubled == 1


def test_progress_of_another_model_than_the_named_one_is_wrong(folder: Path) -> None:
    class Other(FakeEngine):
        def estimate(self, images, prompts):
            return super().estimate([255 - image for image in images], prompts)

    scorers = {"v1": Scorer(Other("v1")), "v2": _scorer("v2")}
    assert judge(folder, [], scorers).wrong_version > 0


@pytest.mark.parametrize("seed", range(3))
def test_every_kind_of_fault_comes_as_often_as_any_other(seed: int) -> None:
    faults = schedule(3 * len(FAULTS), np.random.default_rng(seed))
    assert set(Counter(faults).values()) == {3}
    assert len(schedule(20, np.random.default_rng(seed))) == 20


@pytest.mark.ray
@pytest.mark.long
def test_a_service_that_is_broken_in_nine_ways_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.cli", "chaos", "reward-service", "--faults", "9"]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["faults"] == 9
    assert {figures[name] for name in ("lost", "doubled", "wrong_version", "unrecovered")} == {0}
    assert figures["asked"] == sum(figures[name] for name in ("answered", "invalid", "late", "rejected", "abandoned"))
    assert figures["answered"] > 0.8 * figures["asked"]
    assert len(figures["recovery"]) == len(FAULTS)
