"""The dead-letter commands on a real broker: what an operator sees of them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from consumer.pipeline.batch import Headers
from consumer.pipeline.rejections import Code
from tests.support.dead_letters import KINDS, events_of, reject, replayed
from tests.support.events import event, good

pytestmark = pytest.mark.broker


def cli(service: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(  # noqa: S603 - every word is ours
        [sys.executable, "-m", "consumer", *arguments],
        env=os.environ | service.environment,
        cwd=service.folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_the_command_names_what_it_cannot_replay(deploy: Callable[..., Any]) -> None:
    """Truncated dead letters and foreign records are named and passed; the others are sent; exit code 65."""
    service = deploy(partitions=2)
    reject(service, [((0, b"k", bytes(9000), []), Code.UNDECODABLE)], max_bytes=4000)
    reject(service, [((1, b"k", good(), []), Code.UNKNOWN_SCHEMA)])
    producer = Producer({"bootstrap.servers": service.servers})
    producer.produce(service.topics["DEAD_LETTERS"], b"plain text", None, 0)
    assert producer.flush(10) == 0

    dry = cli(service, "dlq", "replay", "--dry-run")
    assert dry.returncode == 65, dry.stderr
    assert "unknown_schema: 1 would be accepted now" in dry.stdout
    assert "1 event would be sent" in dry.stdout
    service.read(service.topics["EVENTS"], 0)

    done = cli(service, "dlq", "replay")
    assert done.returncode == 65
    assert f"1 event sent to {service.topics['EVENTS']} (unknown_schema 1)" in done.stdout
    assert "not replayed: 0:0  undecodable  its raw bytes are truncated" in done.stderr
    assert "not replayed: 0:2  other" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("purchase-stream: 2 dead letters do not hold the event")
    assert replayed(service, 1) == [(1, b"k", good(), [])]

    again = cli(service, "dlq", "replay")
    assert (again.returncode, again.stdout) == (0, f"0 events sent to {service.topics['EVENTS']}\n")


def test_listing_counts_all_and_shows_the_newest(deploy: Callable[..., Any]) -> None:
    """With filters, and as JSON."""
    service = deploy(partitions=2)
    reject(service, events_of(30))
    listed = cli(service, "dlq", "list", "--limit", "2").stdout.splitlines()
    assert listed[0] == f"{service.topics['DEAD_LETTERS']}: 30 dead letters"
    assert [line.split() for line in listed[1:4]] == [[code, "10"] for code in KINDS]
    assert [line.split()[0] for line in listed[4:]] == ["0:29", "0:28"]
    assert "event 1:29  field_invalid it is" in listed[4]
    found = json.loads(cli(service, "dlq", "list", "--code", "tombstone", "--since", "1h", "--json").stdout)
    assert found["counts"] == {"tombstone": 10}
    assert found["newest"][0]["letter"]["source"]["offset"] == 28
    assert cli(service, "dlq", "list", "--since", "2999-01-01").stdout.endswith(": 0 dead letters\n")
    wrong = cli(service, "dlq", "list", "--code", "undecodeable")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (64, 1)
    nowhere = cli(service, "dlq", "list", "--partition", "3")
    assert nowhere.returncode == 65
    assert "no partition 3" in nowhere.stderr


def test_showing_one_tells_all_of_it(deploy: Callable[..., Any]) -> None:
    """Reason, event, headers, and the raw bytes in hexadecimal."""
    service = deploy(partitions=2)
    reject(service, events_of(1))
    shown = cli(service, "dlq", "show", "0:0").stdout
    assert "code: unknown_schema (422), rejected 2026-09-21T14:13:20.000Z" in shown
    assert "key: \\xffkey-0" in shown
    assert "  trace: t-1" in shown
    assert "00000000  72 61 77 2d 30" in shown
    body = orjson.loads(cli(service, "dlq", "show", "0:0", "--json").stdout)
    assert body["letter"]["code"] == "unknown_schema"
    missing = cli(service, "dlq", "show", "0:7")
    assert missing.returncode == 65
    assert "no dead letter at 0:7" in missing.stderr
    assert cli(service, "dlq", "show", "seven").returncode == 64


def test_signatures_count_what_is_there(deploy: Callable[..., Any]) -> None:
    """With the first and the last of each, as text and as JSON."""
    service = deploy(partitions=2)
    reject(service, events_of(30))
    shown = cli(service, "dlq", "stats").stdout.splitlines()
    assert shown[0] == f"{service.topics['DEAD_LETTERS']}: 30 dead letters, 3 signatures"
    found = json.loads(cli(service, "dlq", "stats", "--json").stdout)["signatures"]
    assert [(entry["count"], entry["schema"], entry["producer"]) for entry in found] == [(10, "-", "-")] * 3
    assert {(entry["first"], entry["last"]) for entry in found} == {
        (f"0:{n}", f"0:{27 + n}") for n in range(3)
    }


def test_a_repair_shows_the_difference_before_it_sends(deploy: Callable[..., Any]) -> None:
    """And sends only what would be accepted then."""
    service = deploy(partitions=1)
    fields = event() | {"days_on_platform": "12"}
    values = [orjson.dumps(fields), orjson.dumps(fields | {"minutes_watched": -1.0}), b"no JSON"]
    reject(service, [((0, b"k", value, []), Code.UNKNOWN_FRAMING) for value in values])
    command = ("dlq", "repair", "--cast", "days_on_platform")
    dry = cli(service, *command, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert '0:0  unknown_framing  days_on_platform: "12" -> 12' in dry.stdout
    assert "1 event would be sent" in dry.stdout
    service.read(service.topics["EVENTS"], 0)
    done = cli(service, *command)
    assert f"1 event sent to {service.topics['EVENTS']}" in done.stdout
    assert "unknown_framing: 1 would be rejected again as field_invalid; not sent" in done.stdout
    assert "1 not repaired: its event could not be decoded" in done.stderr
    assert replayed(service, 1) == [(0, b"k", good(days_on_platform=12), [])]
    both = cli(service, *command, "--set", "minutes_watched=1", "0:1")
    assert f"1 event sent to {service.topics['EVENTS']}" in both.stdout
    replayed(service, 2)
    assert cli(service, "dlq", "repair").returncode == 64


def test_nothing_in_a_dead_letter_reaches_the_terminal(deploy: Callable[..., Any]) -> None:
    """Under a terminal of its own: names and values, escaped, whatever they hold."""
    service = deploy(partitions=1)
    evil = "\x1b]0;pwned\x07\x1b[2J\u202e\r"
    body = {
        "status": 422,
        "code": f"undecodable{evil}",
        "detail": [{evil: evil}],
        "rejected_at": evil,
        "source": {"topic": evil, "partition": 0, "offset": 0},
        "event": {evil: evil},
        "raw": "eA==",
        "raw_truncated": evil,
        "raw_sha256": evil,
    }
    producer = Producer({"bootstrap.servers": service.servers})
    headers: Headers = [(evil, evil.encode()), ("dlq.error.dropped", evil.encode())]
    for value in (orjson.dumps(body), orjson.dumps(body | {"detail": evil, "event": evil}), evil.encode()):
        producer.produce(service.topics["DEAD_LETTERS"], value, evil.encode(), 0, headers=[*headers])
    assert producer.flush(10) == 0
    for verb in (
        ("show", "0:0"),
        ("show", "0:1"),
        ("show", "0:2"),
        ("list",),
        ("stats",),
        ("replay", "--dry-run"),
    ):
        shown = under_terminal(service, "dlq", *verb)
        assert not [c for c in shown.replace("\r\n", "\n") if not (c.isprintable() or c == "\n")], verb
        assert shown


def under_terminal(service: Any, *arguments: str) -> str:
    """Run the command on a terminal; return what the terminal gets."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(  # noqa: S603 - every word is ours
        [sys.executable, "-m", "consumer", *arguments],
        env=os.environ | service.environment,
        cwd=service.folder,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output = b""
    with contextlib.suppress(OSError):  # Linux reports the end of the other side as an error
        while part := os.read(controller, 65536):
            output += part
    os.close(controller)
    process.wait(30)
    return output.decode()
