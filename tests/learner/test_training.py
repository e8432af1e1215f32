"""What a training remembers: files that only grow and are cut to the checkpoint, and a state of constant size."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.evaluation.monitor import ShadowMonitor
from dopamine_rl.files import JsonLines
from dopamine_rl.policy import load_policy, policy_provenance
from learner.config import TrainingConfig
from learner.training import LabelLedger, LatencyHistogram, Progress, series, snapshots, train


@pytest.mark.parametrize("spread", [0.1, 1.0, 2.0])
def test_quantiles_of_the_histogram_are_those_of_the_latencies(spread):
    latencies = np.random.default_rng(0).lognormal(3.0, spread, 5000)
    histogram = LatencyHistogram()
    for latency in latencies:
        histogram.add(latency)
    for share in (0.5, 0.99):
        exact = np.quantile(latencies, share, method="inverted_cdf")
        assert histogram.quantile(share) == pytest.approx(exact, rel=0.011)


def test_the_histogram_has_a_bound_and_no_value_without_latencies():
    histogram = LatencyHistogram()
    assert histogram.quantile(0.5) is None
    for latency in (0.0, 1e-9, 1e30, *np.geomspace(1e-3, 1e9, 100_000)):
        histogram.add(latency)
    assert len(histogram.bins) <= 1163


def test_a_ledger_goes_through_json():
    ledger = LabelLedger()
    ledger.add({"asked": 4, "answered": 3, "late": 1, "latencies_ms": [5.0, 7.0, float("nan")]})
    again = LabelLedger.from_state(json.loads(json.dumps(ledger.state_dict())))
    assert again.summary() == ledger.summary()
    assert again.summary()["closed"]
    assert again.summary()["p50_ms"] == pytest.approx(5.0, rel=0.011)
    assert LabelLedger().summary()["p99_ms"] is None


@pytest.mark.parametrize(
    ("reported", "items"),
    [
        (None, []),
        (float("nan"), []),
        ([], []),
        (1.0, [1.0]),
        (0.0, [0.0]),
        (np.float32(0.5), [0.5]),
        ([1, 0], [1.0, 0.0]),
    ],
)
def test_a_series_of_one_is_no_series_of_none(reported, items):
    assert series(reported) == items


def test_rllib_really_hands_over_a_lone_item_as_a_number():
    """Else an iteration in which one episode ends would lose it."""
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    for values in ([0.0], [1.0], [1.0, 0.0]):
        actor, algorithm = MetricsLogger(root=False), MetricsLogger(root=True)
        for value in values:
            actor.log_value(("finished", "success"), value, reduce="item_series", window=10)
        algorithm.aggregate([actor.reduce()], key="env_runners")
        assert series(algorithm.compile()["env_runners"]["finished"]["success"]) == values


@pytest.mark.parametrize(("potential", "without"), [(0.25, 0), (float("nan"), 10)])
def test_the_only_episode_of_an_iteration_counts(tmp_path, potential, without):
    class Lone(Steps):
        def train(self):
            result = super().train()
            result["env_runners"]["finished"] = {"success": 1.0, "potential": potential}
            return result

    monitor = ShadowMonitor()
    result = run(tmp_path, Lone(), monitor=monitor)
    assert (result["curve"][-1]["episodes"], result["curve"][-1]["successes"]) == (10, 10)
    assert result["shadow"]["without_value"] == without
    ends = {episode["final_progress"] for episode in lines(tmp_path / "episodes.jsonl")}
    assert ends == ({None} if without else {0.25})


@pytest.mark.parametrize("damage", ["cut", "list", "field", "ledger"])
def test_a_checkpoint_that_cannot_be_resumed_is_named_instead_of_training_from_the_start(tmp_path, damage):
    path = tmp_path / "progress.json"
    assert Progress.load(tmp_path, "key") is None
    Progress().save(path, "key", {})
    assert Progress.load(tmp_path, "another key") is None
    stored = json.loads(path.read_text())
    if damage == "field":
        stored["of_newer_code"] = 1
    elif damage == "ledger":
        del stored["ledger"]
    text = json.dumps([stored] if damage == "list" else stored)
    path.write_text(text[:-5] if damage == "cut" else text)
    with pytest.raises(BadInput, match=r"progress\.json = .*: resume with the code .* --fresh"):
        Progress.load(tmp_path, "key")


class Steps:
    """An algorithm that acts ten steps an iteration, and finishes an episode in each."""

    def __init__(self, steps=0, killed_at=None):
        self.steps, self._killed_at, self.acting = steps, killed_at, SimpleNamespace()

    def train(self):
        if self.steps == self._killed_at:
            raise KeyboardInterrupt
        self.steps += 10
        labels = {"asked": 5, "answered": 5, "latencies_ms": [4.0, 5.0]}
        finished = {"success": [float(self.steps % 20 == 0)], "potential": [0.25]}
        return {
            "num_env_steps_sampled_lifetime": self.steps,
            "env_runners": {"labels": labels, "finished": finished, "records": {"written": 1}},
            "learners": {"default_policy": {"updates": self.steps}},
            "acting": {"late_s": {}, "replaced": 0, "steps": {"1": 10}, "staleness_updates": {"1": 3}},
        }

    def save_to_path(self, path):
        with open(path, "w") as file:
            file.write(str(self.steps))

    def policy_state(self):
        return {"actor.mean.weight": np.zeros((1, 1), np.float32)}

    def sees_with(self, eyes):
        return eyes


def run(folder, algorithm, progress=None, steps=100, checkpoint_s=1e-9, **more):
    out, checkpoint = folder / "policy.safetensors", folder / "checkpoint"
    said = more.pop("said", [])
    return train(
        algorithm,
        TrainingConfig(steps, checkpoint_s),
        out,
        lambda text, _: said.append(text),
        progress,
        checkpoint,
        "key",
        {"commit": "abc"},
        **more,
    )


def test_no_copy_of_another_training_s_policy_stays_beside_its_own(tmp_path):
    """Interrupted after its checkpoint, or with other settings: its copies would be points of this one's curve."""
    policy = tmp_path / "policy.safetensors"
    train(Steps(), TrainingConfig(100, snapshot_steps=10), policy, lambda *_: None)
    assert list(snapshots(policy)) == list(range(10, 101, 10))
    train(Steps(40), TrainingConfig(80, snapshot_steps=20), policy, lambda *_: None, Progress(environment_steps=40))
    assert list(snapshots(policy)) == [10, 20, 30, 40, 60, 80]
    train(Steps(), TrainingConfig(60, snapshot_steps=30), policy, lambda *_: None)
    assert list(snapshots(policy)) == [30, 60]


