"""Records are exact, small, and kept within a budget, beside the actor and not in its way."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest

from actors import label_record_writer
from actors.label_record_writer import LabelRecordWriter, trim
from actors.label_records import EpisodeEnding, LabelRecord, RecordSummary, ScoredFrame, pack, unpack
from dopamine_rl.errors import BadInput
from dopamine_rl.types import EpisodeContext, FusionConfig

SIZE = (2, 24, 24, 3)


def pictures(seed, count=1):
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE), dtype=np.uint8)


def record(name, seed=0, frames=6, goal=99):
    shared = pictures(goal, 2)
    context = EpisodeContext(name, "push", shared[0, 0], shared[0, 1], pictures(seed)[0], shared[1], "v1")
    scored = [
        ScoredFrame(2 * i, "answered", anchor_time=2 * i - 2, progress=0.1 * i, views=views)
        for i, views in enumerate(pictures(seed + 1, frames), 1)
    ]
    return LabelRecord(context, tuple(scored), FusionConfig())


@pytest.mark.parametrize("shape", [(1, *SIZE), (7, *SIZE), (3, 1, 1, 1, 3)])
def test_pictures_come_back_exactly(shape):
    for values in (np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), np.full(shape, 255, np.uint8)):
        again = unpack(pack(values), shape)
        assert again.dtype == np.uint8
        np.testing.assert_array_equal(again, values)


def test_a_record_comes_back_exactly_and_its_references_lie_once(tmp_path):
    for i in range(3):
        record(f"episode{i}", seed=i).save(tmp_path)
    record("other", goal=98).save(tmp_path)
    assert len(list((tmp_path / "references").glob("*.npz"))) == 2
    for i in range(3):
        saved, again = record(f"episode{i}", seed=i), LabelRecord.load(tmp_path / f"episode{i}.npz")
        for name in ("reference_start", "reference_end", "init", "goal"):
            np.testing.assert_array_equal(getattr(again.context, name), getattr(saved.context, name))
        for a, b in zip(again.frames, saved.frames, strict=True):
            np.testing.assert_array_equal(a.views, b.views)
            assert (a.time, a.outcome, a.anchor_time) == (b.time, b.outcome, b.anchor_time)


def test_an_episode_without_frames_is_kept(tmp_path):
    again = LabelRecord.load(record("short", frames=0).save(tmp_path))
    assert again.frames == ()


def test_how_an_episode_ended_comes_back_and_its_summary_needs_no_picture(tmp_path, monkeypatch):
    paid = np.linspace(-1, 1, 13).astype(np.float32)
    ended = replace(record("a"), ending=EpisodeEnding(False, True, None, paid > 0.9, paid))
    for saved in (ended, record("b"), record("c", frames=0)):
        path = saved.save(tmp_path)
        again = LabelRecord.load(path).ending
        assert (again is None) == (saved.ending is None)
    again = LabelRecord.load(tmp_path / "a.npz").ending
    assert (again.success, again.reached, again.claimed) == (False, True, None)
    np.testing.assert_array_equal(again.rewards, paid)
    np.testing.assert_array_equal(again.task_rewards, paid > 0.9)
    monkeypatch.setattr("actors.label_records.unpack", lambda *_: pytest.fail("a picture was decoded"))
    a, b, c = (RecordSummary.read(tmp_path / f"{name}.npz") for name in "abc")
    assert (a.frames, a.environment_steps, a.reached, a.task_return) == (6, 12, True, 1.0)
    assert a.final_progress == pytest.approx(0.6)
    assert a.learner_return == pytest.approx(0.0, abs=1e-5)
    assert (b.success, b.learner_return, c.final_progress, c.frames) == (None, None, None, 0)
    with np.load(tmp_path / "b.npz") as data:  # as older versions wrote it
        arrays = {name: data[name] for name in data.files}
    header = json.loads(str(arrays["header"]))
    del header["last"]
    np.savez(tmp_path / "b.npz", **(arrays | {"header": np.array(json.dumps(header))}))
    assert RecordSummary.read(tmp_path / "b.npz") == replace(b, final_progress=pytest.approx(0.6))


def test_pictures_that_change_little_take_a_fraction_of_their_room(tmp_path):
    still = record("still", frames=20)
    frames = tuple(replace(frame, views=still.context.init.copy()) for frame in still.frames)
    path = replace(still, frames=frames).save(tmp_path)
    assert path.stat().st_size < 0.2 * 21 * np.prod(SIZE)


@pytest.mark.parametrize("damage", ["references", "pictures", "format"])
def test_what_is_missing_is_named(tmp_path, damage):
    path = record("a").save(tmp_path)
    if damage == "references":
        next((tmp_path / "references").iterdir()).unlink()
    else:
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
        if damage == "pictures":
            arrays["pictures"] = arrays["pictures"][:-20]
        else:
            arrays["header"] = np.array(str(arrays["header"]).replace('"format": 2', '"format": 3'))
        np.savez(path, **arrays)
    with pytest.raises(BadInput, match="episode record"):
        LabelRecord.load(path)


def test_the_oldest_records_go_first_and_the_folder_keeps_its_budget(tmp_path):
    size = record("probe").save(tmp_path / "probe").stat().st_size
    shared = sum(path.stat().st_size for path in (tmp_path / "probe" / "references").iterdir())
    folder, budget_mb = tmp_path / "records", (3.5 * size + shared) / 1e6
    writer = LabelRecordWriter(folder, budget_mb)
    for i in range(6):
        writer.write(record(f"z{9 - i}", seed=i))  # later ones sort before earlier ones by name
        os.utime(folder / f"z{9 - i}.npz", ns=(i, i))
        assert sum(path.stat().st_size for path in folder.rglob("*.npz")) <= budget_mb * 1e6
    assert sorted(path.stem for path in folder.glob("*.npz")) == ["z4", "z5", "z6"]
    counts = writer.take_counts()
    assert (counts["written"], counts["removed"]) == (6, 3)
    assert not any(writer.take_counts().values())


def test_the_newest_record_stays_whatever_the_budget(tmp_path):
    writer = LabelRecordWriter(tmp_path, 1e-6)
    for name in "ab":
        writer.write(record(name))
    assert [path.stem for path in tmp_path.glob("*.npz")] == ["b"]


def test_two_writers_share_a_folder(tmp_path):
    size = record("probe").save(tmp_path / "probe").stat().st_size
    writers = [LabelRecordWriter(tmp_path / "records", 5 * size / 1e6) for _ in range(2)]
    for i in range(20):
        writers[i % 2].put(record(f"e{i}", seed=i))
    assert all(writer.flush(60.0) for writer in writers)
    totals = {
        name: sum(counts)
        for name, *counts in zip(
            label_record_writer.COUNTS, *(writer.take_counts().values() for writer in writers), strict=True
        )
    }
    left = len(list((tmp_path / "records").glob("*.npz")))
    assert totals == {"written": 20, "removed": 20 - left, "dropped": 0, "failed": 0}
    assert 1 <= left <= 5


def test_references_that_no_record_uses_any_more_are_removed(tmp_path):
    size = record("probe").save(tmp_path / "probe").stat().st_size
    shared = sum(path.stat().st_size for path in (tmp_path / "probe" / "references").iterdir())
    folder, budget_mb = tmp_path / "records", (3.5 * size + 2.5 * shared) / 1e6
    writer = LabelRecordWriter(folder, budget_mb)
    for i in range(12):  # a run that is resumed with another reward model has other references
        another = record(f"e{i:02}", seed=i)
        context = replace(another.context, goal=np.full_like(another.context.goal, i // 2))
        writer.write(replace(another, context=context))
        assert sum(path.stat().st_size for path in folder.rglob("*.npz")) <= budget_mb * 1e6
    left = sorted(folder.glob("*.npz"))
    assert [path.stem for path in left] == ["e09", "e10", "e11"]
    for path in left:
        LabelRecord.load(path)
    assert len(list((folder / "references").iterdir())) == 2


def test_links_and_other_files_are_not_removed(tmp_path):
    (tmp_path / "elsewhere.npz").write_bytes(b"x" * 10_000)
    folder = tmp_path / "records"
    newest = record("a").save(folder)
    (folder / "link.npz").symlink_to(tmp_path / "elsewhere.npz")
    (folder / "notes.txt").write_text("x")
    assert trim(folder, 1, newest) == 0
    assert {path.name for path in folder.iterdir()} == {"a.npz", "link.npz", "notes.txt", "references"}


def slow_disk(monkeypatch):
    """Saving waits until the event is set."""
    go_on, save = threading.Event(), LabelRecord.save
    monkeypatch.setattr(LabelRecord, "save", lambda self, folder: (go_on.wait(60.0), save(self, folder))[1])
    return go_on


def test_putting_a_record_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    go_on = slow_disk(monkeypatch)
    writer = LabelRecordWriter(tmp_path, 100.0)
    for i in range(label_record_writer.WAITING):
        writer.put(record(f"e{i}"))
    assert not list(tmp_path.glob("*.npz"))
    assert not writer.flush(0.01)
    go_on.set()
    assert writer.flush(60.0)
    assert len(list(tmp_path.glob("*.npz"))) == writer.take_counts()["written"] == label_record_writer.WAITING


def test_what_a_full_queue_cannot_take_is_dropped_and_counted(tmp_path, monkeypatch):
    go_on = slow_disk(monkeypatch)
    writer = LabelRecordWriter(tmp_path, 100.0, patience_s=0.05)
    total = 3 * label_record_writer.WAITING
    for i in range(total):
        writer.put(record(f"e{i}"))
    go_on.set()
    assert writer.flush(60.0)
    writer.put(record("later"))
    assert writer.flush(60.0)
    counts = writer.take_counts()
    assert counts["dropped"] >= total - label_record_writer.WAITING - 1
    assert counts["written"] + counts["dropped"] == total + 1
    assert (tmp_path / "later.npz").exists()


def test_a_record_that_cannot_be_written_is_counted_and_the_next_ones_are_written(tmp_path):
    writer = LabelRecordWriter(tmp_path, 100.0)
    writer.put(replace(record("bad"), frames=(ScoredFrame(2, "late"),)))
    writer.put(record("good"))
    assert writer.flush(60.0)
    counts = writer.take_counts()
    assert (counts["written"], counts["failed"]) == (1, 1)
    assert [path.stem for path in tmp_path.glob("*.npz")] == ["good"]
