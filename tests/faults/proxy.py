"""A TCP proxy before one Kafka broker that can misbehave on command, frame by frame.

A Kafka frame is a four-byte big-endian length and that many bytes; a request's start with its api key
(int16), api version (int16) and correlation id (int32), a response's with the correlation id
(Kafka protocol guide, "Network" and "Headers"). Frames are relayed whole or not at all, so that
connections stay aligned while some are lost.

The proxy runs on an event loop in a thread of its own. Every public method may be called from the test's
thread and has taken effect when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar

from consumer.embedded_kafka.broker import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

_T = TypeVar("_T")
END_TXN = 26
TXN_OFFSET_COMMIT = 28
_CALL_TIMEOUT_S = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER switched on with 0 seconds: closing sends RST, not FIN (socket(7))."""


@dataclass(eq=False)
class _Link:
    """One client connection and the upstream connection that belongs to it."""

    client: asyncio.StreamWriter
    upstream: asyncio.StreamWriter
    held_request: bytes | None = None
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class KafkaProxy:
    """Stand between clients and one broker, which must advertise :attr:`address`.

    Args:
        upstream: The broker's ``host:port``.

    Attributes:
        delay_ms: How much later each frame arrives, in either direction (a round trip takes twice this).
        requests: How many requests of each api key have come from clients.
    """

    def __init__(self, upstream: str) -> None:
        host, port = upstream.rsplit(":", 1)
        self._upstream = (host, int(port))
        self._port = free_port()
        self.delay_ms = 0.0
        self.requests: Counter[int] = Counter()
        self._swallowed = {"requests": False, "responses": False}
        self._api_keys_to_hold: list[int] = []
        self._links: set[_Link] = set()
        self._held: list[_Link] = []
        self._something_is_held = threading.Event()
        self._listener: socket.socket | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kafka-proxy", daemon=True)

    @property
    def address(self) -> str:
        """The ``host:port`` for clients, the same for the proxy's whole life."""
        return f"{LOOPBACK}:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset (RST) every connection, to clients and to the broker; new ones are still accepted."""
        self._call(self._cut())

    def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""
        self._call(self._stop_listening())

    def accept(self) -> None:
        """Accept connections (again)."""
        self._call(self._listen())

    def swallow(self, *, requests: bool = True, responses: bool = True) -> None:
        """Lose all frames of these directions for good; with responses alone the connection is half-open."""
        self._call(self._set_swallowed(requests=requests, responses=responses))

    def pass_on(self) -> None:
        """End :meth:`swallow`; what it lost stays lost."""
        self.swallow(requests=False, responses=False)

    def hold(self, api_key: int) -> None:
        """Hold back the next request of this api key and reset the client that sent it.

        Its upstream connection stays open until :meth:`release` sends the request there. Later
        requests of the same key pass, unless this is called again.
        """
        self._call(self._arm(api_key))

    def wait_until_held(self, timeout_s: float) -> bool:
        """Wait for a request to be held; return whether one is."""
        return self._something_is_held.wait(timeout_s)

    def release(self) -> list[bytes]:
        """Send every held request now, over its own old connection, and return the broker's answers.

        Returns:
            One response per request, oldest first, without length and correlation id.

        Raises:
            TimeoutError: The broker doesn't answer within 5 s.
        """
        return self._call(self._release())

    def _call(self, what: Coroutine[None, None, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_CALL_TIMEOUT_S)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((LOOPBACK, self._port))
            self._listener.settimeout(0)
            self._loop.add_reader(self._listener, self._accept_one, self._listener)

    def _accept_one(self, listener: socket.socket) -> None:
        # asyncio's start_server and sock_accept leak a connection that is being accepted when they are
        # stopped; here accepting and owning it are one step.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = listener.accept()
            relay = self._loop.create_task(self._relay(client))
            self._relays.add(relay)
            relay.add_done_callback(self._relays.discard)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _cut(self) -> None:
        for link in self._links - set(self._held):
            _reset(link.client)
            _reset(link.upstream)

    async def _set_swallowed(self, *, requests: bool, responses: bool) -> None:
        self._swallowed = {"requests": requests, "responses": responses}

    async def _arm(self, api_key: int) -> None:
        self._api_keys_to_hold.append(api_key)

    async def _release(self) -> list[bytes]:
        held, self._held = self._held, []
        self._something_is_held.clear()
        answers = []
        for link in held:
            assert link.held_request is not None
            link.upstream.write(link.held_request)
            async with asyncio.timeout(_CALL_TIMEOUT_S / 2):
                answers.append(await link.answer)
            link.upstream.close()
        return answers

    async def _close(self) -> None:
        await self._stop_listening()
        self._held.clear()
        # Again and again: a relay may still be connecting and have no link to cut yet.
        while self._relays:
            await self._cut()
            await asyncio.wait(self._relays, timeout=0.02)

    async def _relay(self, client: socket.socket) -> None:
        """Serve one client until either side closes."""
        client_in, client_out = await asyncio.open_connection(sock=client)
        try:
            upstream_in, upstream_out = await asyncio.open_connection(*self._upstream)
        except OSError:
            _reset(client_out)
            return
        link = _Link(client_out, upstream_out)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._relay_requests(link, client_in))
                directions.create_task(self._relay_responses(link, upstream_in))
        except* (OSError, EOFError):
            pass  # one side closed, which ends the other direction too
        finally:
            if link in self._held:
                self._held.remove(link)
            for writer in (client_out, upstream_out):
                writer.close()
            for writer in (client_out, upstream_out):
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            self._links.discard(link)

    async def _relay_requests(self, link: _Link, client_in: asyncio.StreamReader) -> None:
        async with _DelayedWriter(self, link.upstream) as upstream:
            while True:
                frame = await _read_frame(client_in)
                (api_key,) = struct.unpack_from(">h", frame, 4)
                self.requests[api_key] += 1
                if api_key in self._api_keys_to_hold:
                    self._api_keys_to_hold.remove(api_key)
                    link.held_request = frame
                    self._held.append(link)
                    _reset(link.client)
                    self._something_is_held.set()
                    return
                if not self._swallowed["requests"]:
                    upstream.put(frame)

    async def _relay_responses(self, link: _Link, upstream_in: asyncio.StreamReader) -> None:
        async with _DelayedWriter(self, link.client) as client:
            while True:
                frame = await _read_frame(upstream_in)
                # Bytes 4 to 8 of a response, and 8 to 12 of its request, are the correlation id.
                if link.held_request is not None:
                    if frame[4:8] == link.held_request[8:12]:
                        link.answer.set_result(frame[8:])
                elif not self._swallowed["responses"]:
                    client.put(frame)


class _DelayedWriter:
    """Write frames in order, each as much later as the proxy's delay says when it comes."""

    def __init__(self, proxy: KafkaProxy, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writer = writer
        self._queue: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, EOFError):
            self._queue.put_nowait(None)  # what was read before the end is still delivered
        elif error is not None:
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._task

    def put(self, frame: bytes) -> None:
        """Have the frame written when its time has come."""
        due_s = asyncio.get_running_loop().time() + self._proxy.delay_ms / 1000
        self._queue.put_nowait((due_s, frame))

    async def _write(self) -> None:
        while item := await self._queue.get():
            due_s, frame = item
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())
            self._writer.write(frame)
            await self._writer.drain()


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one frame, its length included; EOFError at the end of the stream."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length, "big"))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
