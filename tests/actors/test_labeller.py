import itertools
from time import monotonic

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.label_records import LabelRecord
from actors.labeller import Labeller, LabellerConfig
from actors.rescoring import audit
from dopamine_rl.errors import BadInput, Overloaded, ScoringTimeout, ServiceUnavailable
from dopamine_rl.types import EpisodeContext, FusionConfig
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.fakes import FakeEngine, frame

GAMMA = 0.9


class FaultyClient(LocalRewardClient):
    """A client whose requests meet a fate by the environment step they ask for."""

    def __init__(self, engine, fates=None):
        super().__init__(Scorer(engine))
        self.fates = fates or {}

    def submit(self, request):
        fate = self.fates.get(request.times[0])
        if fate is Overloaded:
            raise Overloaded("queue full")
        pending = super().submit(request)
        return pending if fate is None else Failing(fate)


class Counting(FaultyClient):
    """Counts requests, and the frames in each."""

    def __init__(self, engine, fates=None):
        super().__init__(engine, fates)
        self.sizes = []

    def submit(self, request):
        self.sizes.append(len(request.frames))
        return super().submit(request)


class Failing:
    retries = 1

    def __init__(self, error):
        self.error = error

    def result(self, timeout_s):
        raise self.error("on purpose")


def context(name="episode"):
    return EpisodeContext(name, "insert", frame(0.0)[0], frame(1.0)[0], frame(0.0), frame(1.0))


def make(mode="grm", stride=2, client=None, **kwargs):
    return Labeller(LabellerConfig(mode, GAMMA, stride, deadline_s=60.0, **kwargs), client)


def run(
    labeller,
    steps,
    cuts=(),
    terminated=False,
    truth=lambda t: t / 20,
    task=None,
    name="episode",
    late=False,
    together=False,
):
    """One episode of `steps` environment steps in fragments cut at `cuts`; rewards, columns joined, the record.

    A fragment is collected when it ends or, with `late`, when the whole episode has. With `together` its frames are
    sent in one request when it ends.
    """
    labeller.begin(name, context(name) if labeller.asks_model else None)
    fragments = list(itertools.pairwise([0, *cuts, steps]))
    task = np.zeros(steps, np.float32) if task is None else task
    labels = []
    for a, b in fragments:
        for t in range(a + 1, b + 1):
            if t % labeller.config.stride == 0 or t == steps:
                if labeller.asks_model:
                    labeller.observe(name, t, frame(truth(t)), at_once=not together)
                elif labeller.config.mode == "oracle":
                    labeller.observe_truth(name, t, truth(t))
        labeller.send()
        for start, end in [] if late and b < steps else fragments if late else [(a, b)]:
            labels.append(labeller.collect(name, start, task[start:end], terminated and end == steps))
    record = labeller.finish(name)
    joined = {
        field: np.concatenate([getattr(columns, field) for _, columns in labels])
        for field in ("task_reward", "potential", "next_potential", "valid", "phase", "next_phase")
    }
    return np.concatenate([rewards for rewards, _ in labels]), joined, record


def test_potential_is_held_between_scored_frames_and_every_step_is_shaped():
    rewards, columns, record = run(make(client=FaultyClient(FakeEngine())), 7)
    progress = {f.time: f.progress for f in record.frames}
    held = [0.0, 0.0, progress[2], progress[2], progress[4], progress[4], progress[6], progress[7]]
    np.testing.assert_allclose(columns["potential"], held[:-1], atol=1e-6)
    np.testing.assert_allclose(columns["next_potential"], held[1:], atol=1e-6)
    np.testing.assert_allclose(rewards, [GAMMA * b - a for a, b in itertools.pairwise(held)], atol=1e-6)
    assert columns["valid"].all()


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(1, 19)), st.booleans(), st.integers(1, 5), st.booleans(), st.booleans())
def test_neither_fragments_nor_how_they_are_sent_or_collected_changes_the_labels(
    cuts, terminated, stride, late, together
):
    whole, columns, _ = run(make(stride=stride, client=FaultyClient(FakeEngine())), 20, (), terminated)
    labeller = make(stride=stride, client=FaultyClient(FakeEngine()))
    cut, cut_columns, _ = run(labeller, 20, sorted(cuts), terminated, late=late, together=together)
    np.testing.assert_array_equal(whole, cut)
    for name in columns:
        np.testing.assert_array_equal(columns[name], cut_columns[name])
    discount = GAMMA ** np.arange(20)
    end = 0.0 if terminated else GAMMA**20 * cut_columns["next_potential"][-1]
    assert np.sum(discount * cut) == pytest.approx(end, abs=1e-5)


