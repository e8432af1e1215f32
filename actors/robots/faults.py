"""Faults of a robot and of the way to it, on purpose: for the simulated twin, tests, and drills."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.robots.wire import split_address
from dopamine_rl.errors import BadInput, RobotError, require

RESENT_S = 0.2
"""A message that is lost on the way arrives so much later: TCP sends it again."""
CHUNK = 1 << 18


@dataclass(frozen=True)
class Faults:
    """What goes wrong."""

    latency_ms: float = 0.0
    """Delay of everything sent, one way."""
    jitter_ms: float = 0.0
    """Further delay, drawn from 0 to this."""
    loss: float = 0.0
    """Share of sent pieces that are lost and sent again, 200 ms later."""
    disconnect_every_s: float = 0.0
    """Every connection breaks after so long; 0: none does."""
    frozen: str = ""
    """A camera that shows its first picture always."""
    stuck: str = ""
    """An entry of the actions that does not move, though the driver says so."""
    refuse: float = 0.0
    """Share of the commands that the driver refuses."""
    hang_s: float = 0.0
    """Every hundredth command blocks for so long."""
    slow_person_s: float = 0.0
    """A reset takes so much longer."""
    seed: int = 0
    """Of what is drawn."""

    def __post_init__(self) -> None:
        times = ("latency_ms", "jitter_ms", "disconnect_every_s", "hang_s", "slow_person_s")
        require(
            "faults",
            self,
            *((name, 0.0 <= getattr(self, name) < 1e6, "give a time of at least 0") for name in times),
            *(
                (name, 0.0 <= getattr(self, name) < 1.0, "give a share from 0 to below 1")
                for name in ("loss", "refuse")
            ),
        )

    @property
    def on_the_way(self) -> bool:
        """Whether the connection has faults."""
        return bool(self.latency_ms or self.jitter_ms or self.loss or self.disconnect_every_s)


class FaultyRobot:
    """A resettable driver with faults, which `faults` may change at any time.

    Args:
        robot: the driver. faults: of it.
    Raises:
        BadInput: it has no such camera or entry.
    """

    def __init__(self, robot: Any, faults: Faults) -> None:
        self._robot, self.faults, self._rng = robot, faults, np.random.default_rng(faults.seed)
        self._frozen: Any = None
        self._commands = 0
        for field, name, known in (
            ("faults.frozen", faults.frozen, robot.observation_features),
            ("faults.stuck", faults.stuck, robot.action_features),
        ):
            if name and name not in known:
                raise BadInput(field, name, f"give one of {', '.join(known)}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._robot, name)

    def get_observation(self) -> Mapping[str, Any]:
        """With a frozen picture."""
        observation = dict(self._robot.get_observation())
        frozen = self.faults.frozen
        self._frozen = np.copy(observation[frozen]) if frozen and self._frozen is None else self._frozen
        if frozen:
            observation[frozen] = self._frozen
        else:
            self._frozen = None
        return observation

    def send_action(self, action: Mapping[str, float]) -> Mapping[str, float]:
        """Refused, blocked, or with an entry that does not move."""
        self._commands += 1
        if self._rng.uniform() < self.faults.refuse:
            raise RobotError("refused on purpose")
        if self.faults.hang_s and self._commands % 100 == 0:
            time.sleep(self.faults.hang_s)
        stuck = self.faults.stuck
        told = {**action, stuck: self._robot.get_observation().get(stuck, 0.0)} if stuck else dict(action)
        executed: Mapping[str, float] = self._robot.send_action(told)
        return {**executed, stuck: action[stuck]} if stuck else executed

    def hold(self) -> None:
        """The driver's."""
        self._robot.hold()

    def stop(self) -> None:
        """The driver's."""
        self._robot.stop()

    def tool_after(self, observation: Mapping[str, Any], action: Mapping[str, float] | None) -> Sequence[float]:
        """The driver's."""
        point: Sequence[float] = self._robot.tool_after(observation, action)
        return point

    def reset(self, seed: int) -> None:
        """By a person who takes their time."""
        time.sleep(self.faults.slow_person_s)
        self._robot.reset(seed)


class FaultyLink:
    """A way to a server that delays, loses and breaks. Use as a context; clients connect to `address`.

    Args:
        address: HOST:PORT of the server.
        faults: of the way; `self.faults` may be changed at any time.
        port: to listen on, on this machine; 0 takes a free one.
    """

    def __init__(self, address: str, faults: Faults, port: int = 0) -> None:
        self._to, self.faults, self._port = split_address("address", address), faults, port
        self._silent_until_s = 0.0
        self._rng, self._open = np.random.default_rng(faults.seed), set[socket.socket]()

    def __enter__(self) -> FaultyLink:
        self._socket = socket.create_server(("127.0.0.1", self._port))
        self.address = "{}:{}".format(*self._socket.getsockname()[:2])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in [self._socket, *self._open]:
            _close(connection)

    def cut(self) -> None:
        """Break all connections."""
        for connection in list(self._open):
            _close(connection)

    def silence(self, for_s: float) -> None:
        """Carry nothing for so long, without breaking a connection."""
        self._silent_until_s = time.monotonic() + for_s

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
                far = socket.create_connection(self._to, 5.0)
            except OSError:
                return
            self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                one.settimeout(None)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(1000)
                threading.Thread(target=self._read, args=(one, waiting), daemon=True).start()
                threading.Thread(target=self._write, args=(one, other, waiting), daemon=True).start()
            if self.faults.disconnect_every_s:
                timer = threading.Timer(self.faults.disconnect_every_s, lambda ends=(near, far): [*map(_close, ends)])
                timer.daemon = True
                timer.start()

    def _read(self, source: socket.socket, waiting: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            late_s = (self.faults.latency_ms + self._rng.uniform(0.0, self.faults.jitter_ms)) / 1e3
            late_s += RESENT_S * (self._rng.uniform() < self.faults.loss)
            waiting.put((time.monotonic() + late_s, data))

    def _write(self, source: socket.socket, sink: socket.socket, waiting: queue.Queue[tuple[float, bytes]]) -> None:
        while True:
            due_s, data = waiting.get()
            while (wait_s := max(due_s, self._silent_until_s) - time.monotonic()) > 0.0:
                time.sleep(wait_s)
            try:
                if not data:
                    raise OSError
                sink.sendall(data)
            except OSError:
                for connection in (source, sink):
                    _close(connection)
                    self._open.discard(connection)
                return


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
