"""Env runners that act each in its own time: nobody waits for a slow one, and a hung one is named and started anew.

RLlib's own calls wait for all env runners or a timeout, so each training step lasts as long as the slowest of them.
Here every env runner has at most one call under way. Its fragments thus arrive in order, and nothing queues up at one
that hangs. The newest weights travel with the request to act, so only those that answered get them.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from dopamine_rl.errors import ActingTimeout

logger = logging.getLogger(__name__)

Acted = tuple[list[Any], Any]
"""What one env runner acted: fragments, one or more of each of its environments, and its metrics."""

LATE_S, LATE_TIMES, FIRST_LATE_S = 5.0, 4.0, 30.0
"""A fragment is late after this long and so many times the usual duration; the last where none is usual yet."""
TICK_S, PING_EVERY_S, STOP_S = 0.5, 1.0, 5.0
"""Pause between two looks at the clock, between two pings of a lost env runner, and what a stop may take."""


@dataclass(frozen=True)
class _Call:
    """A call under way: of which env runner, whether it acts (or is pinged), and since when."""

    runner: int
    acts: bool
    since: float


@dataclass
class _Lost:
    """An env runner that died or was killed: since when (or since the last kill), and when to ping it again."""

    since: float
    ping_at: float


class Acting:
    """The env runners of an algorithm.

    Args:
        group: RLlib's env runners.
        learner_group: whose weights they act with.
        fragment_s: an env runner whose fragment takes longer is killed and started anew.
        patience_s: how long nothing may come from any of them.
    """

    def __init__(self, group: Any, learner_group: Any, fragment_s: float, patience_s: float) -> None:
        self._group, self._learners = group, learner_group
        self._fragment_s, self._patience_s = min(fragment_s, patience_s), patience_s
        self._calls: dict[Any, _Call] = {}
        self._lost: dict[int, _Lost] = {}
        self._durations: deque[float] = deque(maxlen=50)
        self._weights: Any = None
        self._sent: dict[int, Any] = {}
        self._named: set[int] = set()
        self._heard_at = time.monotonic()
        self.replaced = 0
        """How often an env runner was killed because it hung."""
        self.tell: Callable[[str], None] = logger.warning
        """Takes a line about an env runner that is late, lost or back."""

    def publish(self) -> None:
        """Take over the learner's weights; each env runner gets them when it is next asked to act."""
        state = self._learners.get_state(
            components=[f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"], inference_only=True
        )[COMPONENT_LEARNER]
        state = {name: state[name] for name in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}
        if self._group.local_env_runner is not None:
            self._group.local_env_runner.set_state(state)
        if self._group.num_remote_workers():
            self._weights = ray.put(state)

    def ask(self) -> None:
        """Let every env runner that has nothing to do act one fragment."""
        idle = self._idle()
        if idle and self._weights is None:
            self.publish()
        for runner in idle:
            fresh = self._sent.get(runner) is not self._weights
            self._call(runner, _act, acts=True, state=self._weights if fresh else None)
            self._sent[runner] = self._weights

    def take(self, everyone: bool = False) -> list[Acted]:
        """What was acted since the last call; waits for the first env runner that answers where none has yet.

        Args:
            everyone: wait for all that were asked, as on-policy learning must. One that hangs is given up in time.
        Returns:
            one item for each that answered; none where one came back that wants to be asked.
        Raises:
            ActingTimeout: nothing came from any of them for `patience_s`.
        """
        if not self._group.num_remote_workers():
            return [_act(self._group.local_env_runner)]
        answers: list[Acted] = []
        wait_s = 0.0
        while True:
            answers += self._collect(wait_s)
            self._look_after()
            waited_for = everyone and any(call.acts for call in self._calls.values())
            if not waited_for and (answers or self._idle()):
                return answers
            if time.monotonic() - self._heard_at > self._patience_s:
                raise ActingTimeout(
                    f"no env runner answered for {self._patience_s:.0f} s (learner.patience_s): "
                    "look for nodes that are gone, or environments that fail, in Ray's logs"
                )
            wait_s = TICK_S

    def late(self) -> dict[int, float]:
        """Seconds since each env runner that is late was asked, or was lost, by its number (from 1)."""
        now, calls = time.monotonic(), list(self._calls)
        ready = set(ray.wait(calls, num_returns=len(calls), timeout=0)[0]) if calls else set()
        open_calls = (call for ref, call in self._calls.items() if ref not in ready and call.acts)
        late = {call.runner: now - call.since for call in open_calls if now - call.since > self._late_s()}
        return late | {runner: now - lost.since for runner, lost in self._lost.items()}

    def forget(self) -> None:
        """Drop what is being acted: it belongs to a training that was left for a checkpoint."""
        self._calls = {ref: call for ref, call in self._calls.items() if not call.acts}
        self._weights, self._heard_at = None, time.monotonic()
        self._sent.clear()

    def stop(self) -> None:
        """Close the environments of those that answer in time, and end all env runners."""
        manager = self._group._worker_manager
        manager.foreach_actor(_stop, healthy_only=True, timeout_seconds=STOP_S)
        manager.clear()
        self._calls.clear()
        self._lost.clear()

    def _idle(self) -> list[int]:
        busy = {call.runner for call in self._calls.values()} | self._lost.keys()
        return [runner for runner in self._group._worker_manager.actors() if runner not in busy]

    def _call(self, runner: int, function: Callable[..., Any], acts: bool, **arguments: Any) -> None:
        actor = self._group._worker_manager.actors()[runner]
        self._calls[actor.apply.remote(func=function, **arguments)] = _Call(runner, acts, time.monotonic())

    def _collect(self, wait_s: float) -> list[Acted]:
        """Answers that are there; where none is, the first one that comes within `wait_s`."""
        calls = list(self._calls)
        if not calls:
            time.sleep(wait_s)
            return []
        ready, _ = ray.wait(calls, num_returns=1, timeout=wait_s)
        ready = ready and ray.wait(calls, num_returns=len(calls), timeout=0)[0]
        return [answer for ref in ready for answer in self._answer(ref)]

    def _answer(self, ref: Any) -> Iterable[Acted]:
        call, now = self._calls.pop(ref), time.monotonic()
        try:
            answer = ray.get(ref)
        except RayError as error:
            self._lose(call.runner, str(error).splitlines()[0])
            return []
        if call.acts:
            self._named.discard(call.runner)
            self._durations.append(now - call.since)
            self._heard_at = now
            return [answer]
        self.tell(f"env runner {call.runner} is back after {now - self._lost.pop(call.runner).since:.0f} s")
        self._group._worker_manager.set_actor_state(call.runner, healthy=True)
        return []

    def _lose(self, runner: int, reason: str) -> None:
        now = time.monotonic()
        if runner in self._lost:
            self._lost[runner].ping_at = now + PING_EVERY_S
            return
        self._lost[runner] = _Lost(now, now + PING_EVERY_S)
        self._sent.pop(runner, None)
        self._named.discard(runner)
        self._group._worker_manager.set_actor_state(runner, healthy=False)
        self.tell(f"env runner {runner} is lost, the others go on: {reason}")

    def _look_after(self) -> None:
        """Name those that are late, replace those that hang, and ping those that are lost."""
        now = time.monotonic()
        for ref, call in list(self._calls.items()):
            if not call.acts:
                continue
            if now - call.since > self._fragment_s:
                del self._calls[ref]
                self._replace(call.runner, now - call.since)
            elif now - call.since > self._late_s() and call.runner not in self._named:
                self._named.add(call.runner)
                self.tell(f"env runner {call.runner} is late: its fragment has taken {now - call.since:.0f} s so far")
        pinged = {call.runner for call in self._calls.values()}
        for runner, lost in self._lost.items():
            if now - lost.since > self._patience_s:  # It hangs while it starts.
                lost.since = now
                ray.kill(self._group._worker_manager.actors()[runner], no_restart=False)
            if runner not in pinged and now >= lost.ping_at:
                self._call(runner, _ping, acts=False)

    def _replace(self, runner: int, waited_s: float) -> None:
        self.replaced += 1
        ray.kill(self._group._worker_manager.actors()[runner], no_restart=False)
        self._lose(runner, f"its fragment took over {waited_s:.0f} s (learner.sample_timeout_s), it is started anew")

    def _late_s(self) -> float:
        if not self._durations:
            return min(FIRST_LATE_S, self._fragment_s / 2)
        return max(LATE_S, LATE_TIMES * statistics.median(self._durations))


def _act(env_runner: Any, state: Any = None) -> Acted:
    """One fragment of every environment of an env runner, and its metrics; acted with new weights where given."""
    if state is not None:
        env_runner.set_state(state)
    return env_runner.sample(), env_runner.get_metrics()


def _ping(env_runner: Any) -> None:
    """Answers once the env runner has started."""


def _stop(env_runner: Any) -> None:
    """Close an env runner's environments."""
    env_runner.stop()
