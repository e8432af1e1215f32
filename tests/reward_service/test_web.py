"""Connections of slow, many and hostile clients, over real sockets; TLS. No Ray."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from dopamine_rl.errors import BadInput, ServiceUnavailable
from dopamine_rl.wire import encode_request
from reward_service.guards import IngressConfig, client_name, load_tls
from reward_service.http_client import HttpClientConfig, HttpRewardClient
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from reward_service.web import make_server
from tests.contracts import check_reward_client
from tests.fakes import FakeEngine, make_request, seeded_request
from tests.reward_service.certificates import write_certificate
from tests.reward_service.http import serving

TOKEN = "a-token-for-the-tests"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
QUICK = IngressConfig(port=0, rate_hz=1e6, burst=1e6, head_s=0.4, idle_s=60.0, body_s=0.4, write_s=0.4)
"""Limits that a test can wait for; what it does not look at is long."""


@contextmanager
def _listening(config: IngressConfig, token: str | None = None) -> Iterator[int]:
    with serving(LocalRewardClient(Scorer(FakeEngine())), token, config) as url:
        yield int(url.rsplit(":", 1)[1])


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def _answered(connection: socket.socket) -> bytes:
    """One whole answer, of a connection that is kept."""
    received = b""
    while b'{"status": "ok"}' not in received and b'{"status":"ok"}' not in received:
        part = connection.recv(4096)
        assert part, received
        received += part
    return received


def _closed(connection: socket.socket) -> bytes:
    """All that comes until the other side closes, which it must within the time of the socket."""
    received = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            received += part
    return received


@pytest.mark.parametrize("answered_before", [0, 1, 3])
@pytest.mark.parametrize("start", [b"", b"G", GET, GET + b"X-Header: "])
def test_half_a_head_is_closed_whatever_was_answered_before(answered_before: int, start: bytes) -> None:
    config = QUICK if start or not answered_before else replace(QUICK, head_s=60.0, idle_s=0.4)
    with _listening(config) as port, _connect(port) as connection:
        for _ in range(answered_before):
            connection.sendall(GET + b"\r\n")
            _answered(connection)
        connection.sendall(start)
        assert _closed(connection) == b""


@pytest.mark.parametrize("answered_before", [0, 2])
def test_a_head_that_dribbles_is_closed(answered_before: int) -> None:
    with _listening(QUICK) as port, _connect(port) as connection:
        for _ in range(answered_before):
            connection.sendall(GET + b"\r\n")
            _answered(connection)
        connection.sendall(GET + b"X-Header: ")
        connection.settimeout(0.02)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                connection.sendall(b"x")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("it was left open")


def test_a_pipelined_half_head_is_closed() -> None:
    with _listening(QUICK) as port, _connect(port) as connection:
        connection.sendall(GET + b"\r\n" + GET)
        assert _closed(connection).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    ("sent", "answers"), [(GET + b"\r\n", 1), (2 * (GET + b"\r\n"), 2), (GET, 0), (GET + b"\r\n" + GET, 1)]
)
def test_a_client_that_sends_no_more_gets_its_answers(sent: bytes, answers: int) -> None:
    with _listening(replace(QUICK, head_s=60.0)) as port, _connect(port) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert _closed(connection).count(b"HTTP/1.1 200") == answers


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_without_end(framing: bytes) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with _listening(QUICK) as port, _connect(port) as connection:
        for _ in range(2):
            connection.sendall(GET + b"\r\n")
            _answered(connection)
        connection.sendall(head + framing)
        assert _closed(connection).startswith(b"HTTP/1.1 408")


def test_a_body_that_nobody_reads_has_a_deadline_however_it_dribbles() -> None:
    with _listening(QUICK) as port, _connect(port) as connection:
        connection.sendall(GET + b"Content-Length: 1000\r\n\r\n")
        _answered(connection)
        done = threading.Event()

        def dribble() -> None:
            with suppress(OSError):
                while not done.wait(0.02):
                    connection.sendall(b"x")

        sender = threading.Thread(target=dribble)
        sender.start()
        assert _closed(connection) == b""
        done.set()
        sender.join(10)


def _ask_without_end(connection: socket.socket, deadline: float) -> None:
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            connection.sendall(b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n" * 50)


def test_answers_that_nobody_reads_are_given_up() -> None:
    with _listening(replace(QUICK, head_s=60.0)) as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", port))
        with pytest.raises(OSError, match=r"reset|Broken"):
            _ask_without_end(connection, time.monotonic() + 20)
        assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200


def test_one_client_has_its_share_of_connections_and_others_theirs() -> None:
    with (
        _listening(replace(QUICK, head_s=60.0, max_connections_per_client=3, max_connections=5)) as port,
        ExitStack() as held,
    ):
        for _ in range(3):
            held.enter_context(_connect(port)).sendall(GET)
        with _connect(port) as refused:
            assert _closed(refused).startswith(b"HTTP/1.1 503")
        others = [
            held.enter_context(socket.create_connection(("127.0.0.1", port), 10, (f"127.0.0.{number}", 0)))
            for number in (2, 3)
        ]
        for other in others:
            other.sendall(GET + b"\r\n")
            _answered(other)
        with socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.4", 0)) as refused:
            assert _closed(refused).startswith(b"HTTP/1.1 503")
        others[0].close()
        deadline = time.monotonic() + 10
        while True:  # Its place is free once the server has seen that it is gone.
            with socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.4", 0)) as welcome, suppress(OSError):
                welcome.sendall(GET + b"Connection: close\r\n\r\n")
                if _closed(welcome).startswith(b"HTTP/1.1 200"):
                    break
            assert time.monotonic() < deadline


def test_slow_clients_leave_room_for_others() -> None:
    with _listening(replace(QUICK, max_connections=20)) as port, ExitStack() as held:
        for number in range(20):
            connection = held.enter_context(_connect(port))
            connection.sendall(GET + b"\r\n")
            _answered(connection)
            connection.sendall(GET + b"X-Number: %d" % number)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(requests.RequestException):
                if requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200:
                    return
    pytest.fail("they shut it out")


def test_what_a_client_is_counted_by() -> None:
    assert client_name("10.0.0.1") == client_name("::ffff:10.0.0.1") == "10.0.0.1"
    assert client_name("2001:db8::1") == client_name("2001:db8::ffff:2%eth0") != client_name("2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"400"),
        (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"Content-Length : 2\r\n\r\n{}", b"400"),
        (b"X: y\r\n folded\r\nContent-Length: -1\r\n\r\n{}", b"400"),
        (b"X-Many: y\r\n" * 4000 + b"\r\n", b"4"),
        (b"X-Long: " + b"y" * 30_000 + b"\r\n\r\n", b"4"),
    ],
    ids=range(7),
)
def test_heads_that_mean_two_things_or_too_much_are_refused_and_closed(head: bytes, status: bytes) -> None:
    with _listening(QUICK) as port, _connect(port) as connection:
        with suppress(OSError):
            connection.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + head + GET + b"\r\n"
            )
        received = _closed(connection)
        assert received.startswith(b"HTTP/1.1 " + status) or (status == b"4" and not received)
        assert received.count(b"HTTP/1.1") <= 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("tls"), "service")


def _secured(certificate: tuple[Path, Path], config: IngressConfig = QUICK) -> IngressConfig:
    return replace(config, tls_cert=certificate[0], tls_key=certificate[1])


def test_contract_over_tls(certificate: tuple[Path, Path]) -> None:
    scorer = Scorer(FakeEngine())
    config = _secured(certificate, IngressConfig(port=0, rate_hz=1e6, burst=1e6))
    with serving(LocalRewardClient(scorer), TOKEN, config) as url:
        assert url.startswith("https://")
        client = HttpRewardClient(url, TOKEN, HttpClientConfig(ca_file=certificate[0]))
        check_reward_client(client, seeded_request, scorer)
        with pytest.raises(ServiceUnavailable, match=r"--ca-file.*certificate"):
            HttpRewardClient(url, TOKEN, HttpClientConfig(max_retries=0)).model_version(10.0)
        answer = requests.post(
            url + "/v1/score",
            data=encode_request(make_request()),
            headers={"Content-Type": "application/msgpack"},
            timeout=10,
            verify=str(certificate[0]),
        )
        assert answer.status_code == 401


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01\x02\x00\x01", GET + b"\r\n"])
def test_a_handshake_that_does_not_end_is_closed_and_counts(certificate: tuple[Path, Path], start: bytes) -> None:
    config = replace(_secured(certificate), max_connections_per_client=2)
    with _listening(config) as port, ExitStack() as held:
        half = [held.enter_context(_connect(port)) for _ in range(2)]
        for connection in half:
            connection.sendall(start)
        with _connect(port) as refused:
            _closed(refused)
        for connection in half:
            _closed(connection)
        trusting = ssl.create_default_context(cafile=str(certificate[0]))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), trusting.wrap_socket(_connect(port), server_hostname="127.0.0.1") as connection:
                connection.sendall(GET + b"\r\n")
                _answered(connection)
                connection.sendall(GET)
                assert _closed(connection) == b""  # The head's time runs over TLS too.
                return
    pytest.fail("its place was never free again")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "robots.example", "LOCALHOST", "0"])
def test_off_loopback_without_tls_it_does_not_start(host: str) -> None:
    with pytest.raises(BadInput, match=r"--tls-cert FILE and --tls-key FILE.*--insecure"):
        make_server(LocalRewardClient(Scorer(FakeEngine())), IngressConfig(host=host, port=0), TOKEN)
    assert load_tls(IngressConfig(host=host, insecure=True)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_on_loopback_tls_is_a_choice(host: str, certificate: tuple[Path, Path]) -> None:
    assert load_tls(IngressConfig(host=host)) is None
    assert load_tls(_secured(certificate, IngressConfig(host=host))) is not None


def test_certificates_that_cannot_be_used_are_named(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    other_cert, other_key = write_certificate(tmp_path, "other")
    sealed_cert, sealed_key = write_certificate(tmp_path, "sealed", b"password")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "both").write_bytes(cert.read_bytes() + key.read_bytes())
    wrong: list[tuple[Path | None, Path | None, bool, str]] = [
        (cert, tmp_path / "missing", False, "--tls-key"),
        (tmp_path / "missing", key, False, "--tls-cert"),
        (tmp_path, key, False, "--tls-cert"),
        (None, key, False, "--tls-cert"),
        (cert, None, False, "--tls-cert"),
        (cert, other_key, False, "MISMATCH"),
        (other_cert, key, False, "MISMATCH"),
        (sealed_cert, sealed_key, False, "password"),
        (tmp_path / "empty", key, False, "PEM"),
        (key, cert, False, "PEM"),
        (cert, key, True, "--insecure"),
    ]
    for tls_cert, tls_key, insecure, named in wrong:
        config = IngressConfig(host="0.0.0.0", tls_cert=tls_cert, tls_key=tls_key, insecure=insecure)
        with pytest.raises(BadInput, match=named) as caught:
            load_tls(config)
        assert "\n" not in str(caught.value)
    assert load_tls(IngressConfig(tls_cert=tmp_path / "both")) is not None


def test_a_client_sends_no_token_in_plain_sight(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    for url in (
        "http://192.0.2.1:8000",
        "http://robots.example",
        "http://127.0.0.1.robots.example:80",
        "http://[2001:db8::1]:80",
    ):
        with pytest.raises(BadInput, match="--insecure"):
            HttpRewardClient(url, TOKEN)
        HttpRewardClient(url)
        HttpRewardClient(url, TOKEN, HttpClientConfig(insecure=True))
        HttpRewardClient(url.replace("http:", "https:"), TOKEN)
    for url in ("http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost:8000/"):
        HttpRewardClient(url, TOKEN)
    for url in (
        "ftp://127.0.0.1",
        "http://",
        "127.0.0.1:8000",
        "http://127.0.0.1:x",
        "http://127.0.0.1@robots.example",
    ):
        with pytest.raises(BadInput, match="url"):
            HttpRewardClient(url, TOKEN)
    for file in (tmp_path / "missing", certificate[1]):
        with pytest.raises(BadInput, match="--ca-file"):
            HttpRewardClient("https://127.0.0.1:8000", TOKEN, HttpClientConfig(ca_file=file))
