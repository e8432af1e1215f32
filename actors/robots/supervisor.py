"""Who may move the robot, and when it must not move. Rules alone: no thread, no robot; every call is given the time.

                  a command each period              none for hold_after_ms              none for stop_after_ms
    nobody ──take──▶ moving ────────────────▶ moving ───────────────────────▶ holding ────────────────────────▶ stopped
                       ▲                                                        │ the next command               │ take
                       └──────── begins at rest, at the measured pose ──────────┴────────────────────────────────┘

One session has control at a time, others watch. A person takes it from a policy, and the policy gets it back when the
person gives it back. `emergency_stop` is open to everybody and lasts until a person re-arms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.robots.limits import Limits
from actors.robots.motion import MotionFilter, MotionRefused, check_action
from dopamine_rl.errors import RobotError

RANKS = ("watch", "policy", "person")
"""What a session is, in rising order: it takes control only from a lower one. Who watches has none."""
HOLD, STOP = "hold", "stop"
MOVING, HOLDING, STOPPED = "moving", "holding", "stopped"


class Refused(RobotError):
    """A command that is not executed."""


@dataclass(frozen=True)
class Session:
    """One connection of a client.

    Args:
        number: its own.
        rank: one of RANKS.
        name: for people.
    """

    number: int
    rank: str
    name: str = ""


@dataclass(frozen=True)
class Motion:
    """What to send to the robot in one period.

    Args:
        values: the action, within the limits.
        by: rank of who asked for it; "brake" where nobody did in time.
        epoch: of protection; a change while the robot is told means that it must hold again.
    """

    values: Mapping[str, float]
    by: str
    epoch: int


class Supervisor:
    """Decides in every control period whether the robot moves. Not thread-safe: its owner has a lock.

    Args:
        limits: of the robot.
        motion: keeps actions within them.
    """

    def __init__(self, limits: Limits, motion: MotionFilter) -> None:
        self.limits, self._motion = limits, motion
        self.holder: Session | None = None
        self._displaced: Session | None = None
        self._pending: Mapping[str, float] | None = None
        self._commanded_s = 0.0
        self._owed: str | None = None
        self.state, self.reason, self.latched, self.epoch, self.resetting = (
            HOLDING,
            "nobody has control",
            False,
            0,
            False,
        )
        self.counts: Counter[str] = Counter()
        self._unseen = ""

    def take(self, session: Session, now: float) -> None:
        """Give control to a session; also that of an equal who has sent nothing until the watchdog stopped the robot.

        Raises:
            Refused: it has no right to control, or one of no lower rank has it.
        """
        holder = self.holder
        if session.rank not in RANKS[1:]:
            raise Refused("who watches has no control")
        if self.latched:
            raise Refused(f"emergency stop ({self.reason}): a person must re-arm first")
        if holder is not None and holder.number != session.number:
            higher = RANKS.index(session.rank) - RANKS.index(holder.rank)
            if higher < 0 or (higher == 0 and self.state != STOPPED):
                raise Refused(f"{holder.name or holder.rank} has control")
            self._displaced = holder if higher else None
        if holder is None or holder.number != session.number or self.state == STOPPED:
            self._protect(HOLD, HOLDING, f"{session.name or session.rank} takes control")
            self.holder, self._commanded_s = session, now

    def give(self, session: Session, now: float) -> None:
        """End a session's control, or its wait for control; that of a displaced policy returns."""
        if self._displaced is not None and self._displaced.number == session.number:
            self._displaced = None
        if self.holder is None or self.holder.number != session.number:
            return
        self.holder, self._displaced, self._commanded_s = self._displaced, None, now
        self._stay(f"{session.name or session.rank} gave control")

    def is_displaced(self, session: Session) -> bool:
        """Whether a session lost control to a person who has it still."""
        return self._displaced is not None and self._displaced.number == session.number

    def command(self, session: Session, action: Mapping[str, Any], now: float, sent_s: float | None = None) -> None:
        """Take an action for the next period.

        Args:
            sent_s: when it was sent, in the time of `now`.
        Raises:
            Refused: who sent it has no control, the robot is stopped, or the action is no action or too old.
        """
        try:
            if self.latched or self.state == STOPPED:
                raise Refused(f"the robot is stopped ({self.reason})")
            if self.resetting:
                raise Refused("the robot is being reset")
            if self.holder is None or self.holder.number != session.number:
                raise Refused(f"{self.holder.name or self.holder.rank if self.holder else 'nobody'} has control")
            if self._unseen and session.rank == "policy":
                raise Refused(self._unseen)
            if sent_s is not None and now - sent_s > self.limits.hold_after_ms / 1e3:
                raise Refused(f"the action is {1e3 * (now - sent_s):.0f} ms old")
            try:
                check_action(tuple(self.limits.axes), action)
            except MotionRefused as error:
                raise Refused(str(error)) from None
        except Refused:
            self.counts["refused"] += 1
            raise
        self._pending, self._commanded_s = dict(action), now

    def tick(self, now: float, observation: Mapping[str, Any]) -> Motion | None:
        """The motion of this period; None if there is none."""
        pending, self._pending = self._pending, None
        if self.latched or self.state == STOPPED or self.resetting or self.holder is None:
            return None
        try:
            if pending is None:
                self.counts["missed"] += self.state == MOVING
                values = self._motion.brake(observation) if self.state == MOVING else None
            else:
                values = self._motion.admit(pending, observation)
                limited = any(abs(values[name] - pending[name]) > 1e-9 for name in values)
                self.counts["limited"] += limited
        except MotionRefused as error:
            self.protect(HOLD, str(error))
            return None
        if values is None:
            return None
        if pending is not None:
            self.state, self.reason, self._owed = MOVING, "", None
            self.counts["executed"] += 1
        return Motion(values, "brake" if pending is None else self.holder.rank, self.epoch)

    def executed(self, motion: Motion, values: Mapping[str, float]) -> None:
        """The driver's answer to a motion. If the robot was protected meanwhile, it is protected again."""
        if motion.epoch != self.epoch:
            self._owed = STOP if self.state == STOPPED else HOLD
            self._motion.end()
            return
        try:
            self._motion.confirm(values)
        except MotionRefused as error:
            self.protect(HOLD, str(error))

    def protect(self, how: str, reason: str) -> None:
        """Hold or stop the robot, because of a fault. A robot that is stopped stays so, and is told so again."""
        self.counts["faults"] += 1
        if how == STOP:
            self._protect(STOP, STOPPED, self.reason if self.latched else reason)
        else:
            self._stay(reason)

    @property
    def moves(self) -> bool:
        """Whether the last action moved the robot so far that pictures show it."""
        return self._motion.moves

    def see(self, frozen: str) -> None:
        """Hold the robot where a camera shows nothing new; until it does, no policy drives.

        Args:
            frozen: what is wrong; "" if nothing is.
        """
        if frozen and not self._unseen:
            self.counts["frozen"] += 1
            self.protect(HOLD, frozen)
        self._unseen = frozen

    def emergency_stop(self, reason: str) -> None:
        """Stop the robot until a person re-arms it."""
        self.latched = True
        self.counts["emergency_stops"] += 1
        self._protect(STOP, STOPPED, reason)

    def rearm(self, session: Session, now: float) -> None:
        """End an emergency stop; whoever has control takes it anew. Raises Refused unless a person asks."""
        if session.rank != "person":
            raise Refused("only a person may re-arm")
        if self.latched:
            self.latched, self.reason = False, f"re-armed by {session.name or session.rank}"
            self._commanded_s = now

    def reset(self, begins: bool, now: float) -> None:
        """The robot's own reset begins, or is over; meanwhile no command counts, and the watchdog waits."""
        self._pending, self._commanded_s, self.resetting = None, now, begins
        self._motion.end()

    def due(self, now: float) -> str | None:
        """HOLD or STOP if the robot is to be told so now, by whoever is free. Each is asked for once."""
        if self.holder is not None and not self.resetting and not self.latched:
            silent_ms = 1e3 * (now - self._commanded_s)
            if self.state != STOPPED and silent_ms > self.limits.stop_after_ms:
                self.counts["watchdog_stops"] += 1
                self._protect(STOP, STOPPED, f"no command for {silent_ms:.0f} ms")
            elif self.state == MOVING and silent_ms > self.limits.hold_after_ms:
                self.counts["watchdog_holds"] += 1
                self._protect(HOLD, HOLDING, f"no command for {silent_ms:.0f} ms")
        owed, self._owed = self._owed, None
        return owed

    def _stay(self, reason: str) -> None:
        """Hold; a robot that is stopped stays so, and after an emergency stop its reason stays, too."""
        stopped = self.state == STOPPED
        how, state = (STOP, STOPPED) if stopped else (HOLD, HOLDING)
        self._protect(how, state, self.reason if self.latched else reason)

    def _protect(self, how: str, state: str, reason: str) -> None:
        self._pending, self.state, self.reason = None, state, reason
        self._owed = STOP if STOP in (how, self._owed) else how
        self.epoch += 1
        self._motion.end()
