"""Dead letters on a real broker: what an operator sees, and events that are sent in again exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from consumer.core.batch import Headers
from consumer.core.dead_letter import dead_letters
from consumer.core.rejections import Code, Rejection, Rejections
from consumer.dlq.replay import Replay, group_of
from consumer.errors import FatalError, Unavailable
from consumer.kafka.replay_group import committed_by
from consumer.settings import KafkaSettings, Settings, TopicSettings
from tests.builders import good, raw_batch

pytestmark = pytest.mark.broker

HEADERS: Headers = [("trace", b"t-1"), ("trace", None), ("bin", b"\xff\x00")]
KINDS = (Code.UNKNOWN_SCHEMA, Code.TOMBSTONE, Code.FIELD_INVALID)

Event = tuple[int, bytes | None, bytes | None, Headers]


def settings_of(service: Any) -> Settings:
    """Return the settings of a deployment."""
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=service.servers, group_id=service.topics["EVENTS"]),
        topics=TopicSettings(**{name.lower(): topic for name, topic in service.topics.items()}),
    )


def reject(service: Any, events: list[tuple[Event, Code]], **limits: int) -> None:
    """Write the dead letters of events that need not be in the events topic."""
    producer = Producer({"bootstrap.servers": service.servers, "message.max.bytes": 2_000_000})
    for offset, ((partition, key, value, headers), code) in enumerate(events):
        raw = raw_batch([value], keys=[key], headers=[headers], partitions=[partition], first_offset=offset)
        raw = type(raw)(
            service.topics["EVENTS"],
            raw.partitions,
            raw.offsets,
            raw.keys,
            raw.values,
            raw.timestamps_ms,
            raw.headers,
        )
        (letter,) = dead_letters(
            Rejections.of([Rejection(0, code, f"{code} it is")]),
            raw,
            group="g",
            rejected_at_ms=1_790_000_000_000,
            max_bytes=limits.get("max_bytes", 1_000_000),
        )
        producer.produce(service.topics["DEAD_LETTERS"], letter.value, letter.key, 0, headers=letter.headers)
    assert producer.flush(20) == 0


def events_of(count: int) -> list[tuple[Event, Code]]:
    """Return rejected events of every kind, over two partitions."""
    kinds = [KINDS[n % 3] for n in range(count)]
    return [
        ((n % 2, b"\xffkey-%d" % n, None if code is Code.TOMBSTONE else b"raw-%d" % n, HEADERS), code)
        for n, code in enumerate(kinds)
    ]


def replayed(service: Any, count: int) -> list[Event]:
    """Return what committed readers find in the events topic, which must be so many."""
    found = service.read(service.topics["EVENTS"], count)
    return [(record.partition(), record.key(), record.value(), record.headers() or []) for record in found]


def in_order(events: list[Event]) -> list[Event]:
    """Sort by partition, and keep the order inside each."""
    return sorted(events, key=lambda event: event[0])


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


class Dying(Producer):
    """A producer of a process that dies at a chosen step of its second transaction."""

    step = "commit_transaction"
    before = True

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._commits = 0

    def commit_transaction(self, *arguments: Any) -> None:
        """Commit, unless it is time to die."""
        self._commits += 1
        if self._commits == 2 and self.before:
            raise RuntimeError("killed before the commit")
        super().commit_transaction(*arguments)
        if self._commits == 2:
            raise RuntimeError("killed after the commit")


class DyingAfter(Dying):
    """The same, right after it has committed."""

    before = False


def test_events_come_back_byte_for_byte_and_only_once(deploy: Callable[..., Any]) -> None:
    """Key, value, headers, partition and order are the originals'; a second run sends nothing."""
    service = deploy(partitions=2)
    rejected = events_of(30)
    reject(service, rejected)
    assert sum(Replay(settings_of(service), batch_events=7).run().sent.values()) == 30
    assert in_order(replayed(service, 30)) == in_order([event for event, _ in rejected])
    assert not Replay(settings_of(service)).run().sent
    replayed(service, 30)
    reject(service, events_of(3))
    assert sum(Replay(settings_of(service)).run().sent.values()) == 3
    replayed(service, 33)


