"""Token, rates and capacity, with a clock that the test turns."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from dopamine_rl.errors import BadInput, Overloaded, ScoringTimeout, ServiceUnavailable, VersionUnavailable, WireError
from reward_service import statuses
from reward_service.guards import (
    TOKEN_VARIABLE,
    Capacity,
    IngressConfig,
    RateLimiter,
    TokenBucket,
    TokenCheck,
    is_loopback,
    load_token,
)
from reward_service.statuses import RateLimited, Unauthorized, describe_error, encode, error_from, status_of

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize("authorization", [b"Bearer " + TOKEN.encode(), b"bearer  " + TOKEN.encode()])
def test_the_right_token_is_let_in(authorization: bytes) -> None:
    TokenCheck(TOKEN)(authorization)
    TokenCheck(None)(b"")


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        TOKEN.encode(),
        b"Basic " + TOKEN.encode(),
        b"Bearer " + TOKEN.encode() + b"x",
        b"\xff",
    ],
)
def test_any_other_is_not(authorization: bytes) -> None:
    with pytest.raises(Unauthorized) as caught:
        TokenCheck(TOKEN)(authorization)
    assert TOKEN not in str(caught.value)


def test_where_a_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert load_token(None, "127.0.0.1") is None
    for host in ("0.0.0.0", "::", "robot.example", "10.0.0.1"):
        with pytest.raises(BadInput, match="--token-file"):
            load_token(None, host)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert load_token(file, "0.0.0.0") == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, "from-the-environment")
    assert load_token(None, "0.0.0.0") == "from-the-environment"
    assert load_token(file, "0.0.0.0") == TOKEN
    for unsuitable in ("", "short", "with spaces " * 3, "ä" * 20):
        file.write_text(unsuitable)
        with pytest.raises(BadInput) as caught:
            load_token(file, "127.0.0.1")
        assert not unsuitable or unsuitable not in str(caught.value)
    with pytest.raises(BadInput, match="readable"):
        load_token(tmp_path / "missing", "127.0.0.1")


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", "", "localhost.evil"))


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    now = [0.0]
    bucket = TokenBucket(10.0, 3, lambda: now[0])
    for _ in range(3):
        bucket.take()
    with pytest.raises(RateLimited) as caught:
        bucket.take()
    assert caught.value.retry_after_s == pytest.approx(0.1)
    taken = 0
    for _ in range(1000):
        now[0] += 0.01
        try:
            bucket.take()
            taken += 1
        except RateLimited:
            pass
    assert taken == pytest.approx(100, abs=1)


def test_clients_have_rates_of_their_own_and_their_number_is_bounded() -> None:
    limiter = RateLimiter(1.0, 1, max_clients=10, clock=lambda: 0.0)
    limiter.take("a")
    with pytest.raises(RateLimited):
        limiter.take("a")
    limiter.take("b")
    for number in range(10_000):
        limiter.take(f"client {number}")
    assert len(limiter) == 10


def test_room_is_given_back_whatever_happens() -> None:
    capacity = Capacity(2, 100)
    with capacity.admit() as first, capacity.admit() as second:
        with pytest.raises(Overloaded), capacity.admit():
            pass
        first.reserve(60)
        with pytest.raises(Overloaded):
            second.reserve(60)
        second.reserve(40)
    assert (capacity.requests, capacity.bytes) == (0, 0)
    with pytest.raises(Overloaded), capacity.admit() as reservation:
        reservation.reserve(101)
    assert (capacity.requests, capacity.bytes) == (0, 0)


def test_settings_are_checked() -> None:
    for wrong in ({"port": -1}, {"rate_hz": 0.0}, {"max_requests": 0}, {"body_s": float("nan")}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            IngressConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "status", "back"),
    [
        (WireError("no magic"), 400, WireError),
        (Unauthorized("no"), 401, ServiceUnavailable),
        (statuses.SlowBody("slow"), 408, ScoringTimeout),
        (VersionUnavailable("v1 is wanted"), 409, VersionUnavailable),
        (statuses.BodyTooLarge("big"), 413, WireError),
        (statuses.UnsupportedMedia("text"), 415, WireError),
        (BadInput("frames", (1, 2), "give more"), 422, BadInput),
        (RateLimited("fast", 0.2), 429, Overloaded),
        (Overloaded("full"), 503, Overloaded),
        (ServiceUnavailable("gone"), 503, ServiceUnavailable),
        (ScoringTimeout("late"), 504, ScoringTimeout),
        (ZeroDivisionError("secret"), 500, ServiceUnavailable),
    ],
)
@pytest.mark.parametrize("media", ["json", "msgpack"])
def test_failures_travel_and_come_back(error: Exception, status: int, back: type, media: statuses.Media) -> None:
    assert status_of(error) == status
    body = encode(describe_error(error), media)
    assert b"secret" not in body
    returned = error_from(status, body, statuses.MEDIA_TYPES[media])
    assert isinstance(returned, back)
    if isinstance(error, BadInput):
        assert str(returned) == str(error)
        assert str(pickle.loads(pickle.dumps(returned))) == str(error)


def test_an_answer_that_is_no_error_of_ours_names_its_status() -> None:
    for body in (b"", b"<html>", b"[1]", b'{"error": 5}', b"\xff" * 10, b'{"error": {"type": "NoSuch"}}'):
        assert "status 502" in str(error_from(502, body, "text/html"))


def test_retry_after_is_said_where_it_makes_sense() -> None:
    assert statuses.retry_after_s(RateLimited("", 3.2)) == 4
    assert statuses.retry_after_s(Overloaded("")) == 1
    assert statuses.retry_after_s(VersionUnavailable("")) is None


def test_a_long_or_broken_message_is_cut() -> None:
    described = describe_error(BadInput("x" * 10_000, "\ud800" * 1000, "give less"))
    assert all(len(encode({"v": value}, "msgpack")) < 8000 for value in described["error"].values())
