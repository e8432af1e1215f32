"""Whatever arrives: a value or a named refusal, never a crash, and no memory kept.

The long versions feed 100 000 inputs to the decoders and 2 000 and more requests to each route of a running server.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
import requests
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from dopamine_rl.errors import BadInput, WireError
from dopamine_rl.wire import DEFAULT_LIMITS, WireLimits, decode_request
from reward_service.bodies import read_body
from reward_service.guards import IngressConfig
from reward_service.local import LocalRewardClient
from reward_service.openapi import document
from reward_service.pictures import decode_picture, read_header
from reward_service.scorer import Scorer
from reward_service.statuses import STATUSES
from tests.dopamine_rl.test_wire import places
from tests.fakes import FakeEngine, make_request
from tests.reward_service.bodies import file_of, json_fields, msgpack_message
from tests.reward_service.http import serving
from tests.reward_service.test_pictures import PIXELS, png_of

REQUEST = make_request((0.3,), start_progress=0.25)
JSON_VALUES = [json_fields(REQUEST), json_fields(REQUEST, raw=True), json_fields(REQUEST, kind="JPEG")]
MSGPACK_VALUES = [msgpack_message(REQUEST), msgpack_message(REQUEST, "PNG"), msgpack_message(REQUEST, "JPEG")]
FILES = [file_of(PIXELS), file_of(PIXELS, "JPEG"), file_of(PIXELS, "JPEG", progressive=True), png_of(1 << 30, 1 << 30)]

CHUNK = 1000
"""Examples of one hypothesis run; it remembers what it tried, which would be taken for memory kept by the decoders."""
MAX_GROWTH_MB = 32.0
ANNOUNCED = {200, 503, 504} | {status for _, status in STATUSES}

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats() | st.sampled_from([0, 1, 255, 2**31, 2**53, -1])
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(["PNG", "|u1", "iVBORw0KGgo="])
nested = st.recursive(
    leaves, lambda s: st.lists(s, max_size=4) | st.dictionaries(st.text(max_size=6), s, max_size=4), max_leaves=8
)
binary = nested | st.binary(max_size=40)


@st.composite
def damaged_bytes(draw: st.DrawFn, sources: list[bytes]) -> bytes:
    """A good message cut off, with a few bytes replaced, removed or inserted; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@st.composite
def damaged_value(draw: st.DrawFn, sources: list[Any], leaf: st.SearchStrategy[Any]) -> Any:
    """A good message in which up to two values are replaced or removed."""
    value = copy.deepcopy(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from([path for path in places(value) if path] or [()]))
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        if path and draw(st.integers(0, 3)) == 0:
            del parent[path[-1]]
        elif path:
            parent[path[-1]] = draw(leaf)
    return value


