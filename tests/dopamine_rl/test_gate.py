"""The gate accepts a model that sees progress and refuses those that deserve no trust, each for its own reason."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, ScoringTimeout
from dopamine_rl.evaluation.figures import curve_row
from dopamine_rl.evaluation.gate import (
    TOGETHER,
    GateReport,
    JudgedEpisode,
    Source,
    decide,
    judge,
    report,
    with_probe,
)
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.probe import probe_figures
from dopamine_rl.grm.config import BatchPlan, Control, TrainConfig
from dopamine_rl.interfaces import PendingScore, Prompt
from dopamine_rl.types import Demonstration, FusionConfig, HopEstimates, ScoreReply, ScoreRequest, TaskReference
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.dopamine_rl.grm_toys import TINY, make_trainer, moving_square
from tests.fakes import FakeEngine, frame, picture

STRIDE = 4
GOOD = GateReport(
    voc_plus=0.99,
    voc_minus=0.99,
    kendall=0.95,
    progress_mae=0.03,
    false_success=0.02,
    auc=1.0,
    success_end=0.97,
    failure_end=0.3,
    near_misses=20,
    near_miss_false_success=0.05,
    invalid=0,
    successes=40,
    failures=80,
    cut_off=0,
    stride=STRIDE,
)


def episode(curve: Sequence[float], success: bool, near_miss: bool | None = False) -> Demonstration:
    """Pictures that show a progress."""
    count, steps = len(curve), STRIDE * (len(curve) - 1)
    return Demonstration(
        episode_id=f"{'success' if success else 'failure'}_{curve[-1]:.3f}",
        instructions=("insert the peg",),
        frames=np.stack([frame(progress) for progress in curve]),
        frame_steps=np.arange(count) * STRIDE,
        keyframes=np.array([0, count - 1]),
        stages=("insert",),
        observations=np.zeros((steps + 1, 30), np.float32),
        actions=np.zeros((steps, 6), np.float32),
        task_rewards=np.zeros(steps, np.float32),
        terminated=success,
        success=success,
        seed=0,
        near_miss=near_miss,
    )


def success(count: int = 12) -> Demonstration:
    return episode(np.linspace(0.0, 1.0, count).tolist(), True)


def failure(end: float = 0.4, near_miss: bool | None = False, count: int = 12) -> Demonstration:
    return episode(np.linspace(0.0, end, count).tolist(), False, near_miss)


REFERENCE = TaskReference("insert the peg", picture(0.0), picture(1.0), frame(1.0))


class AlwaysForward(FakeEngine):
    """Answers every question with a hop of +0.2."""

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        n = len(prompts)
        return HopEstimates(
            np.full(n, 0.2, np.float32), np.zeros(n, np.float32), np.full(n, np.nan, np.float32), ("",) * n
        )


def judged(
    demonstrations: Sequence[Demonstration], engine: FakeEngine | None = None, sources: Sequence[Source] | None = None
) -> list[JudgedEpisode]:
    client = LocalRewardClient(Scorer(engine or FakeEngine()))
    return judge(client, demonstrations, REFERENCE, FusionConfig(), sources=sources)


def test_a_model_that_sees_progress_is_accepted() -> None:
    figures = report(judged([success(), success(16), failure(), failure(0.6)]), 0.8, STRIDE)
    assert (figures.voc_plus, figures.voc_minus, figures.kendall) == pytest.approx((1.0, 1.0, 1.0))
    assert figures.progress_mae < 0.01
    assert (figures.auc, figures.false_success, figures.invalid) == (1.0, 0.0, 0)
    assert figures.success_end == pytest.approx(1.0, abs=0.01)
    assert figures.failure_end == pytest.approx(0.5, abs=0.01)
    assert (figures.successes, figures.failures, figures.stride) == (2, 2, STRIDE)
    assert decide(figures, GateConfig()).passed
    assert json.loads(json.dumps(asdict(figures), allow_nan=False)) == asdict(figures)


def test_a_model_that_always_says_forward_is_refused_for_the_reversed_episode() -> None:
    figures = report(judged([success(), success(), failure(), failure()], AlwaysForward()), 0.8, STRIDE)
    assert figures.voc_plus == pytest.approx(1.0)
    assert figures.voc_minus == 0.0
    verdict = decide(figures, GateConfig())
    assert not verdict.passed
    assert "voc_plus" not in [check.name for check in verdict.failed]
    assert {"voc_minus", "auc", "progress_mae"} <= {check.name for check in verdict.failed}
    # However loose the other bounds are, that one figure suffices.
    loose = GateConfig(auc=0.0, progress_mae=1.0, false_success=1.0)
    assert [check.name for check in decide(figures, loose).failed] == ["voc_minus"]


def test_a_model_whose_answers_cannot_be_read_is_refused() -> None:
    engine = FakeEngine(unreadable=lambda before, after: True)
    figures = report(judged([success(), failure()], engine), 0.8, STRIDE)
    assert figures.invalid == 22
    verdict = decide(figures, GateConfig())
    assert {"voc_plus", "voc_minus", "auc"} <= {check.name for check in verdict.failed}
    assert "22 frames went without a value" in verdict.table()


def test_a_policy_tells_how_episodes_end_but_not_how_progress_goes() -> None:
    """Only its ends are keyframes, so an honest model must not be blamed for a true progress that nobody knows."""
    late = [0.0] * 10 + [0.5, 1.0]
    demonstrations = [success(), failure(), episode(late, True), episode([0.0, 0.9, 0.9], False)]
    sources: list[Source] = ["expert", "failure", "policy", "policy"]
    alone = report(judged(demonstrations[:2]), 0.8, STRIDE)
    figures = report(judged(demonstrations, sources=sources), 0.8, STRIDE)
    for name in ("voc_plus", "voc_minus", "kendall", "progress_mae"):
        assert getattr(figures, name) == getattr(alone, name)
    assert (figures.successes, figures.failures) == (2, 2)
    assert figures.false_success == 0.5
    blamed = report(judged(demonstrations), 0.8, STRIDE)
    assert blamed.progress_mae > figures.progress_mae + 0.1


def test_an_experts_failure_and_a_failed_failure_count_by_how_they_ended() -> None:
    demonstrations = [success(), failure(0.3), success(), failure(0.9)]
    figures = report(judged(demonstrations, sources=["expert", "failure", "failure", "expert"]), 0.8, STRIDE)
    assert (figures.successes, figures.failures, figures.false_success) == (2, 2, 0.5)
    assert figures.progress_mae < 0.01


def test_near_misses_are_those_the_actor_recorded_or_where_it_did_not_those_of_the_script() -> None:
    demonstrations = [success(), failure(0.9, True), failure(0.3, True), failure(0.9), failure(0.9, None)]
    figures = report(judged(demonstrations), 0.8, STRIDE)
    assert (figures.near_misses, figures.near_miss_false_success) == (2, 0.5)
    assert figures.false_success == 0.75
    assert "50 % of the 2 near misses" in decide(figures, GateConfig()).table()
    other = replace(failure(0.9, None), episode_id="near_miss_000123")
    solved = replace(success(), episode_id="near_miss_000124", near_miss=True)
    figures = report(judged([success(), failure(), other, solved]), 0.8, STRIDE)
    assert (figures.near_misses, figures.near_miss_false_success) == (1, 1.0)
    none = report(judged([success(), failure()]), 0.8, STRIDE)
    assert (none.near_misses, none.near_miss_false_success) == (0, None)
    assert "jams" in decide(none, GateConfig()).table()


def test_figures_on_fixed_answers_stay_what_they_were() -> None:
    """Episodes of every kind, some longer than a fragment, with answers that cannot be read beside its ends."""
    engine = FakeEngine(unreadable=lambda before, after: 0.2 < before < 0.25 or 0.6 < after < 0.63)
    demonstrations = [success(12), success(20), success(40), success(6), failure(0.9, True, 14), failure(0.3, count=33)]
    late = replace(failure(0.9), true_progress=np.linspace(0.0, 0.9, 12).astype(np.float32))
    episodes = judged([*demonstrations, failure(0.9, None, 9), late], engine)
    found = asdict(report(episodes, 0.8, STRIDE))
    beside = {name: found.pop(name) for name in ("behaviours", "instruction")}
    known = [e for e in episodes if e.demonstration.true_progress is not None]
    errors = [np.abs(e.curve - e.demonstration.true_progress).mean() for e in known]
    assert 0 < len(known) < len(episodes)
    assert found.pop("simulator_mae") == pytest.approx(np.mean(errors))
    assert found == pytest.approx(
        {
            "voc_plus": 0.7992617594031673, "voc_minus": 0.9948786852824193, "kendall": 0.736795365670814,
            "progress_mae": 0.15872244925315804, "false_success": 0.0, "auc": 2 / 3, "success_end": 0.6040000021457672,
            "failure_end": 0.21333333353201547, "near_misses": 1, "near_miss_false_success": 0.0, "invalid": 80,
            "successes": 4, "failures": 3, "cut_off": 1, "stride": STRIDE,
                "failed_end_order": 2 / 3, "probe_rank": None, "probe_trade": None,
            "simulator": None,
        }
    )  # fmt: skip
    assert beside == {"behaviours": {}, "instruction": None}


class Noting(LocalRewardClient):
    """Says how many frames each request has, and which version it wants."""

    def __init__(self) -> None:
        super().__init__(Scorer(FakeEngine()))
        self.requests: list[tuple[int, str | None]] = []

    def submit(self, request: ScoreRequest) -> Any:
        self.requests.append((len(request.frames), request.context.model_version))
        return super().submit(request)


def test_long_episodes_are_asked_about_in_fragments_of_one_version() -> None:
    client = Noting()
    (found,) = judge(client, [success(40)], REFERENCE, FusionConfig())
    assert [frames for frames, _ in client.requests] == [16, 16, 7] * 2
    assert {version for _, version in client.requests} == {client.model_version(1.0)}
    assert found.answers.frame_ids.tolist() == list(range(40))


def test_episodes_that_cannot_be_judged_by_are_refused() -> None:
    for demonstrations in ([success()], [failure()], [success(7), failure()]):
        with pytest.raises(BadInput, match="gate episodes"):
            report(judged(demonstrations), 0.8, STRIDE)
    with pytest.raises(BadInput, match="expert"):
        report(judged([success(), failure()], sources=["policy", "failure"]), 0.8, STRIDE)
    with pytest.raises(BadInput, match="sources"):
        judged([success(), failure()], sources=["expert"])
    with pytest.raises(BadInput, match=r"frames.*no empty axis"):
        judged([success(), replace(failure(), frames=failure().frames[:1])])


class Counting(LocalRewardClient):
    """Counts the requests that are under way."""

    def __init__(self) -> None:
        super().__init__(Scorer(FakeEngine()))
        self.under_way = self.most = 0

    def submit(self, request: ScoreRequest) -> Any:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return Counted(super().submit(request), self)


class Counted:
    retries = 0

    def __init__(self, pending: PendingScore, client: Counting) -> None:
        self._pending, self._client = pending, client

    def result(self, timeout_s: float) -> ScoreReply:
        self._client.under_way -= 1
        return self._pending.result(timeout_s)


def test_many_episodes_are_asked_about_in_bounded_groups_and_told_of() -> None:
    client, told = Counting(), []
    demonstrations = [failure(i / 200, count=3) for i in range(100)]
    found = judge(client, demonstrations, REFERENCE, FusionConfig(), on_progress=lambda text, _: told.append(text))
    assert client.most == 2 * TOGETHER
    assert client.under_way == 0
    counts = [min(100, done) for done in range(TOGETHER, 100 + TOGETHER, TOGETHER)]
    assert told == [f"episodes evaluated: {done} of 100" for done in counts]
    assert [e.demonstration for e in found] == demonstrations
    assert [e.source for e in found] == ["failure"] * 100
    with pytest.raises(ScoringTimeout):
        judge(client, demonstrations, REFERENCE, FusionConfig(), deadline_s=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("control", "expected"),
    [
        pytest.param("none", set(), marks=pytest.mark.long),
        ("untrained", {"progress_mae"}),
        pytest.param("shuffled", {"progress_mae"}, marks=pytest.mark.long),
        ("constant", {"progress_mae", "voc_minus"}),
    ],
)
def test_real_models_are_accepted_or_refused_by_what_they_were_taught(control: Control, expected: set[str]) -> None:
    """The same training four times, shorter for the controls; only the answers differ. A control may fail more."""
    import torch

    from dopamine_rl.grm.model import build_grm
    from dopamine_rl.grm.train import train
    from reward_service.engines.transformers import TransformersEngine

    torch.set_num_threads(1)
    grm = build_grm(replace(TINY, text_width=64, vision_width=64))
    plan = BatchPlan(episodes=2, runs=4)
    # With 240 updates VOC− lies anywhere up to 1, seed by seed; the controls learn nothing however long they take.
    updates = 800 if control == "none" else 240
    config = TrainConfig(budget_s=0, updates=updates, learning_rate=1e-3, plan=plan, control=control)
    train(make_trainer(grm, [moving_square(seed) for seed in range(16)], config))
    unseen = [
        replace(shown, frames=moving_square(100 + seed, shown.success, count=16).frames)
        for seed, shown in enumerate([success(16)] * 5 + [failure(0.5, count=16)] * 5)
    ]
    client = LocalRewardClient(Scorer(TransformersEngine(grm)))
    found = judge(client, unseen, TaskReference.of(unseen[0]), FusionConfig())
    verdict = decide(report(found, 0.8, STRIDE), GateConfig())
    failed = {check.name for check in verdict.failed}
    assert failed >= expected, verdict.table()
    assert verdict.passed == (control == "none"), verdict.table()


def test_good_figures_pass_and_each_bound_can_fail() -> None:
    config = GateConfig()
    assert decide(GOOD, config).passed
    assert "accepted" in decide(GOOD, config).table()
    worse = {"voc_plus": 0.949, "voc_minus": 0.949, "auc": 0.979, "progress_mae": 0.081, "false_success": 0.051}
    for name, value in worse.items():
        assert decide(replace(GOOD, **{name: getattr(config, name)}), config).passed  # the bound itself is good enough
        verdict = decide(replace(GOOD, **{name: value}), config)
        assert not verdict.passed
        assert [check.name for check in verdict.failed] == [name]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["voc_plus", "voc_minus", "auc", "progress_mae", "false_success"])
def test_what_is_no_number_never_passes(name: str, value: float) -> None:
    loosest = GateConfig(voc_plus=-1.0, voc_minus=-1.0, auc=0.0, progress_mae=1.0, false_success=1.0)
    verdict = decide(replace(GOOD, **{name: value}), loosest)
    assert [check.name for check in verdict.failed] == [name]
    assert "no value" in verdict.table()


def test_the_table_names_what_failed_and_what_to_do_last() -> None:
    verdict = decide(replace(GOOD, voc_minus=0.1, false_success=0.3), GateConfig())
    lines = verdict.table().splitlines()
    assert lines[0] == "Reward model REFUSED: 2 of 5 figures out of bounds"
    rows = lines[1:6]
    assert [row.split() for row in rows] == [
        ["voc_plus", "0.9900", "≥", "0.95", "ok"],
        ["voc_minus", "0.1000", "≥", "0.95", "FAILED"],
        ["progress_mae", "0.0300", "≤", "0.08", "ok"],
        ["auc", "1.0000", "≥", "0.98", "ok"],
        ["false_success", "0.3000", "≤", "0.05", "FAILED"],
    ]
    assert len({row.index("≥" if "≥" in row else "≤") for row in rows}) == 1
    assert lines[-2].startswith("  voc_minus: the model says forward whatever it sees")
    assert lines[-1].startswith("  false_success: ")
    assert "demonstrations.reward_model_failures" in lines[-1]
    assert verdict.markdown().splitlines()[1] == "| voc_minus | 0.1000 | ≥ 0.95 | **FAILED** |"
    assert verdict.markdown().splitlines()[0] == "| voc_plus | 0.9900 | ≥ 0.95 | ok |"
    assert not any(line.startswith("  auc: ") for line in lines)


def test_the_probe_is_shown_beside_its_bounds_and_refuses_nothing_until_it_is_required() -> None:
    trapped = replace(GOOD, probe_rank=-0.33, probe_trade=0.19)
    verdict = decide(trapped, GateConfig())
    assert verdict.passed
    rows = [row.split() for row in verdict.table().splitlines()[6:8]]
    assert rows == [
        ["probe_rank", "-0.3300", "≥", "0.9", "missed", "(advisory)"],
        ["probe_trade", "0.1900", "≤", "0", "missed", "(advisory)"],
    ]
    assert "probe_trade) is advisory" in verdict.table()
    assert verdict.markdown().splitlines()[-1] == "| probe_trade | 0.1900 | ≤ 0 | **missed (advisory)** |"
    assert [check.name for check in decide(trapped, GateConfig(probe="required")).failed] == [
        "probe_rank",
        "probe_trade",
    ]
    sound = replace(GOOD, probe_rank=0.9, probe_trade=0.0)
    assert decide(sound, GateConfig(probe="required")).passed
    assert decide(sound, GateConfig()).advisory[0].cells[-1] == "ok"
    assert decide(trapped, GateConfig(probe="off")) == decide(GOOD, GateConfig(probe="off"))


def test_a_required_probe_without_a_value_is_a_failure_and_one_that_was_not_taken_is_not_shown() -> None:
    verdict = decide(GOOD, GateConfig(probe="required"))
    assert [check.name for check in verdict.failed] == ["probe_rank", "probe_trade"]
    assert "no value" in verdict.table()
    assert decide(GOOD, GateConfig()).advisory == ()
    assert "probe" not in decide(GOOD, GateConfig()).table()
    half = decide(replace(GOOD, probe_trade=-0.2), GateConfig())
    assert [check.cells[1] for check in half.advisory] == ["no value", "-0.2000"]


def test_the_probe_s_figures_stand_in_the_report_and_what_was_unreadable_does_not() -> None:
    gaps, offsets = [0.03, 0.03, 0.003, 0.003], [0.0, 0.03, 0.0, 0.03]
    found = with_probe(GOOD, probe_figures(gaps, offsets, [0.2, 0.1, 0.4, 0.3]))
    assert (found.probe_rank, found.probe_trade) == (pytest.approx(1.0), pytest.approx(0.1))
    found = with_probe(GOOD, probe_figures(gaps, offsets, [0.2, math.nan, 0.4, 0.3]))
    assert (found.probe_rank, found.probe_trade) == (None, pytest.approx(0.1))


def test_a_report_of_before_the_probe_is_still_read() -> None:
    stored = asdict(GOOD)
    for name in ("failed_end_order", "probe_rank", "probe_trade"):
        del stored[name]
    assert GateReport(**stored) == GOOD
    assert decide(GateReport(**stored), GateConfig()).passed


def test_a_success_that_only_its_last_picture_tells_from_a_failure_is_noticed() -> None:
    """Final progress alone separates the two; before its end the success stands below where the failure ends."""
    jammed = [failure(0.45), failure(0.45)]
    told = report(judged([success(), *jammed]), 0.8, STRIDE)
    assert (told.auc, told.failed_end_order) == (1.0, 1.0)
    by_the_end_alone = episode([*np.linspace(0.0, 0.3, 11), 1.0], True)
    untold = report(judged([by_the_end_alone, *jammed]), 0.8, STRIDE)
    assert (untold.auc, untold.failed_end_order) == (1.0, 0.0)
    half = report(judged([by_the_end_alone, success(), *jammed]), 0.8, STRIDE)
    assert half.failed_end_order == 0.5


@pytest.mark.parametrize(("count", "late"), [(1, None), (2, None), (3, [1]), (5, [3]), (9, [6, 7]), (12, [9, 10])])
def test_late_is_the_last_quarter_without_the_end(count: int, late: list[int] | None) -> None:
    curve = np.arange(count) / 16
    found = curve_row(curve, np.ones(count - 1), None)["late"]
    assert math.isnan(found) if late is None else found == pytest.approx(np.mean(late) / 16)


@pytest.mark.parametrize(
    ("field", "value"), [("probe", "on"), ("probe_rank", 1.1), ("probe_trade", -1.1), ("probe_rank", math.nan)]
)
def test_a_bound_of_the_probe_that_cannot_be_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadInput, match=rf"gate\.{field} = "):
        GateConfig(**{field: value})


def test_few_episodes_are_noted_but_fail_nothing() -> None:
    verdict = decide(replace(GOOD, successes=4, failures=59), GateConfig())
    assert verdict.passed
    table = verdict.table()
    assert "4 successes are few to judge by: the figures are worth trusting from 30 on" in table
    assert "59 failures are few to judge by: the figures are worth trusting from 60 on" in table
    assert "few" not in decide(replace(GOOD, successes=30, failures=60), GateConfig()).table()


@pytest.mark.parametrize(
    "bad",
    [
        {"voc_plus": 1.1},
        {"voc_minus": math.nan},
        {"auc": -0.1},
        {"progress_mae": 2.0},
        {"false_success": -0.1},
        {"success_threshold": 0.0},
        {"least_successes": 0},
        {"least_failures": 0},
    ],
)
def test_bad_bounds_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=rf"gate\.{next(iter(bad))}"):
        GateConfig(**bad)  # type: ignore[arg-type]


def test_the_bounds_are_read_without_anything_heavy() -> None:
    code = "import sys, dopamine_rl.evaluation.gate_config; sys.exit(len({'ray', 'torch', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_episode_cut_off_on_its_way_in_is_neither_success_nor_failure() -> None:
    late = replace(failure(0.9), true_progress=np.linspace(0.0, 0.9, 12).astype(np.float32))
    stalled = replace(failure(0.9), true_progress=np.minimum(np.linspace(0.0, 1.8, 12), 0.9).astype(np.float32))
    figures = report(judged([success(), late, stalled, failure(0.3)]), 0.8, STRIDE)
    assert (figures.successes, figures.failures, figures.cut_off) == (1, 2, 1)
    assert figures.false_success == 0.5
    assert "ran out of time" in decide(figures, GateConfig()).table()
