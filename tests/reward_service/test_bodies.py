"""Bodies of the HTTP ingress: every way of writing a request gives the same one, and sizes are known first."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from dopamine_rl.errors import BadInput, Overloaded, WireError
from dopamine_rl.types import ScoreReply, ScoreRequest
from dopamine_rl.wire import DEFAULT_LIMITS, WireLimits, decode_reply
from reward_service.bodies import read_body, write_reply
from reward_service.scorer import Scorer
from reward_service.statuses import Media
from tests.contracts import assert_same_answer
from tests.fakes import FakeEngine, make_request, sometimes
from tests.reward_service.bodies import arrays_of, json_fields, msgpack_message, nested
from tests.reward_service.test_pictures import png_of

REQUEST = make_request(start_progress=0.25)


def read(value: Any, media: Media = "json", limits: WireLimits = DEFAULT_LIMITS) -> ScoreRequest:
    body = json.dumps(value).encode() if media == "json" else msgpack.packb(value)
    return read_body(body, media, limits, lambda count: None)


@pytest.mark.parametrize(
    ("media", "value"),
    [
        ("json", json_fields(REQUEST)),
        ("json", json_fields(REQUEST, raw=True)),
        ("msgpack", msgpack_message(REQUEST)),
        ("msgpack", msgpack_message(REQUEST, "PNG")),
    ],
)
def test_every_way_of_writing_it_gives_the_same_request(media: Media, value: dict) -> None:
    request = read(value, media)
    for name, pixels in arrays_of(request).items():
        np.testing.assert_array_equal(pixels, arrays_of(REQUEST)[name])
    assert replace(request.context, init=REQUEST.context.init).episode_id == REQUEST.context.episode_id
    assert (request.times, request.start_progress, request.fusion, request.remaining_ms) == (
        REQUEST.times,
        0.25,
        REQUEST.fusion,
        REQUEST.remaining_ms,
    )


@pytest.mark.parametrize("media", ["json", "msgpack"])
def test_jpeg_views(media: Media) -> None:
    value = json_fields(REQUEST, kind="JPEG") if media == "json" else msgpack_message(REQUEST, "JPEG")
    frames = read(value, media).frames
    assert frames.shape == REQUEST.frames.shape
    assert np.abs(frames.astype(int) - REQUEST.frames).max() < 12


def test_usual_values_may_be_left_out_of_json() -> None:
    value = json_fields(REQUEST)
    for name in ("times", "model_version", "remaining_ms", "start_progress", "fusion"):
        del value[name]
    request = read(value)
    assert (request.times, request.start_progress, request.remaining_ms) == ((1, 2, 3, 4), None, 10_000.0)
    assert read({**value, "fusion": {"kind": "consistency"}}).fusion.kind == "consistency"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"frames": []}, "1 to 256 frames"),
        ({"frames": [[]]}, "1 to 16 views"),
        ({"frames": nested(REQUEST.frames)[0]}, "1 to 16 views"),
        ({"frames": [nested(REQUEST.frames)[0], nested(REQUEST.frames)[1][:1]]}, "same number of views"),
        ({"init": nested(REQUEST.context.init)[:1]}, "goal"),
        ({"goal": "no base64"}, "list of 1 to 16 views"),
        ({"goal": ["no base64", "!"]}, "base64"),
        ({"goal": [1, 2]}, "PNG or JPEG file"),
        ({"reference_end": {"shape": [8, 8, 3]}}, "base64"),
        ({"reference_end": None}, "reference_end"),
        ({"reference_end": 5}, "reference_end"),
        ({"instruction": "\ud800"}, "instruction"),
        ({"instruction": {}}, "instruction"),
        ({"times": [1, 2, 3]}, "times"),
        ({"times": [1, 2, 3, {"x": 1}]}, "times"),
        ({"remaining_ms": 10**400}, "remaining_ms"),
        ({"start_progress": 1.5}, "start_progress"),
        ({"start_progres": 0.5}, "start_progres .*remove it"),
        ({"fusion": {"kid": "mean"}}, "fusion"),
        ({"fusion": {"kind": "x" * 5000}}, "kind"),
        (
            {"goal": [nested(file) for file in (np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8))]},
            "the same size",
        ),
    ],
)
def test_errors_name_the_field(change: dict, named: str) -> None:
    with pytest.raises((BadInput, WireError), match=named):
        read({**json_fields(REQUEST), **change})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"5",
        b'{"a": NaN}',
        b'{"remaining_ms": -Infinity}',
        b"[" * 100_000,
        b'{"a":' * 500,
        b'{"times": [' + b"1," * 60_000 + b"1]}",
        b'{"times": ' + b"1" * 5000 + b"}",
        b'{"episode_id": "e"',
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises((WireError, BadInput)):
        read_body(body, "json", DEFAULT_LIMITS, lambda count: None)


def test_all_headers_are_read_before_a_pixel_is_decoded() -> None:
    bomb = png_of(30_000, 30_000)
    fields = json_fields(REQUEST)
    message = msgpack_message(REQUEST, "PNG")
    message["body"]["frames"] = [[bomb, bomb]]
    tracemalloc.start()
    for body, media in ((msgpack.packb(message), "msgpack"),):
        with pytest.raises(BadInput, match="at most 2097152 pixels"):
            read_body(body, media, DEFAULT_LIMITS, lambda count: None)  # type: ignore[arg-type]
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    small = WireLimits(max_bytes=10_000)
    frame = np.zeros((50, 50, 3), np.uint8)
    with pytest.raises(BadInput, match="bytes of pixels"):
        read({**fields, "reference_start": nested(frame), "reference_end": nested(frame)}, limits=small)


def test_room_for_pixels_is_asked_for_before_they_are_decoded() -> None:
    asked = []

    def full(count: int) -> None:
        asked.append(count)
        raise Overloaded("full")

    with pytest.raises(Overloaded):
        read_body(json.dumps(json_fields(REQUEST)).encode(), "json", DEFAULT_LIMITS, full)
    assert asked == [2 * sum(pixels.nbytes for pixels in arrays_of(REQUEST).values())]


def test_limits_of_count_and_size() -> None:
    for limits, named in (
        (WireLimits(max_bytes=100), "at most 100"),
        (WireLimits(max_frames=2), "1 to 2 frames"),
        (WireLimits(max_views=1), "1 to 1 views"),
        (WireLimits(max_pixels=63), "at most 63 pixels"),
        (WireLimits(max_text=3), "characters"),
    ):
        for media, value in (("json", json_fields(REQUEST)), ("msgpack", msgpack_message(REQUEST, "PNG"))):
            with pytest.raises((BadInput, WireError), match=named):
                read(value, media, limits)  # type: ignore[arg-type]


def test_quoted_values_stay_short() -> None:
    message = msgpack_message(REQUEST)
    message["version"] = b"\0" * 100_000
    with pytest.raises(WireError) as caught:
        read(message, "msgpack")
    assert len(str(caught.value)) < 1000


def _reply(rate: float) -> ScoreReply:
    return Scorer(FakeEngine(unreadable=sometimes(rate))).score([REQUEST])[0]


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_reply_in_both_media_says_the_same(rate: float) -> None:
    reply = _reply(rate)
    assert_same_answer(decode_reply(write_reply(reply, "msgpack")), reply)
    values = json.loads(write_reply(reply, "json"))
    for name in ("gain", "loss", "entropy", "hops"):
        np.testing.assert_allclose(np.array(values[name], np.float32), getattr(reply, name))
    assert values["reasons"] == list(reply.reasons)
    assert values["valid"] == reply.valid.tolist()
    assert reply.folded is not None
    np.testing.assert_allclose(values["folded"]["progress"], reply.folded.progress)


@pytest.mark.parametrize("media", ["json", "msgpack"])
def test_a_reply_with_a_bad_number_is_not_sent(media: Media) -> None:
    reply = _reply(0.0)
    with pytest.raises(BadInput):
        write_reply(replace(reply, gain=reply.gain + 2), media)
