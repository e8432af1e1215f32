import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dopamine_rl import process_log
from dopamine_rl.process_log import driver_log, identify

ROOT = Path(__file__).parents[2]


def test_every_event_of_a_driver_is_a_line_that_names_the_run(tmp_path):
    path = tmp_path / "log.jsonl"
    logger = logging.getLogger("experiments.a")
    for turn in ("first", "resumed"):
        with driver_log(path, "peg"):
            logger.info("two\nlines of %s, «Φ»", turn, extra={"episode": "e1", "folder": tmp_path})
            logging.getLogger("other").info("not ours")
            try:
                raise ValueError("what happened")
            except ValueError:
                logger.exception("it failed")
        logger.info("after the end")
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(event["level"], event["message"]) for event in events] == [
        ("INFO", "two\nlines of first, «Φ»"),
        ("ERROR", "it failed"),
        ("INFO", "two\nlines of resumed, «Φ»"),
        ("ERROR", "it failed"),
    ]
    assert {(event["run"], event["role"], event["logger"]) for event in events} == {("peg", "driver", "experiments.a")}
    assert (events[0]["episode"], events[0]["folder"]) == ("e1", str(tmp_path))
    assert "ValueError: what happened" in events[1]["exception"]
    assert events[0]["time"].endswith("+00:00")
    assert not process_log._identity


@pytest.mark.parametrize(
    ("setup", "shown"),
    [
        ("driver_log(Path(sys.argv[1]), 'peg').__enter__()", "careful\n"),
        ("log_as_worker(); identify(role='env_runner', index=3)", None),
    ],
)
def test_people_read_the_driver_and_programs_the_workers(tmp_path, setup, shown):
    """In processes of their own: how warnings reach standard error depends on who has touched logging before."""
    code = (
        "import logging, sys\nfrom pathlib import Path\n"
        f"from dopamine_rl.process_log import driver_log, identify, log_as_worker\n{setup}\n"
        "logging.getLogger('actors.a').info('quiet')\nlogging.getLogger('actors.a').warning('careful')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log.jsonl")],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "DOPAMINE_RUN": "peg"},
        capture_output=True,
        text=True,
        check=True,
    )
    if shown is not None:
        assert done.stderr == shown
        return
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["message"] for event in events] == ["quiet", "careful"]
    assert {(event["run"], event["role"], event["index"]) for event in events} == {("peg", "env_runner", 3)}


def test_the_hook_that_workers_are_told_to_run_exists():
    module, _, name = process_log.WORKER_HOOK.rpartition(".")
    assert (module, getattr(process_log, name)) == (process_log.__name__, process_log.log_as_worker)


def test_a_field_of_the_process_does_not_hide_one_of_the_event(tmp_path):
    with driver_log(tmp_path / "log.jsonl", "peg"):
        identify(index=1)
        logging.getLogger("learner").info("x", extra={"index": 7, "potential": float("nan")})
    event = json.loads((tmp_path / "log.jsonl").read_text())
    assert (event["index"], event["potential"]) == (7, None)
