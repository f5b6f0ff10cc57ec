"""The fault proxy does to frames exactly what it is told, seen from plain sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.faults.proxy import END_TXN, KafkaProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA = 3


class EchoBroker:
    """Answers each request with its correlation id and body, and remembers the bodies in order."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Close everything and wait for the threads."""
        for connection in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
                self._threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while length := stream.read(4):
                frame = stream.read(int.from_bytes(length, "big"))
                self.bodies.append(frame[8:])
                answer = frame[4:8] + frame[8:]
                connection.sendall(len(answer).to_bytes(4, "big") + answer)


class Client:
    """Speaks frames over one connection to the proxy."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, api_key: int, body: bytes, correlation_id: int = 7) -> None:
        """Send one request."""
        frame = struct.pack(">hhi", api_key, 0, correlation_id) + body
        self._socket.sendall(len(frame).to_bytes(4, "big") + frame)

    def receive(self, timeout_s: float = 5.0) -> bytes:
        """Return the next response without its length, or b"" if none comes in time."""
        self._socket.settimeout(timeout_s)
        try:
            return self._exactly(int.from_bytes(self._exactly(4), "big"))
        except TimeoutError:
            return b""

    def _exactly(self, n_bytes: int) -> bytes:
        """Return this many bytes, or fewer at the end; a socket with a timeout knows no MSG_WAITALL."""
        received = b""
        while len(received) < n_bytes and (more := self._socket.recv(n_bytes - len(received))):
            received += more
        return received


@pytest.fixture
def broker() -> Iterator[EchoBroker]:
    """A broker that echoes."""
    echo = EchoBroker()
    yield echo
    echo.close()


@pytest.fixture
def proxy(broker: EchoBroker) -> Iterator[KafkaProxy]:
    """A well-behaved proxy before it."""
    with KafkaProxy(broker.address) as running:
        yield running


@pytest.fixture
def client(proxy: KafkaProxy) -> Iterator[Client]:
    """A connection to the proxy."""
    with Client(proxy.address) as connected:
        yield connected


def test_frames_pass_unchanged_in_order_and_are_counted(proxy: KafkaProxy, client: Client) -> None:
    """Two requests in one go come back as two answers, and each is counted under its api key."""
    client.send(METADATA, b"first", 1)
    client.send(END_TXN, b"x" * 100_000, 2)
    assert client.receive() == b"\0\0\0\1first"
    assert client.receive() == b"\0\0\0\2" + b"x" * 100_000
    assert proxy.requests == {METADATA: 1, END_TXN: 1}


def test_cut_resets_connections_and_accepts_new_ones(proxy: KafkaProxy, client: Client) -> None:
    """The peer sees RST, not a polite end; a new connection works."""
    client.send(METADATA, b"a")
    client.receive()
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.receive()
    with Client(proxy.address) as another:
        another.send(METADATA, b"b")
        assert another.receive()[4:] == b"b"


def test_refuse_keeps_old_connections_and_denies_new_ones(proxy: KafkaProxy, client: Client) -> None:
    """Connection refused until accept() is called, at the same address."""
    client.send(METADATA, b"a")
    client.receive()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        Client(proxy.address)
    client.send(METADATA, b"b")
    assert client.receive()[4:] == b"b"
    proxy.accept()
    Client(proxy.address).__exit__()


def test_half_open_delivers_requests_and_loses_responses(
    proxy: KafkaProxy, client: Client, broker: EchoBroker
) -> None:
    """The broker acts on a request whose answer never arrives; afterwards answers flow again."""
    proxy.swallow(requests=False)
    client.send(METADATA, b"lost answer")
    assert client.receive(timeout_s=0.3) == b""
    assert broker.bodies == [b"lost answer"]
    proxy.pass_on()
    client.send(METADATA, b"after")
    assert client.receive()[4:] == b"after"


def test_a_black_hole_delivers_nothing(proxy: KafkaProxy, client: Client, broker: EchoBroker) -> None:
    """What goes in is gone, the connection stays open, and later frames are not garbled."""
    proxy.swallow()
    client.send(METADATA, b"gone")
    assert client.receive(timeout_s=0.3) == b""
    proxy.pass_on()
    client.send(METADATA, b"after")
    assert client.receive()[4:] == b"after"
    assert broker.bodies == [b"after"]


def test_delay_adds_latency_without_queueing_frames_behind_each_other(
    proxy: KafkaProxy, client: Client
) -> None:
    """Ten pipelined requests take one delayed round trip, not ten."""
    proxy.delay_ms = 100
    started_s = time.monotonic()
    for number in range(10):
        client.send(METADATA, b"", number)
    assert [int.from_bytes(client.receive(), "big") for _ in range(10)] == list(range(10))
    assert 0.2 <= time.monotonic() - started_s < 0.8


def test_a_held_request_arrives_late_after_its_client_has_gone(
    proxy: KafkaProxy, client: Client, broker: EchoBroker
) -> None:
    """The sender is reset, newer requests overtake, and the release delivers and returns the answer."""
    proxy.hold(END_TXN)
    client.send(METADATA, b"before", 1)
    assert client.receive()[4:] == b"before"
    client.send(END_TXN, b"late", 2)
    assert proxy.wait_until_held(5)
    with pytest.raises(ConnectionResetError):
        client.receive()
    with Client(proxy.address) as another:
        another.send(END_TXN, b"retried", 2)
        assert another.receive()[4:] == b"retried"
    assert broker.bodies == [b"before", b"retried"]
    assert proxy.release() == [b"late"]
    assert broker.bodies[-1] == b"late"


def test_a_broker_that_is_down_resets_the_client(broker: EchoBroker, proxy: KafkaProxy) -> None:
    """Nobody listens upstream: the client is not left hanging."""
    broker.close()
    with pytest.raises(ConnectionResetError), Client(proxy.address) as client:
        client.receive()
