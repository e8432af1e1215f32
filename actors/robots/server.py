"""Lets clients drive one robot over TCP, within its limits. The messages: actors.robots.wire.

Each connection has a thread, which reads one message, answers it, and reads the next. None of them touches the driver:
they talk to the Supervisor, and read the observation of the latest control period.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from actors.robots.driving import Driving, Period
from actors.robots.supervisor import HOLD, RANKS, Refused, Session
from actors.robots.wire import PROTOCOL, REQUEST_BYTES, pack, pack_observation, proof, receive
from dopamine_rl.addresses import is_loopback
from dopamine_rl.errors import BadInput, RobotError, RobotLost, WireError
from dopamine_rl.interfaces import ResettableRobot

logger = logging.getLogger(__name__)
LABELS = ("success", "failure", "discard", "stage", "ready")
"""What a person says of an episode: how it ended; stage: its next one begins; ready: the scene is reset."""
SHORTEST_TOKEN = 16
MOST_TEXT = 200


@dataclass(frozen=True)
class Listening:
    """How a server is reached.

    Args:
        host, port: to listen on; port 0 takes a free one.
        token: that clients must know; "" asks for none.
        tls: context of a server; None for plain TCP.
        insecure: listen off loopback without TLS.
        most_connections: more are closed at once.
        hello_s, idle_s: time for a client's first message, and for each further one.
        messages_hz: messages a second of one connection; more are read later.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str = ""
    tls: ssl.SSLContext | None = None
    insecure: bool = False
    most_connections: int = 16
    hello_s: float = 5.0
    idle_s: float = 10.0
    messages_hz: float = 1000.0

    def __post_init__(self) -> None:
        if self.token and len(self.token) < SHORTEST_TOKEN:
            raise BadInput("token", f"{len(self.token)} characters", f"give one of at least {SHORTEST_TOKEN}")
        if not is_loopback(self.host):
            if self.tls is None and not self.insecure:
                fix = "give --tls-cert FILE, or say --insecure: then whoever is on the way can read and change commands"
                raise BadInput("host", self.host, fix)
            if not self.token:
                raise BadInput("token", "", "give one: other machines can reach this robot")


class Complaints:
    """Logs at most one line in so many seconds, with the number of those left out, so that no stranger fills a disk."""

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s, self._last_s, self._left_out, self._lock = every_s, -every_s, 0, threading.Lock()

    def add(self, line: str) -> None:
        """Log a line, or count it."""
        with self._lock:
            now = time.monotonic()
            if now - self._last_s < self._every_s:
                self._left_out += 1
                return
            more = f" ({self._left_out} more before)" if self._left_out else ""
            self._last_s, self._left_out = now, 0
        logger.warning("%s%s", line, more)