@pytest.mark.parametrize("producer", [Dying, DyingAfter])
def test_a_run_that_dies_in_the_middle_is_finished_by_the_next(
    deploy: Callable[..., Any], producer: type[Producer]
) -> None:
    """Whether it died before the commit or after it: no event is lost, none comes twice."""
    service = deploy(partitions=2)
    rejected = events_of(25)
    reject(service, rejected)
    with pytest.raises(RuntimeError, match="killed"):
        Replay(settings_of(service), batch_events=10, producer_factory=producer).run()
    after_death = 10 if producer is Dying else 20
    assert sum(Replay(settings_of(service), batch_events=10).run().sent.values()) == 25 - after_death
    assert in_order(replayed(service, 25)) == in_order([event for event, _ in rejected])


def test_killed_again_and_again_it_still_sends_each_event_once(deploy: Callable[..., Any]) -> None:
    """SIGKILL at any moment of real processes, until one gets to the end."""
    service = deploy(partitions=2)
    rejected = events_of(20_000)
    reject(service, rejected)
    settings = settings_of(service)
    topic = settings.topics.dead_letters
    killed_in_the_middle = 0
    for _ in range(12):
        process = service.start("dlq", "replay")
        seen = _progress(service, topic)
        deadline_s = time.monotonic() + 60
        while process.poll() is None and _progress(service, topic) == seen and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_in_the_middle += 0 < _progress(service, topic) < 20_000
    assert killed_in_the_middle
    assert service.start("dlq", "replay").wait(90) == 0, service.logs()
    assert in_order(replayed(service, 20_000)) == in_order([event for event, _ in rejected])


def _progress(service: Any, topic: str) -> int:
    client = {"bootstrap.servers": service.servers}
    return committed_by(client, group_of(settings_of(service)), topic, [0]).get(0, (0, None))[0]


def test_two_at_once_send_each_event_once(deploy: Callable[..., Any]) -> None:
    """The later one takes over; the earlier one stops, having sent what it committed."""
    service = deploy(partitions=2)
    rejected = events_of(60)
    reject(service, rejected)
    twins: list[int] = []

    class Slow(Producer):
        """Lets another run start and finish in the middle of its own second transaction."""

        commits = 0

        def commit_transaction(self, *arguments: Any) -> None:
            """Commit the first; before the second, the other run does everything."""
            self.commits += 1
            if self.commits == 2:
                twins.append(sum(Replay(settings_of(service), batch_events=10).run().sent.values()))
            super().commit_transaction(*arguments)

    with pytest.raises((Unavailable, FatalError)):
        Replay(settings_of(service), batch_events=10, producer_factory=Slow).run()
    assert twins == [50]
    assert in_order(replayed(service, 60)) == in_order([event for event, _ in rejected])


def test_a_filtered_replay_does_not_cost_the_others_theirs(deploy: Callable[..., Any]) -> None:
    """One code first, then a few more, then all: each event once."""
    service = deploy(partitions=2)
    rejected = events_of(30)
    reject(service, rejected)
    settings = settings_of(service)
    assert Replay(settings, codes=[KINDS[2]]).run().sent == {KINDS[2]: 10}
    assert Replay(settings, codes=[KINDS[2]]).run().sent == {}
    assert sum(Replay(settings, limit=4).run().sent.values()) == 4
    assert sum(Replay(settings).run().sent.values()) == 16
    key = lambda event: (event[0], event[1] or b"")  # noqa: E731 - used twice, here
    assert sorted(replayed(service, 30), key=key) == sorted((event for event, _ in rejected), key=key)


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


def test_an_event_that_the_broker_does_not_take_costs_its_neighbours_nothing(
    deploy: Callable[..., Any],
) -> None:
    """The topic's limit was lowered since: that one is named, the others are sent."""
    service = deploy(partitions=2)
    rejected = events_of(9)
    large: Event = (0, b"large", os.urandom(300_000), [])
    reject(service, [*rejected[:4], (large, Code.UNDECODABLE), *rejected[4:]])
    _set_max_message_bytes(service, 100_000)
    refused: list[str] = []
    work = Replay(
        settings_of(service), on_refused=lambda letter, why: refused.append(f"{letter.place} {why}")
    )
    assert sum(work.run().sent.values()) == 9
    assert [text.split()[0] for text in refused] == ["0:4"]
    assert in_order(replayed(service, 9)) == in_order([event for event, _ in rejected])


def _set_max_message_bytes(service: Any, limit: int) -> None:
    from confluent_kafka.admin import (  # noqa: PLC0415 - only here
        AdminClient,
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
    )

    change = ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(
        ConfigResource.Type.TOPIC, service.topics["EVENTS"], incremental_configs=[change]
    )
    admin = AdminClient({"bootstrap.servers": service.servers})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(10)


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
