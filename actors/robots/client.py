"""A robot on another computer, as a Robot: what a server of actors.robots.server drives.

with RemoteRobot("192.168.0.7:5601", token="…") as robot:
    robot.take()
    robot.send_action({"shoulder.pos": 12.0})     # returns what was really executed, after the control period
    robot.get_observation()                       # the first one after that action
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.robots.limits import AxisLimits, Limits
from actors.robots.wire import PROTOCOL, REPLY_BYTES, pack, proof, receive, split_address, unpack_observation
from dopamine_rl.errors import BadInput, RobotError, RobotLost, WireError

TOKEN_VARIABLE = "DOPAMINE_TOKEN"
HEARTBEAT_S = 2.0
CLOCK_PINGS = 5


@dataclass(frozen=True)
class Executed:
    """What the server says of a control period.

    Args:
        period: its number.
        by: rank of who moved the robot, "brake" where its action came too late, "nobody" if it did not move.
        reason: why it did not move.
        observed_s: when its observation was complete, in this computer's time.monotonic().
        label: how many labels a person has given, and the last one.
        values: the action that was executed.
    """

    period: int = 0
    by: str = "nobody"
    reason: str = ""
    observed_s: float = 0.0
    label: tuple[int, str] = (0, "")
    values: Mapping[str, float] = field(default_factory=dict)


class RemoteRobot:
    """A Robot behind a server. It has control after `take`, and may be used from several threads.

    Args:
        address: HOST:PORT of the server.
        token: that the server asks for; None: the environment variable DOPAMINE_TOKEN.
        rank: "policy", "person", or "watch".
        name: shown to others.
        tls_ca: PEM file of the certificate that vouches for the server; None: plain TCP.
        timeout_s: longest wait for an answer.

    `executed` is the control period of the last action, `observed` that of the last observation, which may be later.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        rank: str = "policy",
        name: str = "",
        tls_ca: Path | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._where = split_address("address", address)
        self.address, self._rank, self._name, self._timeout_s = address, rank, name, timeout_s
        self._token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        self._tls = None if tls_ca is None else _tls_context(tls_ca)
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._about: Mapping[str, Any] = {}
        self._number, self._after, self._offset_s = 0, 0, 0.0
        self.executed = self.observed = Executed()

    def __enter__(self) -> RemoteRobot:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    @property
    def is_connected(self) -> bool:
        """Whether the server answers."""
        return self._socket is not None

    @property
    def observation_features(self) -> Mapping[str, type | tuple[int, ...]]:
        """See Robot. Known once connected."""
        return {name: tuple(shape) if shape else float for name, shape in self._about["observation"].items()}

    @property
    def action_features(self) -> Mapping[str, type]:
        """See Robot. Known once connected."""
        return dict.fromkeys(self._about["action"], float)

    @property
    def limits(self) -> Limits:
        """The limits that the server keeps."""
        given = self._about["limits"]
        box = None if given["box"] is None else (tuple(given["box"][0]), tuple(given["box"][1]))
        return Limits(
            **{**given, "axes": {name: AxisLimits(**axis) for name, axis in given["axes"].items()}, "box": box}
        )

    @property
    def about(self) -> Mapping[str, Any]:
        """What else the server says: workspace_checked, resettable, dry_run."""
        return self._about

    def connect(self) -> None:
        """Connect, and learn the server's clock.

        Raises:
            RobotLost: nobody answers there.
            RobotError: the server refuses, for example a wrong token.
        """
        self.disconnect()
        try:
            self._socket = socket.create_connection(self._where, self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                self._socket = self._tls.wrap_socket(self._socket, server_hostname=self._where[0])
            greeting = receive(self._socket, REPLY_BYTES)
        except (OSError, WireError) as error:
            self.disconnect()
            raise RobotLost(f"no robot server at {self.address}: {error}") from None
        if greeting.get("protocol") != PROTOCOL or not isinstance(greeting.get("nonce"), bytes):
            self.disconnect()
            raise RobotLost(f"{self.address} is no robot server of protocol {PROTOCOL}")
        self._number, self._after = 0, 0
        self.executed = self.observed = Executed()
        mark = proof(self._token, greeting["nonce"])
        self._about = self._ask("hello", proof=mark, rank=self._rank, name=self._name)
        self._measure_clock()
        threading.Thread(target=self._beat, args=(self._socket,), daemon=True).start()

    def disconnect(self) -> None:
        """End the connection, and control with it."""
        connection, self._socket = self._socket, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def get_observation(self) -> dict[str, Any]:
        """The first observation after the last action; the next one, where there was none since the last call."""
        reply = self._ask("observe", after=self._after)
        self.observed = self._period(reply)
        self._after = self.observed.period
        return unpack_observation(reply)

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        """Act in the next control period, and wait for it. Returns what was executed; `executed` says by whom.

        Raises:
            RobotError: the action is refused; the message says why.
        """
        values = {name: float(value) for name, value in action.items()}
        reply = self._ask("act", action=values, sent_s=time.monotonic() + self._offset_s)
        self.executed = self._period(reply)
        self._after = self.executed.period - 1
        return dict(self.executed.values)

    def take(self) -> None:
        """Ask for control. Raises RobotError if another has it."""
        self._ask("take")

    def give(self) -> None:
        """Give control back."""
        self._ask("give")

    def hold(self) -> None:
        """Have the robot stay where it is; the next action moves it again."""
        self._ask("hold")

    def stop(self) -> None:
        """Emergency stop, until a person re-arms."""
        self._ask("stop")

    def rearm(self) -> None:
        """End an emergency stop, as a person."""
        self._ask("rearm")

    def begin_reset(self, seed: int) -> None:
        """Have the driver reset the robot; `status()["resetting"]` tells when it is done."""
        self._ask("reset", seed=seed)

    def label(self, word: str) -> None:
        """Say as a person of an episode: one of actors.robots.server.LABELS."""
        self._ask("label", label=word)

    def ask(self, text: str) -> None:
        """Ask the person at the robot for something; "" withdraws it."""
        self._ask("ask", text=text)

    def status(self) -> dict[str, Any]:
        """Who has control, whether and why the robot stands, and the server's counts."""
        return self._ask("status")

    def _period(self, reply: Mapping[str, Any]) -> Executed:
        count, word = reply["label"]
        seen_s = reply["observed_s"] - self._offset_s
        values = {name: float(value) for name, value in reply["executed"].items()}
        return Executed(reply["period"], reply["by"], reply["reason"], seen_s, (count, word), values)

    def _ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send one message and wait for its answer. Raises RobotError where it is refused, RobotLost."""
        with self._lock:
            connection = self._socket
            if connection is None:
                raise RobotLost(f"not connected to {self.address}")
            self._number += 1
            try:
                connection.sendall(pack({"kind": kind, "n": self._number, **fields}))
                reply = receive(connection, REPLY_BYTES)
                if reply.get("n") not in (self._number, 0):
                    raise WireError(f"answer {reply.get('n')} to message {self._number}")
            except (OSError, WireError) as error:
                self.disconnect()
                raise RobotLost(f"the robot at {self.address} is lost: {error or type(error).__name__}") from None
        if not reply.get("ok"):
            raise RobotError(str(reply.get("reason")))
        return reply

    def _measure_clock(self) -> None:
        """Learn what the server's clock shows, from the quickest of some answers."""
        best_s = np.inf
        for _ in range(CLOCK_PINGS):
            sent_s = time.monotonic()
            there_s = self._ask("ping")["clock_s"]
            took_s = time.monotonic() - sent_s
            if took_s < best_s:
                best_s, self._offset_s = took_s, there_s - (sent_s + took_s / 2)

    def _beat(self, connection: socket.socket) -> None:
        """Say from time to time that this client is there."""
        while self._socket is connection:
            time.sleep(HEARTBEAT_S)
            with contextlib.suppress(RobotError):
                if self._socket is connection:
                    self._ask("ping")


def _tls_context(tls_ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(tls_ca))
    except (OSError, ssl.SSLError) as error:
        raise BadInput("tls_ca", str(tls_ca), f"give a PEM file with the server's certificate ({error})") from None
