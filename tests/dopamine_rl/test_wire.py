"""Bytes to values and back; whatever the bytes are, nothing but WireError or BadInput comes out."""

import contextlib
import copy
import math
from dataclasses import fields, is_dataclass, replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.errors import BadInput, WireError
from dopamine_rl.progress import FoldState, fold
from dopamine_rl.tokens import FrameTokens
from dopamine_rl.types import EpisodeContext, FusionConfig, ScoreReply, ScoreRequest
from dopamine_rl.wire import WireLimits, decode_reply, decode_request, encode_reply, encode_request

few = settings(max_examples=150, deadline=None)


def make_request(start: float | None = 0.25, version: str | None = "v1") -> ScoreRequest:
    rng = np.random.default_rng(0)

    def pixels(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, (*shape, 6, 8, 3), np.uint8)

    context = EpisodeContext("ep 1", "insert the peg – ✓", pixels(), pixels(), pixels(2), pixels(2), version)
    return ScoreRequest(context, pixels(2), pixels(3, 2), (5, 10, 16), 250.0, start, FusionConfig("consistency", 7.0))


def make_encoded_request(dtype: type = np.float32) -> ScoreRequest:
    values = np.random.default_rng(1).normal(0, 1, (4, 2, 5, 3)).astype(dtype)
    request = make_request()
    return replace(
        request,
        previous=request.previous[:0],
        frames=request.frames[:, :0],
        previous_tokens=FrameTokens("tower", values[0]),
        frame_tokens=FrameTokens("tower", values[1:]),
    )


def make_reply(with_fold: bool = True) -> ScoreReply:
    gain = np.array([[0.1, 0.2, 0.0], [np.nan, 0.3, np.nan], [0.5, 0.5, 0.1]], np.float32)
    loss = np.array([[0.0, 0.2, 0.4], [np.nan, 0.1, np.nan], [0.0, 0.0, 0.3]], np.float32)
    entropy = np.array([[1.0, np.nan, 0.0]] * 3, np.float32)
    reasons = ("", "two scores in the answer", "")
    folded = fold(FoldState(), gain, loss, [True, False, True], FusionConfig())[0] if with_fold else None
    return ScoreReply(gain, loss, entropy, reasons, (-1, 5, 5), "v1", 3.5, 12.0, folded)


def assert_same(a: object, b: object) -> None:
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        elif is_dataclass(x):
            assert_same(x, y)
        else:
            assert x == y


