"""``make bench-serve``: what a hundred small requests a second feel of the worst requests of a stranger.

A process of its own sends each kind of bad request, on several connections, as fast as it is answered.
Meanwhile this process sends small ``/predict`` and ``/health/live`` requests at an even pace, each on a
connection of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from bench import ROLE, Bench
from history import fill_page
from measure import process
from rich.console import Console
from tables import Table

from consumer.embedded_kafka.available import available_kafka
from consumer.embedded_kafka.broker import free_port

HOST: Final = "127.0.0.1"
PREDICTS_PER_S: Final = 100
LIVES_PER_S: Final = 20
ATTACKERS: Final = 4
"""Connections that send bad requests at once."""
TIMEOUT_S: Final = 10.0
STUDENT: Final[dict[str, Any]] = {
    "student_country": "US",
    "days_on_platform": 30,
    "minutes_watched": 412.5,
    "courses_started": 2,
    "practice_exams_started": 4,
    "practice_exams_passed": 3,
    "minutes_spent_on_exams": 55.25,
}
MEGABYTE: Final = 1_000_000  # just below the default of serve.max_body_bytes
Attack = Callable[[int], Awaitable[None]]
"""Sends a bad request once to a port."""


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """Return a request that closes its connection."""
    if method == "POST":
        headers = (*headers, "Content-Type: application/json")
        if not any(header.startswith("Transfer-Encoding") for header in headers):
            headers = (*headers, f"Content-Length: {len(body)}")
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def exchange(port: int, sent: bytes) -> bytes:
    """Send a request on a new connection and return the answer."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        with contextlib.suppress(ConnectionError):  # the server may answer before it has read everything
            writer.write(sent)
            await writer.drain()
        return await reader.read()
    finally:
        writer.close()


def sending(sent: bytes) -> Attack:
    """Return an attack that sends these bytes and reads the answer."""

    async def attack(port: int) -> None:
        await exchange(port, sent)

    return attack