def scramble(sources: list[bytes], number: int) -> bytes:
    """The like of `damaged_bytes` from a number, without hypothesis: many times as fast, so there can be more."""
    rng = random.Random(number)
    data = bytearray(rng.choice(sources))
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = rng.choice([b"", b"\xff", rng.randbytes(2), data[at // 2 : at // 2 + 30]])
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)


def packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


MSGPACK_FILES, JSON_FILES = [packed(v) for v in MSGPACK_VALUES], [as_json(v) for v in JSON_VALUES]
MSGPACK_BODIES = damaged_value(MSGPACK_VALUES, binary).map(packed) | damaged_bytes(MSGPACK_FILES)
JSON_BODIES = damaged_value(JSON_VALUES, nested).map(as_json) | damaged_bytes(JSON_FILES)
INPUTS = {
    "wire": (MSGPACK_BODIES, MSGPACK_FILES),
    "msgpack": (MSGPACK_BODIES, MSGPACK_FILES),
    "json": (JSON_BODIES, JSON_FILES),
    "picture": (damaged_bytes(FILES), FILES),
}
"""For each decoder: inputs that hypothesis builds step by step, and good ones to scramble."""


def decode(kind: str, data: bytes) -> str:
    """Run one decoder; anything but a value, a WireError or a BadInput escapes."""
    try:
        if kind == "wire":
            decode_request(data)
        elif kind == "picture":
            header = read_header("f", data)
            if header.height * header.width <= 10_000:
                decode_picture("f", data, header)
        else:
            read_body(data, kind, DEFAULT_LIMITS, lambda count: None)  # type: ignore[arg-type]
    except (WireError, BadInput) as error:
        return type(error).__name__
    return "value"


def fuzz(strategy: st.SearchStrategy[bytes], count: int, check: Callable[[bytes], str]) -> Counter[str]:
    """Check `count` examples, each chunk of them with a seed of its own, and count the outcomes."""
    outcomes: Counter[str] = Counter()

    for chunk in range(0, count, CHUNK):

        @seed(chunk)
        @settings(
            max_examples=min(CHUNK, count - chunk),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(strategy)
        def run(data: bytes) -> None:
            outcomes[check(data)] += 1

        run()
    return outcomes


def fuzz_scrambled(sources: list[bytes], count: int, check: Callable[[bytes], str]) -> Counter[str]:
    """Check `count` scrambled inputs, and count the outcomes; an exception says which input it was."""
    outcomes: Counter[str] = Counter()
    for number in range(count):
        try:
            outcomes[check(scramble(sources, number))] += 1
        except Exception as error:
            error.add_note(f"scrambled input {number}")
            raise
    return outcomes


def resident_mb() -> float:
    """Resident memory of this process, MiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def fuzz_decoders(built: int, scrambled: int) -> None:
    """So many inputs of each sort for each decoder."""
    before = 0.0
    for warm_up in (True, False):
        for kind, (strategy, good) in INPUTS.items():
            check: Callable[[bytes], str] = partial(decode, kind)
            outcomes = fuzz(strategy, built // 10 if warm_up else built, check)
            outcomes += fuzz_scrambled(good, scrambled // 10 if warm_up else scrambled, check)
            if not warm_up:
                print(
                    f"{kind}: {outcomes.total()} inputs, {dict(outcomes)}, resident {resident_mb() - before:+.1f} MiB"
                )
                assert outcomes.total() >= built + scrambled
                assert outcomes["value"] > 0
                assert outcomes["WireError"] + outcomes["BadInput"] > outcomes.total() / 10
        before = before or resident_mb()
    assert resident_mb() - before < MAX_GROWTH_MB


def test_decoders() -> None:
    fuzz_decoders(150, 500)


@pytest.mark.slow
@pytest.mark.long
def test_decoders_with_100_000_inputs() -> None:
    fuzz_decoders(5_000, 20_000)


def open_service() -> Any:
    """A server without a rate to speak of."""
    limits = WireLimits(max_bytes=1 << 20)
    config = IngressConfig(port=0, rate_hz=1e6, burst=1e6, total_rate_hz=1e6, total_burst=1e6, limits=limits)
    return serving(LocalRewardClient(Scorer(FakeEngine())), config=config)


def fuzz_routes(count: int) -> None:
    with open_service() as url, requests.Session() as session:
        routes = {"application/msgpack": MSGPACK_BODIES, "application/json": JSON_BODIES}

        def ask(media_type: str, data: bytes) -> str:
            answer = session.post(url + "/v1/score", data=data, headers={"Content-Type": media_type}, timeout=20)
            assert answer.status_code in ANNOUNCED, (answer.status_code, answer.content[:500])
            assert answer.headers["Content-Type"] == media_type
            assert b"Traceback" not in answer.content
            assert answer.status_code == 200 or b"type" in answer.content
            return str(answer.status_code)

        for media_type, strategy in routes.items():
            fuzz(strategy, count // 4, lambda data, media=media_type: ask(media, data))  # type: ignore[misc]
        before = resident_mb()
        for media_type, strategy in routes.items():
            outcomes = fuzz(strategy, count, lambda data, media=media_type: ask(media, data))  # type: ignore[misc]
            print(
                f"{media_type}: {outcomes.total()} requests, {dict(outcomes)},"
                f" resident {resident_mb() - before:+.1f} MiB"
            )
            assert outcomes.total() >= count
            assert outcomes["200"] > 0
        assert resident_mb() - before < MAX_GROWTH_MB
        assert session.get(url + "/healthz", timeout=5).status_code == 200


@pytest.mark.slow
def test_routes() -> None:
    fuzz_routes(100)


@pytest.mark.slow
@pytest.mark.long
def test_routes_with_500_requests_each() -> None:
    fuzz_routes(500)


def conformance(count: int) -> None:
    """Requests made from the OpenAPI description, good and bad ones; the answers are compared with it."""
    schemathesis = pytest.importorskip("schemathesis", reason="the dev extra is not installed")
    from schemathesis.generation import GenerationMode

    schema = schemathesis.openapi.from_dict(document())
    operations = [schema[path][method.upper()] for path, methods in document()["paths"].items() for method in methods]
    with open_service() as url, requests.Session() as session:
        statuses: Counter[int] = Counter()
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if operation.method.upper() == "GET" and mode is GenerationMode.NEGATIVE:
                    continue  # There is nothing in it that could be wrong.

                @settings(
                    max_examples=count if operation.method.upper() == "POST" else 5,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                    derandomize=True,
                )
                @given(operation.as_strategy(generation_mode=mode))
                def run(case: Any) -> None:
                    answer = case.call(base_url=url, session=session)
                    statuses[answer.status_code] += 1
                    case.validate_response(answer, checks=CHECKS, headers={})

                run()
        print(f"schemathesis: {statuses.total()} requests, {dict(statuses)}")
        assert statuses[500] == 0


try:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
except ImportError:
    CHECKS = []


def test_the_service_is_as_described() -> None:
    conformance(25)


@pytest.mark.slow
@pytest.mark.long
def test_the_service_is_as_described_in_500_requests() -> None:
    conformance(250)


def test_the_fuzzer_finds_a_crash() -> None:
    def fragile(data: bytes) -> str:
        return str(json.loads(data)["times"])

    with pytest.raises((ValueError, KeyError, TypeError)):
        fuzz(JSON_BODIES, 200, fragile)
    with pytest.raises((ValueError, KeyError, TypeError)) as raised:
        fuzz_scrambled(JSON_FILES, 200, fragile)
    assert raised.value.__notes__ == ["scrambled input 0"]
