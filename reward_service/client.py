"""The reward client inside the cluster: calls the Serve application, and maps its failures to our errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from dopamine_rl.errors import Overloaded, ScoringError, ScoringTimeout, ServiceUnavailable
from dopamine_rl.types import ScoreReply, ScoreRequest
from reward_service.service import ServiceDescription

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
"""Backoff between retries: the router learns of a lost replica slightly later than its callers."""


class ServeRewardClient:
    """A RewardClient for a Serve application. Picklable; connects on first use.

    The pictures of a request must not be changed after `submit`: they are encoded in the background.

    Args:
        app_name: as given to `deploy`.
    """

    def __init__(self, app_name: str) -> None:
        self.app_name = app_name
        self._connected: DeploymentHandle | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"app_name": self.app_name, "_connected": None}

    def submit(self, request: ScoreRequest) -> ServePendingScore:
        """Send a request without waiting for its reply. Raises ServiceUnavailable if the application does not exist."""
        return ServePendingScore(lambda remaining_ms: self._send(request, remaining_ms), request.remaining_ms)

    def model_version(self, timeout_s: float) -> str:
        """The model version currently served. Raises ScoringTimeout or ServiceUnavailable."""
        return self.describe(timeout_s).versions[0]

    def tower_version(self, timeout_s: float) -> str:
        """The vision tower of the model version currently served. Raises ScoringTimeout or ServiceUnavailable."""
        return self.describe(timeout_s).towers[0]

    def describe(self, timeout_s: float) -> ServiceDescription:
        """The description of one replica. Raises ScoringTimeout, Overloaded or ServiceUnavailable."""
        return _Call(lambda: self._handle().describe.remote()).result(timeout_s)

    def describe_all(self, timeout_s: float) -> list[ServiceDescription]:
        """The descriptions of all replicas. Raises ServiceUnavailable if one did not answer in time."""
        try:
            descriptions: list[ServiceDescription] = self._handle().broadcast("describe").results(timeout_s=timeout_s)
        except (RayServeException, RayError, TimeoutError) as error:
            raise ServiceUnavailable(f"a replica did not answer: {type(error).__name__}: {error}") from error
        return descriptions

    def close(self) -> None:
        """Disconnect. Otherwise the router would keep reporting its load, even after the application is gone."""
        if self._connected is not None:
            self._connected.shutdown()
            self._connected = None

    def _send(self, request: ScoreRequest, remaining_ms: float) -> DeploymentResponse:
        call = self._handle().options(method_name="score", session_id=request.context.episode_id)
        response: DeploymentResponse = call.remote(replace(request, remaining_ms=remaining_ms))
        return response

    def _handle(self) -> Any:
        if self._connected is None:
            self._connected = serve.get_app_handle(self.app_name)
        return self._connected


class ServePendingScore:
    """A request in flight (a PendingScore)."""

    def __init__(self, send: Callable[[float], DeploymentResponse], remaining_ms: float) -> None:
        expires_at = time.monotonic() + remaining_ms / 1e3
        self._call: _Call[ScoreReply | ScoringError] = _Call(lambda: send((expires_at - time.monotonic()) * 1e3))

    @property
    def retries(self) -> int:
        """How often the request was resent because its replica was lost."""
        return self._call.retries

    def ready(self) -> bool:
        """Whether the reply or an error is there. A request whose replica was lost is sent again."""
        return self._call.ready()

    def result(self, timeout_s: float) -> ScoreReply:
        """Wait for the reply. A late request is cancelled and stays late.

        Raises:
            ScoringTimeout, Overloaded, VersionUnavailable, TowerUnavailable, ServiceUnavailable.
        """
        answer = self._call.result(timeout_s)
        if isinstance(answer, ScoringError):
            raise answer
        return answer


class _Call(Generic[T]):
    """A call of the deployment, resent if its replica is lost. This is safe because scoring is idempotent."""

    def __init__(self, send: Callable[[], DeploymentResponse]) -> None:
        self._send, self.retries = send, 0
        self._error: ScoringError | None = None
        self._response = self._send_or_raise()

    def result(self, timeout_s: float) -> T:
        if self._error is not None:
            raise self._error
        try:
            return self._wait(time.monotonic() + timeout_s)
        except ScoringError as error:
            self._error = error
            raise

    def ready(self) -> bool:
        if self._error is not None:
            return True
        try:
            self._response.result(timeout_s=0.0)
        except (RayActorError, ReplicaUnavailableError):
            return not self._sent_again()
        except TimeoutError:
            return False
        except (RayServeException, RayError):
            pass  # `result` says what it is
        return True

    def _sent_again(self) -> bool:
        try:
            self._response = self._send_or_raise()
        except ServiceUnavailable as error:
            self._error = error
            return False
        self.retries += 1
        return True

    def _wait(self, deadline: float) -> T:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                answer: T = self._response.result(timeout_s=max(0.0, deadline - time.monotonic()))
                return answer
            except (RayActorError, ReplicaUnavailableError) as error:
                if time.monotonic() + pause_s >= deadline:
                    raise ServiceUnavailable(f"the replica was lost: {error}") from error
            except TimeoutError as error:
                self._cancel()
                if self.retries:
                    raise ServiceUnavailable("the replica was lost, and no other answered in time") from error
                raise ScoringTimeout("no answer in time") from error
            except BackPressureError as error:
                raise Overloaded(str(error)) from error
            except (RayServeException, RayError) as error:
                raise ServiceUnavailable(f"{type(error).__name__}: {error}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.retries += 1
            self._response = self._send_or_raise()

    def _cancel(self) -> None:
        # A request that nobody waits for should not cost the service anything. Cancelling a finished one is harmless.
        with contextlib.suppress(RayServeException, RayError):
            self._response.cancel()

    def _send_or_raise(self) -> DeploymentResponse:
        try:
            return self._send()
        except (RayServeException, RayError) as error:
            raise ServiceUnavailable(f"the reward service cannot be reached: {error}") from error