@pytest.mark.parametrize(("start", "version"), [(0.25, "v1"), (None, None)])
def test_a_request_comes_back_as_it_went(start: float | None, version: str | None) -> None:
    request = make_request(start, version)
    assert_same(request, decode_request(encode_request(request)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_frames_travel_as_tokens(dtype: type) -> None:
    request = make_encoded_request(dtype)
    message = encode_request(request)
    assert_same(request, decode_request(message))
    assert b"tokens" not in encode_request(make_request())  # as services without tokens know it
    older = msgpack.unpackb(message)
    for name in ("previous_tokens", "frame_tokens"):
        del older["body"][name]  # what a service does that knows no such field
    with pytest.raises(BadInput, match="previous = "):
        decode_request(msgpack.packb(older))


def test_tokens_that_cannot_be_used_are_refused() -> None:
    request, values = make_encoded_request(), np.zeros((3, 2, 5, 3), np.float32)
    for damage, match in ((np.nan, "finite"), (np.inf, "finite"), (1e6, "at most 65504")):
        with pytest.raises(BadInput, match=match):
            FrameTokens("tower", values + np.float32(damage))
    for wrong, match in (
        (values.astype(np.float64), "float32 or float16"),
        (values[0, 0], "empty axis"),
        (values[:0], "empty"),
    ):
        with pytest.raises(BadInput, match=match):
            FrameTokens("tower", wrong)
    for changes, match in (
        ({"frame_tokens": FrameTokens("tower", values[:2])}, "tokens of the 2 views of frames"),
        ({"frame_tokens": FrameTokens("tower", values[:, :1])}, "tokens of the 2 views of frames"),
        ({"frame_tokens": FrameTokens("other", values)}, "one tower"),
        ({"frames": make_request().frames}, "leave out the pictures"),
        ({"previous_tokens": None}, "no empty axis"),
    ):
        with pytest.raises(BadInput, match=match):
            replace(request, **changes)
    message = msgpack.unpackb(encode_request(request))
    for name, value, match in (
        ("dtype", "<f8", "one of <f4"),
        ("shape", [3, 2, 5], "do not fill"),
        ("shape", [3, 90, 5, 3], "16 views"),
    ):
        damaged = copy.deepcopy(message)
        damaged["body"]["frame_tokens"]["values"][name] = value
        with pytest.raises((BadInput, WireError), match=match):
            decode_request(msgpack.packb(damaged))


def test_a_request_that_continues_an_episode_comes_back_as_it_went() -> None:
    request = replace(make_request(), fusion=FusionConfig(chain="own"), start_perspectives=(0.5, 0.25, 0.0))
    assert_same(request, decode_request(encode_request(request)))


def test_old_messages_are_read_and_new_ones_look_like_them_where_nothing_is_new() -> None:
    message = msgpack.unpackb(encode_request(make_request()))
    assert "start_perspectives" not in message["body"]
    message["body"]["start_perspectives"] = None
    assert_same(decode_request(msgpack.packb(message)), make_request())


@pytest.mark.parametrize("with_fold", [True, False])
def test_a_reply_comes_back_as_it_went(with_fold: bool) -> None:
    reply = make_reply(with_fold)
    assert_same(reply, decode_reply(encode_reply(reply)))


def test_encoding_takes_arrays_of_any_layout() -> None:
    request = make_request()
    flipped = replace(request, frames=request.frames[:, :, ::-1])
    assert_same(flipped, decode_request(encode_request(flipped)))


def decode_anything(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(WireError, BadInput):
            decode(data)


@few
@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    decode_anything(data)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Paths to every value of a decoded message."""
    found = [path]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


MESSAGES = [msgpack.unpackb(encode_request(make_request())), msgpack.unpackb(encode_reply(make_reply()))]
PLACES = [(m, path) for m, message in enumerate(MESSAGES) for path in places(message) if path]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), plain, st.booleans())
def test_any_field_replaced_or_removed_never_raises_anything_else(place, value, remove: bool) -> None:
    which, path = place
    message = copy.deepcopy(MESSAGES[which])
    parent = message
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    decode_anything(msgpack.packb(message))


@few
@given(st.sampled_from([encode_request(make_request()), encode_reply(make_reply())]), st.data())
def test_damaged_bytes_never_raise_anything_else(data: bytes, draw) -> None:
    damaged = bytearray(data[: draw.draw(st.integers(0, len(data)))])
    if damaged:
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    decode_anything(bytes(damaged))


def damaged(message: int, path: str, value: object) -> bytes:
    changed = copy.deepcopy(MESSAGES[message])
    parent, *keys = changed, *path.split(".")
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value
    return msgpack.packb(changed)


@pytest.mark.parametrize(
    ("path", "value", "error", "named"),
    [
        ("protocol", "other", WireError, "dopamine-reward"),
        ("version", 2, WireError, "version 2"),
        ("version", True, WireError, "version True"),
        ("kind", "reply", WireError, "reply"),
        ("body.instruction", 5, WireError, "instruction"),
        ("body.remaining_ms", math.nan, BadInput, "remaining_ms"),
        ("body.start_progress", 1.5, BadInput, "start_progress"),
        ("body.start_perspectives", [0.1, 0.2], BadInput, "start_perspectives"),
        ("body.start_perspectives", [0.1, 0.2, 1.5], BadInput, "start_perspectives"),
        ("body.start_perspectives", [0.1, 0.2, math.nan], BadInput, "start_perspectives"),
        ("body.start_perspectives", [0.1, 0.2, "x"], WireError, "start_perspectives"),
        ("body.start_perspectives", 0.5, WireError, "start_perspectives"),
        ("body.fusion.chain", "own", BadInput, "start_perspectives"),
        ("body.times", [5, 5, 6], BadInput, "times"),
        ("body.times", [5, 6], BadInput, "times"),
        ("body.times", [True, 2, 3], BadInput, "times"),
        ("body.fusion.kind", "median", BadInput, "kind"),
        ("body.frames.dtype", "|O", BadInput, "dtype"),
        ("body.frames.shape", [3, 2, 6, 8, 4], WireError, "frames"),
        ("body.frames.shape", [0, 2, 6, 8, 3], WireError, "frames"),
        ("body.frames.shape", [3, 2, 6, 24], BadInput, "frames"),
        ("body.frames.data", b"", WireError, "frames"),
        ("body.episode_id", "x" * 10_001, BadInput, "episode_id"),
    ],
)
def test_errors_name_what_is_wrong_with_a_request(path: str, value, error: type, named: str) -> None:
    with pytest.raises(error, match=named):
        decode_request(damaged(0, path, value))


def test_whole_numbers_are_taken_for_numbers() -> None:
    request = decode_request(damaged(0, "body.remaining_ms", 250))
    assert (type(request.remaining_ms), request.remaining_ms) == (float, 250.0)


def test_sizes_are_checked_before_anything_is_built() -> None:
    data = encode_request(make_request())
    for limits, named in (
        (WireLimits(max_bytes=100), "bytes"),
        (WireLimits(max_frames=2), "frames"),
        (WireLimits(max_views=1), "views"),
        (WireLimits(max_pixels=47), "pixels"),
        (WireLimits(max_text=3), "characters"),
    ):
        with pytest.raises((WireError, BadInput), match=named):
            decode_request(data, limits)
    with pytest.raises(BadInput, match="reasons"):
        decode_reply(encode_reply(make_reply()), WireLimits(max_frames=2))
    with pytest.raises(BadInput, match="pixels"):
        decode_request(damaged(0, "body.frames.shape", [1, 1, 2**30, 2**30, 3]))


@pytest.mark.parametrize("bomb", [b"\x91" * 100_000, b"\xdc\x01\x00" * 1000, b"\xdd\xff\xff\xff\xff", b"\x90" * 1000])
def test_nested_and_overlong_lists_are_refused(bomb: bytes) -> None:
    with pytest.raises(WireError):
        decode_request(bomb)


def test_many_empty_lists_are_refused_by_their_number() -> None:
    with pytest.raises(WireError, match="more than 64"):
        decode_request(msgpack.packb([[[]] * 50] * 50))


@pytest.mark.parametrize(
    ("name", "value", "at"),
    [
        ("gain", np.nan, 0),
        ("gain", np.inf, 1),
        ("loss", 1.5, 0),
        ("loss", -0.5, 1),
        ("entropy", np.inf, 1),
        ("entropy", -1, 0),
    ],
)
def test_bad_numbers_may_neither_be_sent_nor_taken(name: str, value: float, at: int) -> None:
    reply = make_reply()
    array = np.array(getattr(reply, name))
    array[at, 1] = value
    with pytest.raises(BadInput, match=name):
        encode_reply(replace(reply, **{name: array}))
    with pytest.raises(BadInput, match=name):
        decode_reply(damaged(1, f"body.{name}.data", array.tobytes()))


def test_a_fold_must_agree_with_its_reply() -> None:
    reply = make_reply()
    for wrong in (
        replace(reply.folded, progress=np.float32([0.1, np.nan, 0.2])),
        replace(reply.folded, progress=np.float32([0.1, 0.2])),
        replace(reply.folded, valid=np.array([True, True, True])),
    ):
        with pytest.raises(BadInput, match="folded"):
            encode_reply(replace(reply, folded=wrong))
    with pytest.raises(BadInput, match="anchor_times"):
        encode_reply(replace(reply, anchor_times=(-1,)))


def test_what_cannot_be_sent_is_named_and_other_types_are_refused() -> None:
    request = make_request()
    with pytest.raises(WireError):
        encode_request(replace(request, context=replace(request.context, instruction="\ud800")))
    with pytest.raises(WireError, match="bytes"):
        decode_request("text")  # type: ignore[arg-type]