def test_termination_has_no_potential_and_truncation_keeps_it():
    _, ended, _ = run(make(client=FaultyClient(FakeEngine())), 6, terminated=True)
    _, cut_off, _ = run(make(client=FaultyClient(FakeEngine())), 6, terminated=False)
    assert ended["next_potential"][-1] == 0.0
    assert cut_off["next_potential"][-1] > 0.2


@pytest.mark.parametrize(
    ("fate", "outcome"), [(ScoringTimeout, "late"), (ServiceUnavailable, "rejected"), (Overloaded, "rejected")]
)
def test_a_missing_answer_holds_and_is_counted(fate, outcome):
    labeller = make(client=FaultyClient(FakeEngine(), {4: fate}))
    _, columns, record = run(labeller, 10)
    counts = labeller.take_counts()
    assert counts.closed
    assert (counts.asked, counts.answered, getattr(counts, outcome)) == (5, 4, 1)
    assert [f.outcome for f in record.frames] == ["answered", outcome, "answered", "answered", "answered"]
    np.testing.assert_array_equal(columns["potential"][2:6], columns["potential"][2])
    assert columns["valid"].tolist() == [True] * 3 + [False] * 2 + [True] * 5


def test_after_a_missing_answer_the_next_frame_is_compared_with_the_last_valid_one():
    labeller = make(client=FaultyClient(FakeEngine(), {4: ScoringTimeout}))
    _, _, record = run(labeller, 10)
    assert [f.anchor_time for f in record.frames if f.outcome == "answered"] == [0, 2, 6, 8]
    assert record.frames[-1].progress == pytest.approx(0.5, abs=0.01)


def test_unreadable_answers_are_invalid_never_a_number():
    labeller = make(client=FaultyClient(FakeEngine(unreadable=lambda before, after: abs(after - 0.2) < 0.01)))
    rewards, _, record = run(labeller, 10)
    counts = labeller.take_counts()
    assert counts.closed
    assert counts.invalid == 1
    assert np.isnan(record.frames[1].gain).any()
    assert np.isfinite(rewards).all()
    assert [f.anchor_time for f in record.frames if f.outcome == "answered"] == [0, 2, 6, 8]


def test_an_episode_keeps_the_version_it_began_with():
    client = FaultyClient(FakeEngine())
    labeller = make(client=client)
    labeller.begin("episode", context())
    labeller.observe("episode", 2, frame(0.1))
    client._scorer = Scorer(FakeEngine(version="fake-2"))
    labeller.observe("episode", 4, frame(0.2))
    _, columns = labeller.collect("episode", 0, np.zeros(4, np.float32), False)
    record = labeller.finish("episode")
    assert columns.model_version == "fake-1"
    assert [f.outcome for f in record.frames] == ["answered", "rejected"]


def test_no_version_known_means_no_claim():
    class Silent(FaultyClient):
        def model_version(self, timeout_s):
            raise ServiceUnavailable("starting")

    labeller = make(client=Silent(FakeEngine()))
    rewards, columns, _ = run(labeller, 6)
    counts = labeller.take_counts()
    assert counts.closed
    assert counts.rejected == counts.asked == 3
    assert not rewards.any()
    assert not columns["valid"][1:].any()


def test_frames_that_nobody_waits_for_go_out_in_one_request_a_fragment():
    client = Counting(FakeEngine())
    labeller = make(client=client)
    _, _, record = run(labeller, 20, (8, 16), together=True, late=True)
    assert client.sizes == [4, 4, 2]
    assert [f.anchor_time for f in record.frames] == list(range(0, 20, 2))
    counts = labeller.take_counts()
    assert (counts.asked, counts.answered, len(counts.latencies_ms)) == (10, 10, 3)


def test_a_request_that_is_lost_or_holds_an_unreadable_frame_counts_frame_by_frame():
    unreadable = FakeEngine(unreadable=lambda before, after: abs(after - 0.2) < 0.01)
    labeller = make(client=Counting(unreadable, {10: ServiceUnavailable}))
    _, columns, record = run(labeller, 20, (8, 16), together=True)
    outcomes = ["answered", "invalid", "answered", "answered", *["rejected"] * 4, "answered", "answered"]
    assert [f.outcome for f in record.frames] == outcomes
    assert [f.anchor_time for f in record.frames if f.outcome == "answered"] == [0, 2, 6, 8, 18]
    counts = labeller.take_counts()
    assert counts.closed
    assert counts.asked == 10
    assert columns["valid"].tolist() == [True] * 3 + [False] * 2 + [True] * 4 + [False] * 8 + [True] * 3


def test_frames_under_way_are_counted_with_the_report_that_tells_their_outcome():
    labeller = make(client=FaultyClient(FakeEngine()))
    labeller.begin("episode", context())
    for time in (2, 4, 6, 8):
        labeller.observe("episode", time, frame(time / 20))
    reports = []
    for start in (0, 3, 6):
        labeller.collect("episode", start, np.zeros(3, np.float32), False)
        reports.append(labeller.take_counts())
    assert [counts.asked for counts in reports] == [1, 2, 1]
    assert all(counts.closed for counts in reports)