class RobotServer:
    """Serves a robot. Use as a context.

    Args:
        driving: the robot, in operation.
        listening: how it is reached.
    """

    def __init__(self, driving: Driving, listening: Listening) -> None:
        self._driving, self._listening = driving, listening
        self._supervisor, self._changed = driving.supervisor, driving.changed
        self._connections: set[socket.socket] = set()
        self._sessions = 0
        self._label, self._asked = (0, ""), ""
        self._complaints = Complaints()
        self._answers: dict[str, Callable[[Session, Mapping[str, Any]], Mapping[str, Any]]] = {
            name.removeprefix("_on_"): getattr(self, name) for name in dir(self) if name.startswith("_on_")
        }

    def __enter__(self) -> RobotServer:
        family = socket.AF_INET6 if ":" in self._listening.host else socket.AF_INET
        try:
            self._socket = socket.create_server((self._listening.host, self._listening.port), family=family)
        except OSError as error:
            raise BadInput("port", self._listening.port, f"give a free one ({error.strerror})") from None
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        host, port = self._socket.getsockname()[:2]
        return f"{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                connection, (host, *_) = self._socket.accept()
            except OSError:
                return
            if len(self._connections) >= self._listening.most_connections:
                connection.close()
                continue
            self._connections.add(connection)
            threading.Thread(target=self._attend, args=(connection, host), daemon=True).start()

    def _attend(self, raw: socket.socket, host: str) -> None:
        """Answer one connection until it ends or sends what is no message; then its control ends."""
        session, connection = None, raw
        try:
            raw.settimeout(self._listening.hello_s)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._listening.tls is not None:
                connection = self._listening.tls.wrap_socket(raw, server_side=True)
            session = self._welcome(connection)
            connection.settimeout(self._listening.idle_s)
            self._converse(connection, session)
        except (WireError, Refused) as error:
            self._complaints.add(f"{host}: connection closed: {error}")
            with contextlib.suppress(OSError):
                connection.sendall(pack({"n": 0, "ok": False, "reason": str(error)[:MOST_TEXT]}))
        except (OSError, RobotLost):
            pass
        finally:
            if session is not None:
                with self._changed:
                    self._supervisor.give(session, time.monotonic())
            with contextlib.suppress(OSError):
                connection.close()
            self._connections.discard(raw)

    def _welcome(self, connection: socket.socket) -> Session:
        """Ask who connects. Raises Refused for one that does not know the token."""
        nonce = os.urandom(16)
        connection.sendall(pack({"protocol": PROTOCOL, "nonce": nonce}))
        hello = receive(connection, REQUEST_BYTES)
        given, rank, name = hello.get("proof"), hello.get("rank"), hello.get("name", "")
        if hello.get("kind") != "hello" or hello.get("n") != 1 or not isinstance(given, bytes):
            raise WireError("the first message is no hello")
        if self._listening.token and not hmac.compare_digest(given, proof(self._listening.token, nonce)):
            raise Refused("the token is wrong")
        if rank not in RANKS or not isinstance(name, str):
            raise WireError(f"rank is one of {', '.join(RANKS)}")
        with self._changed:
            self._sessions += 1
            session = Session(self._sessions, rank, name[:MOST_TEXT])
        connection.sendall(pack({"n": 1, "ok": True, **self._about()}))
        return session

    def _about(self) -> dict[str, Any]:
        robot, limits = self._driving.robot, self._driving.limits
        features = robot.observation_features.items()
        return {
            "observation": {name: list(kind) if isinstance(kind, tuple) else [] for name, kind in features},
            "action": list(robot.action_features),
            "limits": {**asdict(limits), "box": None if limits.box is None else [list(end) for end in limits.box]},
            "workspace_checked": self._driving.kinematic and limits.box is not None,
            "resettable": isinstance(robot, ResettableRobot),
            "dry_run": self._driving.dry_run,
        }

    def _converse(self, connection: socket.socket, session: Session) -> None:
        number, apart_s, due = 1, 1.0 / self._listening.messages_hz, time.monotonic()
        while True:
            message = receive(connection, REQUEST_BYTES)
            number += 1
            if message.get("n") != number:
                raise WireError(f"message {message.get('n')!r:.40} after {number - 1}")
            answer = self._answers.get(str(message.get("kind")))
            if answer is None:
                raise WireError(f"unknown kind {message.get('kind')!r:.40}")
            try:
                reply = {"ok": True, **answer(session, message)}
            except RobotError as error:
                reply = {"ok": False, "reason": str(error)}
            connection.sendall(pack({"n": number, **reply}))
            due = max(due + apart_s, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))

    def _on_ping(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"clock_s": time.monotonic()}

    def _on_take(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            self._supervisor.take(session, time.monotonic())
        return {}

    def _on_give(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            self._supervisor.give(session, time.monotonic())
        return {}

    def _on_act(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        action, sent_s = message.get("action"), message.get("sent_s")
        if not isinstance(action, dict) or not (sent_s is None or isinstance(sent_s, float)):
            raise Refused("an action is a map of numbers")
        with self._changed:
            before = self._driving.ticked
            if not self._supervisor.is_displaced(session):
                self._supervisor.command(session, action, time.monotonic(), sent_s)
        return self._told(self._driving.after(before, self._patience_s))

    def _on_observe(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        after = message.get("after", 0)
        if not isinstance(after, int):
            raise Refused("`after` is the number of a period")
        period, observation = self._driving.observed(min(after, self._driving.ticked), self._patience_s)
        return {**self._told(period), **pack_observation(observation)}

    def _on_hold(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            holder = self._supervisor.holder
            if session.rank != "person" and (holder is None or holder.number != session.number):
                raise Refused("only who has control, or a person, holds the robot")
            self._supervisor.protect(HOLD, f"held by {session.name or session.rank}")
        return {}

    def _on_stop(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            self._supervisor.emergency_stop(f"emergency stop by {session.name or session.rank}")
        return {}

    def _on_rearm(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            self._supervisor.rearm(session, time.monotonic())
        return {}

    def _on_reset(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        seed = message.get("seed")
        if not isinstance(seed, int) or not 0 <= seed < 1 << 31:
            raise Refused("a seed is a whole number from 0 to 2147483647")
        with self._changed:
            if self._supervisor.holder is None or self._supervisor.holder.number != session.number:
                raise Refused("only who has control resets the robot")
            if self._supervisor.latched:
                raise Refused(f"emergency stop ({self._supervisor.reason})")
            self._driving.request_reset(seed)
        return {}

    def _on_label(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if session.rank != "person" or message.get("label") not in LABELS:
            raise Refused(f"a person says one of {', '.join(LABELS)}")
        with self._changed:
            self._label = (self._label[0] + 1, str(message["label"]))
        return {}

    def _on_ask(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            self._asked = str(message.get("text", ""))[:MOST_TEXT]
        return {}

    def _on_status(self, session: Session, message: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._changed:
            supervisor, driving = self._supervisor, self._driving
            holder = supervisor.holder
            return {
                "state": supervisor.state,
                "reason": supervisor.reason,
                "latched": supervisor.latched,
                "resetting": supervisor.resetting,
                "holder": "" if holder is None else f"{holder.rank} {holder.name}".strip(),
                "in_control": holder is not None and holder.number == session.number,
                "displaced": supervisor.is_displaced(session),
                "counts": dict(supervisor.counts),
                "overruns": driving.overruns,
                "hung": driving.hung,
                "period": driving.ticked,
                "asked": self._asked,
                "label": list(self._label),
            }

    @property
    def _patience_s(self) -> float:
        """How long an answer waits for a period."""
        return 2.0 * self._driving.limits.period_s + self._driving.limits.stop_after_ms / 1e3

    def _told(self, period: Period) -> dict[str, Any]:
        """A period without its observation."""
        return {
            "period": period.number,
            "executed": dict(period.executed),
            "by": period.by,
            "reason": period.reason,
            "observed_s": period.observed_s,
            "label": list(self._label),
        }
