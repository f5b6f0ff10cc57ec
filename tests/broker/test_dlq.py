"""The dead-letter commands on a real broker: what an operator sees of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from consumer.pipeline.rejections import Code
from tests.support.dead_letters import KINDS, events_of, reject, replayed
from tests.support.events import good

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
    assert dry.returncode == 65
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