async def hold_connections(port: int) -> None:
    """Open a quarter of 600 connections and send nothing."""
    opened = [(await asyncio.open_connection(HOST, port))[1] for _ in range(600 // ATTACKERS)]
    await asyncio.sleep(1)
    for writer in opened:
        writer.close()


async def send_slowly(port: int) -> None:
    """Send 100 requests byte by byte, each announced with a body of a megabyte."""
    head = request("POST", "/batch_predict", b" " * MEGABYTE)[:-MEGABYTE]
    writers = [(await asyncio.open_connection(HOST, port))[1] for _ in range(100)]
    for writer in writers:
        writer.write(head)
    for _ in range(20):
        for writer in writers:
            writer.write(b"[")
        await asyncio.sleep(0.05)
    for writer in writers:
        writer.close()


async def pipeline_unread(port: int) -> None:
    """Send 500 requests at once and read no answer."""
    _, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)
    await asyncio.sleep(1)
    writer.close()


def attacks() -> dict[str, Attack | None]:
    """Return the bad requests by name; the first is none at all."""
    good = json.dumps(STUDENT)
    wrong = json.dumps(dict.fromkeys(STUDENT, -1) | {"student_country": ""})

    def batch(record: str, n: int) -> bytes:
        return ("[" + ",".join([record] * n) + "]").encode()

    many_keys = json.dumps({f"k{i}": i for i in range(60_000)}).encode()
    huge_number = good.replace("412.5", "4" * (MEGABYTE - 1000)).encode()
    huge_text = good.replace("US", "U" * (MEGABYTE - 1000)).encode()
    chunk = b"%x\r\n" % MEGABYTE + b" " * MEGABYTE + b"\r\n"
    return {
        "nothing": None,
        "1,000 good records": sending(request("POST", "/batch_predict", batch(good, 1000))),
        "1,000 records, every field wrong": sending(request("POST", "/batch_predict", batch(wrong, 1000))),
        "300,000 empty records, 0.9 MB": sending(request("POST", "/batch_predict", batch("{}", 300_000))),
        "1 MB of opening brackets": sending(request("POST", "/predict", b"[" * MEGABYTE)),
        "1 MB of nested objects": sending(request("POST", "/predict", b'{"a":' * (MEGABYTE // 5))),
        "an object with 60,000 keys": sending(request("POST", "/predict", many_keys)),
        "a number with a million digits": sending(request("POST", "/predict", huge_number)),
        "a country of a million letters": sending(request("POST", "/predict", huge_text)),
        "20 MB, announced": sending(request("POST", "/predict", b" " * 20 * MEGABYTE)),
        "20 MB, in chunks": sending(
            request("POST", "/predict", chunk * 20 + b"0\r\n\r\n", "Transfer-Encoding: chunked")
        ),
        "100 kB of headers": sending(
            request("GET", "/health", b"", *[f"X-{i}: {'x' * 100}" for i in range(1000)])
        ),
        "100 bodies byte by byte": send_slowly,
        "600 silent connections": hold_connections,
        "500 requests, answers unread": pipeline_unread,
        "metrics, compressed": sending(request("GET", "/metrics", b"", "Accept-Encoding: gzip")),
    }


def attack_until_terminated(name: str, port: int, sent: Synchronized[int]) -> None:
    """Send one kind of bad request on several connections for ever, and count the requests."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # below a server that runs in real time
    attack = attacks()[name]
    assert attack is not None

    async def repeat() -> None:
        while True:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await asyncio.wait_for(attack(port), TIMEOUT_S)
            sent.value += 1

    async def run() -> None:
        await asyncio.gather(*(repeat() for _ in range(ATTACKERS)))

    asyncio.run(run())


@contextlib.contextmanager
def attacked(name: str, port: int) -> Iterator[Callable[[], int]]:
    """Attack in a process of its own while the block runs; give the number of requests sent so far."""
    if name == "nothing":
        yield lambda: 0
        return
    spawn = multiprocessing.get_context("spawn")
    sent: Synchronized[int] = spawn.Value("q", 0)
    attacker = spawn.Process(target=attack_until_terminated, args=(name, port, sent), daemon=True)
    attacker.start()
    try:
        deadline_s = time.monotonic() + 30  # its imports
        while not sent.value and time.monotonic() < deadline_s:
            time.sleep(0.05)
        yield lambda: sent.value
        if not attacker.is_alive():
            raise RuntimeError(f"the attack has failed: {name}")
    finally:
        attacker.terminate()
        attacker.join()


@dataclass
class Felt:
    """What the small requests of one kind felt.

    Attributes:
        latencies_ms: The time of each good answer, in milliseconds.
        errors: Requests that were answered with something else than 200, or not at all.
    """

    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0

    def figures(self) -> list[float]:
        """Return median, p99, maximum, errors."""
        found = self.latencies_ms or [float("nan")]
        return [*np.percentile(found, [50, 99, 100]).tolist(), self.errors]


async def paced(port: int, sent: bytes, per_s: int, seconds: float) -> Felt:
    """Send a small request again and again at an even pace, however long the answers take."""
    felt = Felt()

    async def one() -> None:
        started_s = time.perf_counter()
        try:
            answer = await asyncio.wait_for(exchange(port, sent), TIMEOUT_S)
        except (OSError, TimeoutError):
            answer = b""
        if answer.startswith(b"HTTP/1.1 200"):
            felt.latencies_ms.append(1000 * (time.perf_counter() - started_s))
        else:
            felt.errors += 1

    started_s, tasks = time.perf_counter(), []
    for i in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, started_s + i / per_s - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return felt


async def small_requests(port: int, seconds: float) -> tuple[Felt, Felt]:
    """Send small requests of both kinds."""
    predict = request("POST", "/predict", json.dumps(STUDENT).encode())
    return await asyncio.gather(
        paced(port, predict, PREDICTS_PER_S, seconds),
        paced(port, request("GET", "/health/live"), LIVES_PER_S, seconds),
    )


def measure(seconds: float, rounds: int, only: str) -> Table:
    """Measure beside each bad request whose name contains a text, on one running API."""
    names = [name for name in attacks() if only in name]
    figures: dict[str, list[list[float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, available_kafka() as servers:
        bench, port = Bench(servers, Path(folder)), free_port()
        environment = bench.environment(
            TOPICS__PREDICTIONS=bench.topic("predictions"), HTTP__SERVE_PORT=str(port)
        )
        with process([*ROLE, "serve"], environment, bench.folder / "serve.log") as serve:
            await_ready(port, serve.check)
            asyncio.run(small_requests(port, 3))  # warm-up
            for name in names * rounds:
                with attacked(name, port) as n_sent:
                    before, started_s = n_sent(), time.monotonic()
                    predict, live = asyncio.run(small_requests(port, seconds))
                    per_s = (n_sent() - before) / (time.monotonic() - started_s)
                figures[name].append([per_s, *predict.figures(), *live.figures()])
                print(name, figures[name][-1], flush=True)
                await_ready(port, serve.check)
    columns = [
        f"{kind}: {figure}" for kind in ("/predict", "live") for figure in ("p50 ms", "p99", "max", "errors")
    ]
    title = (
        f"{PREDICTS_PER_S} small /predict and {LIVES_PER_S} /health/live a second, beside"
        f" (medians of {rounds} rounds of {seconds:.0f} s)"
    )
    rows = [
        [name, *(f"{figure:.0f}" for figure in np.median(found, axis=0).tolist())]
        for name, found in figures.items()
    ]
    return Table(title, ["", "sent a second", *columns], rows)


def await_ready(port: int, check: Callable[[], None]) -> None:
    """Wait until the API is ready."""
    deadline_s = time.monotonic() + 60
    while True:
        check()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://{HOST}:{port}/health/ready").status_code == 200:
                return
        if time.monotonic() > deadline_s:
            raise TimeoutError("serve did not become ready")
        time.sleep(0.1)


def main() -> None:
    """Measure, print, and fill the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each bad request is sent")
    parser.add_argument("--rounds", type=int, default=3, help="how often each bad request is measured")
    parser.add_argument("--record", action="store_true", help="fill docs/performance.md")
    parser.add_argument("--only", default="", help="only bad requests whose name contains this")
    given = parser.parse_args()
    table = measure(given.seconds, given.rounds, given.only)
    Console().print(table.rich())
    if given.record:
        fill_page("serve", datetime.now(UTC).date().isoformat(), [table])


if __name__ == "__main__":
    main()