def test_abandoned_frames_are_late():
    labeller = make(client=FaultyClient(FakeEngine()))
    labeller.begin("episode", context())
    labeller.observe("episode", 2, frame(0.1))
    labeller.drop("episode")
    counts = labeller.take_counts()
    assert counts.closed
    assert counts.late == 1


def test_modes():
    task = np.array([0, 0, 0, 0, 0, 1], np.float32)
    sparse, columns, record = run(make("sparse"), 6, task=task)
    np.testing.assert_array_equal(sparse, task)
    assert not columns["potential"].any()
    assert record is None
    _oracle, columns, _ = run(make("oracle"), 6, task=task, truth=lambda t: t / 10)
    np.testing.assert_allclose(columns["next_potential"], [0, 0.2, 0.2, 0.4, 0.4, 0.6], atol=1e-6)
    naive, columns, _ = run(make("naive", client=FaultyClient(FakeEngine())), 6, task=task)
    np.testing.assert_allclose(naive, task + columns["next_potential"] - columns["potential"], atol=1e-6)


@pytest.mark.parametrize("fusion", [FusionConfig(), FusionConfig("consistency"), FusionConfig(chain="own")])
def test_records_round_trip_and_the_audit_agrees(tmp_path, fusion):
    client = FaultyClient(FakeEngine(), {4: ScoringTimeout})
    labeller = make(client=client, records_dir=tmp_path, fusion=fusion)
    for i in range(3):
        _, _, record = run(labeller, 12, (5,), name=f"episode{i}")
        record.save(tmp_path)
    records = [LabelRecord.load(path) for path in sorted(tmp_path.glob("*.npz"))]
    report = audit(records, Scorer(FakeEngine()), "fake-1")
    assert report == {
        "episodes": 3,
        "frames": 18,
        "answered": 15,
        "max_abs_difference": 0.0,
        "doubled": 0,
        "wrong_version": 0,
    }
    tampered = records[0].frames[2]
    object.__setattr__(tampered, "progress", tampered.progress + 0.01)
    assert audit(records, Scorer(FakeEngine()), "fake-1")["max_abs_difference"] > 0.005
    assert audit(records, Scorer(FakeEngine("fake-2")), "fake-2")["wrong_version"] == 3


def test_a_bug_in_the_middle_of_a_fragment_leaves_the_books_closed():
    labeller = make(client=FaultyClient(FakeEngine(), {4: RuntimeError}))
    _, columns, record = run(labeller, 10, (5,))
    counts = labeller.take_counts()
    assert counts.closed
    assert (counts.asked, counts.answered, counts.rejected, counts.errors) == (5, 4, 1, 1)
    assert [f.time for f in record.frames] == [2, 4, 6, 8, 10]
    np.testing.assert_array_equal(columns["potential"][2:6], columns["potential"][2])


def test_a_fragment_that_could_not_be_collected_holds_the_last_potential():
    labeller = make(client=FaultyClient(FakeEngine()))
    labeller.begin("episode", context())
    labeller.observe("episode", 2, frame(0.5))
    _, before = labeller.collect("episode", 0, np.zeros(3, np.float32), False)
    rewards, held = labeller.hold("episode", np.zeros(2, np.float32), False)
    np.testing.assert_array_equal(held.potential, before.next_potential[-1])
    np.testing.assert_allclose(rewards, (GAMMA - 1) * before.next_potential[-1], atol=1e-6)
    assert not held.valid.any()
    assert labeller.hold("episode", np.zeros(2, np.float32), True)[1].next_potential[-1] == 0.0


