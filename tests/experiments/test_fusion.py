"""Weighted fusion and the ablation table: equal trust is the mean, better trust less error, nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dopamine_rl.calibration import ErrorMap
from dopamine_rl.evaluation import variants as grm_figures
from dopamine_rl.evaluation.answers import EpisodeHops
from dopamine_rl.evaluation.variants import Variant, variants
from dopamine_rl.evaluation.weighted_fusion import DOUBTS, ErrorMaps, Weighted
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import FusionConfig, HopEstimates
from experiments.benchmarks import fusion
from experiments.reports import fusion as reports
from experiments.reports.fusion import MEAN
from experiments.runtime import reward_client as score_client
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.experiments.test_grm_eval import expert_curve, recorded, write_all
from tests.fakes import FakeEngine, seen

FLAT = ErrorMap(np.array([0.0]), np.array([0.1]))
RISING = ErrorMap(np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def answers(forward: Sequence[float], backward: Sequence[float], entropy: float = 0.5) -> EpisodeHops:
    """Incremental hops of 0, and what the anchored perspectives see; NaN is an answer that cannot be read."""
    hops = np.array([[0.0, f, b - 1.0] for f, b in zip(forward, backward, strict=True)], np.float32)
    valid = np.isfinite(hops).all(axis=1)
    hops[~valid] = np.nan
    gain, loss = np.maximum(hops, 0.0), np.maximum(-hops, 0.0)
    return EpisodeHops(np.arange(len(hops) + 1), gain, loss, np.full_like(hops, entropy), valid, gain[:, 0])


def test_equal_trust_is_the_mean() -> None:
    maps = ErrorMaps((FLAT,) * 3, (FLAT,) * 3)
    said = answers([0.2, np.nan, 0.5, 0.9], [0.1, 0.4, 0.6, 1.0])
    wanted, _ = Variant(FusionConfig()).curve(said)
    for doubt in DOUBTS:
        curve, folded = Weighted(maps, doubt).curve(said)
        assert curve == pytest.approx(wanted, abs=1e-6)
        assert curve[2] == curve[1]
        assert folded.perspectives[1] == pytest.approx(folded.perspectives[0])


def test_a_perspective_that_is_sure_decides() -> None:
    said = answers([0.3], [0.8])
    said.entropy[0] = [1.0, 0.0, 1.0]
    curve, _ = Weighted(ErrorMaps((RISING,) * 3, (FLAT,) * 3), "entropy").curve(said)
    assert curve[-1] == pytest.approx(0.3, abs=0.001)
    # The gap of 0.5 makes the anchored perspectives doubtful, not the incremental one, which says that nothing moved.
    curve, _ = Weighted(ErrorMaps((FLAT,) * 3, (FLAT, RISING, RISING)), "disagreement").curve(said)
    assert curve[-1] == pytest.approx((0.3 + 0.8) / (1.0 + 1.0 + 25.0), abs=0.001)


class Doubting(FakeEngine):
    """Sees progress by `stretch` too much, and says how sure it is of a question with a blank front picture."""

    def __init__(self, version: str, stretch: float) -> None:
        super().__init__(version)
        self._stretch = stretch

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        told = super().estimate(images, prompts)
        gaps = [abs(seen(images[p.after[0]]) - seen(images[p.before[0]])) for p in prompts]
        gain = np.clip(told.gain * self._stretch, 0.0, 1.0)
        return HopEstimates(gain, told.loss, np.array(gaps, np.float32) + 0.1, told.reasons)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    stalled = np.minimum(np.linspace(0, 1.2, 12), 0.6).tolist()
    jammed = np.minimum(np.linspace(0, 0.9, 12), 0.3).tolist()
    episodes = [
        *(recorded(f"expert_{count}", expert_curve(count).tolist(), True) for count in (10, 12, 14)),
        recorded("stall_1", stalled, False),
        recorded("jam_1", jammed, False, near_miss=True),
    ]
    return {name: write_all(tmp_path / name, *episodes) for name in ("plain", "light", "held_in")}


def test_the_table_says_what_models_and_looks_do_to_every_rule(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = {"before": Doubting("fake-1", 0.8), "after": Doubting("fake-2", 1.0)}
    monkeypatch.setattr(grm_figures, "RESAMPLES", 20)
    monkeypatch.setattr(fusion, "usable_model", lambda path, field: path)  # the engines below stand in for folders
    monkeypatch.setattr(
        score_client, "embedded_client", lambda model, *_: LocalRewardClient(Scorer(engines[model.name]))
    )
    words = [
        *(str(data[name]) for name in ("plain", "light")),
        *("--model", str(tmp_path / "x" / "before"), "--model", f"adapted={tmp_path / 'after'}"),
        *("--held-in", str(data["held_in"]), "--demo", str(data["held_in"] / "expert_10")),
        *("--out", str(tmp_path / "out")),
    ]
    fusion.main(words)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["models"] == {"x": "fake-1", "adapted": "fake-2"}
    assert list(last["mae"]) == ["plain", "light"]
    rules = {*variants(), *(f"weighted by {doubt}" for doubt in DOUBTS), "front view alone", "wrist view alone"}
    assert set(last["mae"]["light"]["adapted"]) == rules
    assert last["mae"]["plain"]["adapted"][MEAN]["value"] < last["mae"]["plain"]["x"][MEAN]["value"]
    content: dict[str, Any] = json.loads((tmp_path / "out" / "fusion.json").read_text())
    assert content["minus_first_model"]["light"]["adapted"]["mae"]["high"] < 0
    assert content["figures"]["plain"]["x"]["alarm"] is None
    assert content["figures"]["light"]["x"]["alarm"]["entropy"]["value"] == pytest.approx(0.5)
    assert len(content["maps"]["x"]["entropy"]) == 3
    assert "## plain: 3 successes, 2 failures (1 near miss)" in (tmp_path / "out" / "fusion.md").read_text()
    calls = [len(engine.calls) for engine in engines.values()]

    class Asked(Exception):
        pass

    def compared(*_: object) -> None:
        raise Asked

    monkeypatch.setattr(reports, "compare", compared)
    with pytest.raises(Asked):
        fusion.main(words)
    assert [len(engine.calls) for engine in engines.values()] == calls


def test_models_of_one_name_are_refused(data: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fusion.main([str(data["plain"]), "--model", "a/grm", "--model", "a/other", "--held-in", "x", "--demo", "y"])
    assert ended.value.code == 1
    assert "NAME=PATH" in capsys.readouterr().err
