"""Asynchronous sampling: no env runner waits for another, and one that hangs is reported and restarted.

RLlib's own calls wait for all env runners or a timeout, so every training step takes as long as the slowest one. Here
every env runner has at most one call in flight. Its fragments therefore arrive in order, and no calls queue up at one
that hangs. New weights are sent with the sampling call, so only env runners that answered get them.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from dopamine_rl.errors import ActingTimeout

logger = logging.getLogger(__name__)

RunnerSample = tuple[list[Any], Any]
"""One call's result: fragments (one or more per environment), and the env runner's metrics."""

LATE_S, LATE_TIMES, FIRST_LATE_S = 5.0, 4.0, 30.0
"""A fragment is late after max(LATE_S, LATE_TIMES · median duration), or after FIRST_LATE_S without earlier ones."""
TICK_S, PING_EVERY_S, STOP_S = 0.5, 1.0, 5.0
"""Polling interval, interval between pings of a lost env runner, and time limit for stopping."""
PUBLISHED = 256
"""Number of published weights whose age is remembered."""


@dataclass(frozen=True)
class _Call:
    """A call in flight: to which env runner, whether it samples (or pings), and since when."""

    runner: int
    samples: bool
    since: float


@dataclass
class _Lost:
    """An env runner that died or was killed: since when (or since it was last killed), and when to ping it next."""

    since: float
    ping_at: float


class Acting:
    """Samples from the env runners of an algorithm.

    Args:
        group: RLlib's env runner group.
        learner_group: provides the weights.
        fragment_s: time limit for a fragment; an env runner that exceeds it is killed and restarted.
        patience_s: time limit for an answer from any env runner.
    """

    def __init__(self, group: Any, learner_group: Any, fragment_s: float, patience_s: float) -> None:
        self._group, self._learners = group, learner_group
        self._fragment_s, self._patience_s = min(fragment_s, patience_s), patience_s
        self._calls: dict[Any, _Call] = {}
        self._lost: dict[int, _Lost] = {}
        self._durations: deque[float] = deque(maxlen=50)
        self._weights: Any = None
        self._sent: dict[int, Any] = {}
        self._restarts: Counter[int] = Counter()
        self._begun: set[int] = set()
        self._reported: set[int] = set()
        self._heard_at = time.monotonic()
        self.steps: Counter[int] = Counter()
        """Environment steps of arrived fragments since the last report, by env runner: from 1; 0 is this process."""
        self._published: OrderedDict[int, int] = OrderedDict()
        self.updates = 0
        """Updates of the learner since this was made; whoever updates adds to it."""
        self.staleness: dict[int, int] = {}
        """By env runner (0 is the driver's): updates between the weights of its last fragment and its arrival."""
        self.replaced = 0
        """Number of env runners killed because they hung."""
        self.on_event: Callable[[str], None] = logger.warning
        """Called with a message when an env runner is late, lost or back."""

    def publish(self) -> None:
        """Publish the learner's weights; each env runner gets them with its next sampling call."""
        state = self._learners.get_state(
            components=[f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"], inference_only=True
        )[COMPONENT_LEARNER]
        state = {name: state[name] for name in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}
        self._published[int(state[WEIGHTS_SEQ_NO])] = self.updates
        if len(self._published) > PUBLISHED:
            self._published.popitem(last=False)
        if self._group.local_env_runner is not None:
            self._group.local_env_runner.set_state(state)
        if self._group.num_remote_workers():
            self._weights = ray.put(state)

    def request(self) -> None:
        """Start sampling one fragment on every idle env runner."""
        idle = self._idle()
        if idle and self._weights is None:
            self.publish()
        for runner in idle:
            outdated = self._sent.get(runner) is not self._weights
            state, restarts = self._weights if outdated else None, self._restarts[runner]
            self._call(runner, _continue, samples=True, restarts=restarts, first=runner not in self._begun, state=state)
            self._sent[runner] = self._weights
            self._begun.add(runner)

    def take(self, everyone: bool = False) -> list[RunnerSample]:
        """Collect the samples that arrived since the last call; waits for the first one if there are none.

        Args:
            everyone: wait for all env runners in flight, as on-policy learning must. One that hangs is given up in
                time.
        Returns:
            One item per env runner that answered; empty if a restarted one came back and is idle.
        Raises:
            ActingTimeout: no env runner answered for `patience_s`.
        """
        if not self._group.num_remote_workers():
            return [self._arrived(0, _sample(self._group.local_env_runner))]
        samples: list[RunnerSample] = []
        wait_s = 0.0
        while True:
            samples += self._collect(wait_s)
            self._supervise()
            in_flight = everyone and any(call.samples for call in self._calls.values())
            if not in_flight and (samples or self._idle()):
                return samples
            if time.monotonic() - self._heard_at > self._patience_s:
                raise ActingTimeout(
                    f"no env runner answered for {self._patience_s:.0f} s (learner.patience_s): "
                    "check Ray's logs for lost nodes or failing environments"
                )
            wait_s = TICK_S

    def late(self) -> dict[int, float]:
        """Late and lost env runners: number (from 1) to seconds since their sampling call, or since they were lost."""
        now, calls = time.monotonic(), list(self._calls)
        ready = set(ray.wait(calls, num_returns=len(calls), timeout=0)[0]) if calls else set()
        open_calls = (call for ref, call in self._calls.items() if ref not in ready and call.samples)
        late = {call.runner: now - call.since for call in open_calls if now - call.since > self._late_s()}
        return late | {runner: now - lost.since for runner, lost in self._lost.items()}

    def forget(self) -> None:
        """Discard samples in flight: they belong to the training before a checkpoint was restored."""
        self._calls = {ref: call for ref, call in self._calls.items() if not call.samples}
        self._weights, self._heard_at = None, time.monotonic()
        self._sent.clear()

    def stop(self) -> None:
        """Close the environments of env runners that answer in time, then end all env runners."""
        manager = self._group._worker_manager
        manager.foreach_actor(_stop, healthy_only=True, timeout_seconds=STOP_S)
        manager.clear()
        self._calls.clear()
        self._lost.clear()

    def _idle(self) -> list[int]:
        busy = {call.runner for call in self._calls.values()} | self._lost.keys()
        return [runner for runner in self._group._worker_manager.actors() if runner not in busy]

    def _call(self, runner: int, function: Callable[..., Any], samples: bool, **arguments: Any) -> None:
        actor = self._group._worker_manager.actors()[runner]
        self._calls[actor.apply.remote(func=function, **arguments)] = _Call(runner, samples, time.monotonic())

    def _collect(self, wait_s: float) -> list[RunnerSample]:
        """All samples that are ready; if none, the first one within `wait_s`."""
        calls = list(self._calls)
        if not calls:
            time.sleep(wait_s)
            return []
        ready, _ = ray.wait(calls, num_returns=1, timeout=wait_s)
        ready = ready and ray.wait(calls, num_returns=len(calls), timeout=0)[0]
        return [sample for ref in ready for sample in self._resolve(ref)]

    def _resolve(self, ref: Any) -> Iterable[RunnerSample]:
        call, now = self._calls.pop(ref), time.monotonic()
        try:
            sample = ray.get(ref)
        except RayError as error:
            self._lose(call.runner, str(error).splitlines()[0])
            return []
        if call.samples and sample is None:
            self._lose(call.runner, "its process was restarted while it was idle")
            return []
        if call.samples:
            self._reported.discard(call.runner)
            self._durations.append(now - call.since)
            self._heard_at = now
            return [self._arrived(call.runner, sample)]
        self.on_event(f"env runner {call.runner} is back after {now - self._lost.pop(call.runner).since:.0f} s")
        self._group._worker_manager.set_actor_state(call.runner, healthy=True)
        return []

    def _arrived(self, runner: int, sample: RunnerSample) -> RunnerSample:
        """The sample, after counting its steps and noting how old its weights are."""
        self.steps[runner] += sum(map(len, sample[0]))
        for fragment in sample[0][-1:]:  # which may be of an earlier call
            if len(fragment) and WEIGHTS_SEQ_NO in fragment.extra_model_outputs:
                since = self._published.get(int(fragment.get_extra_model_outputs(WEIGHTS_SEQ_NO, -1)))
                if since is not None:
                    self.staleness[runner] = self.updates - since
        return sample

    def _lose(self, runner: int, reason: str) -> None:
        now = time.monotonic()
        if runner in self._lost:
            self._lost[runner].ping_at = now + PING_EVERY_S
            return
        self._lost[runner] = _Lost(now, now + PING_EVERY_S)
        self._sent.pop(runner, None)
        self._begun.discard(runner)
        self._restarts[runner] += 1
        self._reported.discard(runner)
        self._group._worker_manager.set_actor_state(runner, healthy=False)
        self.on_event(f"env runner {runner} is lost, the others continue: {reason}")

    def _supervise(self) -> None:
        """Report late env runners, replace hung ones, and ping lost ones."""
        now = time.monotonic()
        for ref, call in list(self._calls.items()):
            if not call.samples:
                continue
            if now - call.since > self._fragment_s:
                del self._calls[ref]
                self._replace(call.runner, now - call.since)
            elif now - call.since > self._late_s() and call.runner not in self._reported:
                self._reported.add(call.runner)
                self.on_event(
                    f"env runner {call.runner} is late: its fragment has taken {now - call.since:.0f} s so far"
                )
        pinged = {call.runner for call in self._calls.values()}
        for runner, lost in self._lost.items():
            if now - lost.since > self._patience_s:  # It hangs during its restart.
                lost.since = now
                ray.kill(self._group._worker_manager.actors()[runner], no_restart=False)
            if runner not in pinged and now >= lost.ping_at:
                self._call(runner, _ping, samples=False)

    def _replace(self, runner: int, waited_s: float) -> None:
        self.replaced += 1
        ray.kill(self._group._worker_manager.actors()[runner], no_restart=False)
        self._lose(runner, f"its fragment took over {waited_s:.0f} s (learner.sample_timeout_s); it is restarted")

    def _late_s(self) -> float:
        if not self._durations:
            return min(FIRST_LATE_S, self._fragment_s / 2)
        return max(LATE_S, LATE_TIMES * statistics.median(self._durations))


def _sample(env_runner: Any, state: Any = None) -> RunnerSample:
    """Sample one fragment from every environment of an env runner, after updating its weights if `state` is given."""
    if state is not None:
        env_runner.set_state(state)
    return env_runner.sample(), env_runner.get_metrics()


def _continue(env_runner: Any, restarts: int, first: bool, state: Any) -> RunnerSample | None:
    """`_sample`, unless the env runner's process has been restarted: that one has neither weights nor a new seed."""
    return _sample(env_runner, state) if env_runner.continues(restarts, first) else None


def _ping(env_runner: Any) -> None:
    """Return as soon as the env runner has started."""


def _stop(env_runner: Any) -> None:
    """Close an env runner's environments; one that cannot be closed is no reason to restart the process."""
    with contextlib.suppress(Exception):
        env_runner.stop()