@settings(deadline=None, max_examples=150)
@given(st.data(), st.booleans(), st.integers(1, 5), st.sampled_from(["grm", "oracle", "naive"]))
def test_shaping_telescopes_whatever_becomes_of_frames_and_fragments(data, terminated, stride, mode):
    """Fragments held before or after their answers were read, and frames that are late, invalid or rejected."""
    steps = 20
    frames = [t for t in range(1, steps + 1) if t % stride == 0 or t == steps]
    unreadable = data.draw(st.sets(st.sampled_from(frames)), "unreadable")
    fates = data.draw(st.dictionaries(st.sampled_from(frames), st.sampled_from([ScoringTimeout, Overloaded])), "fates")
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, steps - 1)), "cuts")), steps]
    engine = FakeEngine(unreadable=lambda before, after: any(abs(after - t / steps) < 0.01 for t in unreadable))
    labeller = make(mode, stride, FaultyClient(engine, fates) if mode != "oracle" else None)
    labeller.begin("episode", context() if labeller.asks_model else None)
    labels = []
    for start, end in itertools.pairwise(cuts):
        for t in range(start + 1, end + 1):
            if t in frames and mode == "oracle":
                labeller.observe_truth("episode", t, t / steps)
            elif t in frames:
                labeller.observe("episode", t, frame(t / steps), at_once=data.draw(st.booleans()))
        ended = terminated and end == steps
        task = np.zeros(end - start, np.float32)
        fate = data.draw(st.sampled_from(["collected", "held", "held after its answers were read"]))
        if fate == "held after its answers were read":
            with pytest.raises(BadInput):  # a reward that is not finite: found when all else is done
                labeller.collect("episode", start, np.full(end - start, np.nan, np.float32), ended)
        if fate == "collected":
            labels.append(labeller.collect("episode", start, task, ended))
        else:
            labels.append(labeller.hold("episode", task, ended))
    labeller.finish("episode")
    columns = {
        name: np.concatenate([getattr(part, name) for _, part in labels])
        for name in ("potential", "next_potential", "phase", "next_phase")
    }
    np.testing.assert_array_equal(columns["next_potential"][:-1], columns["potential"][1:])
    np.testing.assert_array_equal(columns["next_phase"][:-1], columns["phase"][1:])
    assert labeller.take_counts().closed
    gamma = 1.0 if mode == "naive" else GAMMA
    end = 0.0 if terminated else columns["next_potential"][-1]
    paid = np.concatenate([rewards for rewards, _ in labels])
    assert np.sum(gamma ** np.arange(steps) * paid) == pytest.approx(gamma**steps * end, abs=1e-5)


def test_the_audit_takes_an_episode_without_any_answer_and_refuses_nan(tmp_path):
    labeller = make(client=FaultyClient(FakeEngine(), dict.fromkeys(range(20), ScoringTimeout)), records_dir=tmp_path)
    record = run(labeller, 6)[2]
    report = audit([record], Scorer(FakeEngine()), "fake-1")
    assert (report["episodes"], report["answered"], report["max_abs_difference"]) == (1, 0, 0.0)
    object.__setattr__(record.frames[0], "progress", float("nan"))
    with pytest.raises(BadInput, match="finite"):
        audit([record], Scorer(FakeEngine()), "fake-1")


def test_a_damaged_record_is_refused(tmp_path):
    labeller = make(client=FaultyClient(FakeEngine()), records_dir=tmp_path)
    path = run(labeller, 6)[2].save(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInput, match="episode record"):
        LabelRecord.load(path)


def test_a_step_of_many_episodes_is_labelled_as_each_is_alone():
    """Answers that are refused, late or cannot be read among them; and a client that takes all requests at once."""
    rng = np.random.default_rng(0)

    class Bundling(FaultyClient):
        bundles = ()

        def submit_all(self, requests):
            self.bundles += (len(requests),)
            return [self.submit(request) for request in requests]

    def labeller(client=FaultyClient):
        unreadable = lambda before, after: 0.4 < after < 0.5  # noqa: E731
        fates = {4: ScoringTimeout, 10: ServiceUnavailable, 12: ScoringTimeout}
        made = make(client=client(FakeEngine(unreadable=unreadable), fates))
        made.begin_all([context(str(i)) for i in range(6)])
        return made

    deadline = monotonic() + 60.0
    together, alone, names = labeller(Bundling), labeller(), [str(i) for i in range(6)]
    for step in range(14):
        shown = rng.uniform(size=6)
        task, terminated = rng.uniform(size=6).astype(np.float32), np.arange(6) == (3 if step == 13 else -1)
        if step % 2:
            for name, progress in zip(names, shown, strict=True):
                together.observe(name, step + 1, frame(progress), at_once=False)
                alone.observe(name, step + 1, frame(progress))
        rewards, after, valid = together.collect_step(names, task, terminated, deadline)
        for i, name in enumerate(names):
            expected, columns = alone.collect(name, step, task[i : i + 1], bool(terminated[i]), deadline)
            assert (rewards[i], valid[i]) == (expected[0], columns.valid[0])
            assert after[i] == np.float32(alone.level(name)) == np.float32(together.level(name))
    assert together.client.bundles == (6,) * 7
    assert together.counts.closed
    for outcome in ("asked", "answered", "invalid", "late", "rejected", "retried"):
        assert getattr(together.counts, outcome) == getattr(alone.counts, outcome)
    assert min(together.counts.answered, together.counts.invalid, together.counts.late, together.counts.rejected) > 0
    for name in names:
        ours, theirs = together.finish(name), alone.finish(name)
        assert [(f.time, f.outcome, f.progress) for f in ours.frames] == [
            (f.time, f.outcome, f.progress) for f in theirs.frames
        ]