def test_a_policy_names_what_made_it_and_old_ones_can_be_read(tmp_path):
    run(tmp_path, Steps())
    assert policy_provenance(tmp_path / "policy.safetensors") == {"commit": "abc"}
    old = Path(__file__).parents[1] / "fixtures" / "old_run" / "policy.safetensors"
    assert policy_provenance(old) is None
    assert load_policy(old)
    with pytest.raises(CheckpointError):
        policy_provenance(tmp_path / "curve.jsonl")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_training_cuts_its_files_to_the_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Steps(killed_at=50))
    checkpoint = (tmp_path / "checkpoint" / "progress.json").read_bytes()
    # Another sitting goes on without reaching a checkpoint, and is killed in the middle of a line.
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Steps(50, killed_at=80), Progress.load(tmp_path / "checkpoint", "key"), checkpoint_s=1e9)
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write('{"environment_steps": 9')
    assert (tmp_path / "checkpoint" / "progress.json").read_bytes() == checkpoint
    progress = Progress.load(tmp_path / "checkpoint", "key")
    assert (progress.environment_steps, progress.sittings) == (50, 2)
    result = run(tmp_path, Steps(50), progress)
    steps = list(range(10, 101, 10))
    assert [point["environment_steps"] for point in result["curve"]] == steps
    assert [episode["environment_steps"] for episode in lines(tmp_path / "episodes.jsonl")] == steps
    assert [point["episodes"] for point in result["curve"]] == list(range(1, 11))
    assert result["curve"][-1]["successes"] == 5
    assert result["curve"][-1]["asked"] == 50


def test_a_checkpoint_of_another_training_is_begun_anew_with_its_files(tmp_path):
    run(tmp_path, Steps())
    assert Progress.load(tmp_path / "checkpoint", "another") is None
    assert len(run(tmp_path, Steps(), None)["curve"]) == 10


def test_the_checkpoint_does_not_grow_and_names_the_code(tmp_path):
    sizes = []
    for name, steps in (("a", 1000), ("b", 9000)):
        (tmp_path / name).mkdir()
        run(tmp_path / name, Steps(), steps=steps)
        sizes.append((tmp_path / name / "checkpoint" / "progress.json").stat().st_size)
    assert sizes[1] <= sizes[0] + 60
    assert json.loads((tmp_path / "a" / "checkpoint" / "progress.json").read_text())["about"] == {"commit": "abc"}


def test_a_file_that_is_shorter_than_the_checkpoint_knows_is_told_of(tmp_path):
    run(tmp_path, Steps())
    (tmp_path / "curve.jsonl").write_text("")
    with pytest.raises(BadInput, match="--fresh"):
        run(tmp_path, Steps(), Progress.load(tmp_path / "checkpoint", "key"))


def test_without_a_reward_model_nothing_is_said_of_one(tmp_path):
    said = []
    result = run(tmp_path, Steps(), said=said)
    assert result["labels"] is result["shadow"] is result["records"] is None
    assert all("no labels" in line for line in said)
    assert all(episode["final_progress"] is None for episode in lines(tmp_path / "episodes.jsonl"))


def test_records_that_are_lost_are_told_of(tmp_path):
    said, ends = [], [{"written": 2, "removed": 1, "dropped": 0, "failed": 0}, {"failed": 3}]
    run(tmp_path, Steps(), said=said, finish_records=lambda: ends)
    assert [line.split(":")[0].strip() for line in said if "records of" in line] == [
        "label records of 1 episode removed (1 in total)",
        "label records of 3 episodes failed (3 in total)",
    ]


def test_lines_hold_no_number_that_is_none(tmp_path):
    with JsonLines(tmp_path / "a.jsonl") as file, pytest.raises(ValueError, match="JSON"):
        file.add({"value": float("nan")})
    assert (tmp_path / "a.jsonl").read_text() == ""
