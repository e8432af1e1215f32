"""The ledger of a service's models, and the models that a replica has loaded. No Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward_service.releases import Ledger, LoadedModels, Release
from reward_service.scorer import Scorer
from tests.fakes import engine_from_folder, write_checkpoint

FIRST = Ledger((Release(1, "/a", "v1"),))


def test_a_staged_model_becomes_current_and_the_youngest_older_ones_stay() -> None:
    second = FIRST.stage("/b").promote("v2", keep=1)
    assert second == Ledger((Release(2, "/b", "v2"), Release(1, "/a", "v1")))
    third = second.stage("/c").promote("v3", keep=1)
    assert [release.version for release in third.releases] == ["v3", "v2"]
    assert second.stage("/c").promote("v3", keep=0).releases == (Release(3, "/c", "v3"),)


def test_going_back_to_an_older_model_leaves_it_once() -> None:
    back = FIRST.stage("/b").promote("v2", keep=1).stage("/a").promote("v1", keep=1)
    assert [(release.number, release.version) for release in back.releases] == [(3, "v1"), (2, "v2")]


def test_a_withdrawn_model_leaves_nothing_and_a_number_is_never_used_twice_at_a_time() -> None:
    staged = FIRST.stage("/b")
    assert staged.withdraw() == FIRST
    assert [release.number for release in staged.stage("/c").wanted] == [1, 3]
    with pytest.raises(ValueError, match="staged"):
        FIRST.promote("v2", keep=1)


@pytest.mark.parametrize("ledger", [FIRST, FIRST.stage("/b"), Ledger((Release(1, "/a"),))])
def test_the_record_can_be_read_again(ledger: Ledger) -> None:
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_a_replica_loads_what_is_new_once_and_lets_go_of_the_rest(tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(folder: str) -> Scorer:
        loaded.append(Path(folder).name)
        return Scorer(engine_from_folder(Path(folder), 1))

    models = LoadedModels(load)
    one, two = (str(write_checkpoint(tmp_path / name, name)) for name in ("v1", "v2"))
    ledger = Ledger((Release(1, one),)).stage(two)
    for _ in range(2):
        held = models.update(ledger)
        assert {number: scorer.model_version for number, scorer in held.items()} == {1: "v1", 2: "v2"}
    assert list(models.update(ledger.promote("v2", keep=0))) == [2]
    assert loaded == ["v1", "v2"]


def test_a_model_that_cannot_be_used_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    models = LoadedModels(lambda folder: Scorer(engine_from_folder(Path(folder), 1)))
    ledger = Ledger((Release(1, str(write_checkpoint(tmp_path / "v1", "v1"))),)).stage(str(tmp_path / "missing"))
    assert list(models.update(ledger)) == [1]
    assert "No such file" in models.refused[2]
    models.update(ledger.withdraw())
    assert not models.refused


def test_a_folder_whose_content_was_exchanged_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "v1")
    models = LoadedModels(lambda name: Scorer(engine_from_folder(Path(name), 1)))
    assert not models.update(Ledger((Release(1, str(folder), "v0"),)))
    assert "held v0 and holds v1 now" in models.refused[1]
