"""Dead letters on a real broker that are sent in again as the events that they were, exactly once."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from consumer.errors import FatalError, Unavailable
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.producer import TransactionalProducer
from consumer.ops.dlq.plan import RejectionPreview
from consumer.ops.dlq.replay import NewestEvents, Replay, group_of
from consumer.pipeline.dead_letter import dead_letters
from consumer.pipeline.decode import Decoder
from consumer.pipeline.rejections import Code, Rejections
from consumer.pipeline.validate import validate
from consumer.settings import KafkaSettings, Settings, TopicSettings
from schemas.repository import BundledSchemas, engagement_event
from tests.support.dead_letters import KINDS, Event, events_of, in_order, reject, replayed
from tests.support.events import good, raw_batch

pytestmark = pytest.mark.broker


def settings_of(service: Any) -> Settings:
    """Return the settings of a deployment."""
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=service.servers, group_id=service.topics["EVENTS"]),
        topics=TopicSettings(**{name.lower(): topic for name, topic in service.topics.items()}),
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
        Replay(
            settings_of(service),
            batch_events=10,
            open_producer=partial(TransactionalProducer, producer_factory=producer),
        ).run()
    after_death = 10 if producer is Dying else 20
    assert sum(Replay(settings_of(service), batch_events=10).run().sent.values()) == 25 - after_death
    assert in_order(replayed(service, 25)) == in_order([event for event, _ in rejected])


@pytest.mark.faults
def test_killed_again_and_again_it_still_sends_each_event_once(deploy: Callable[..., Any]) -> None:
    """SIGKILL at any moment of real processes, until one gets to the end."""
    service = deploy(partitions=2)
    rejected = events_of(20_000)
    reject(service, rejected)
    settings = settings_of(service)
    topic = settings.topics.dead_letters
    killed_in_the_middle = 0
    for _ in range(12):
        process = service.start("dlq", "replay", "--include-rejected")
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
    assert service.start("dlq", "replay", "--include-rejected").wait(90) == 0, service.logs()
    assert in_order(replayed(service, 20_000)) == in_order([event for event, _ in rejected])


def _progress(service: Any, topic: str) -> int:
    client = {"bootstrap.servers": service.servers}
    return (
        ClusterAdmin(client)
        .committed_offsets(group_of(settings_of(service)), topic, [0])
        .get(0, (0, None))[0]
    )


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
        Replay(
            settings_of(service),
            batch_events=10,
            open_producer=partial(TransactionalProducer, producer_factory=Slow),
        ).run()
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
        settings_of(service), on_refused=lambda letter, why: refused.append(f"{letter.position} {why}")
    )
    assert sum(work.run().sent.values()) == 9
    assert [text.split()[0] for text in refused] == ["0:4"]
    assert in_order(replayed(service, 9)) == in_order([event for event, _ in rejected])


def test_what_would_be_rejected_again_stays_due(deploy: Callable[..., Any]) -> None:
    """Only acceptable events are sent; when the missing schema is there, the others follow, each once."""
    service = deploy(partitions=2)
    foreign = b"\xc3\x01" + b"\xff" * 8 + good()[10:]
    rejected: list[tuple[Event, Code]] = [
        ((n % 2, b"k-%d" % n, foreign if n % 3 else good(event_id=f"e-{n}"), []), Code.UNKNOWN_SCHEMA)
        for n in range(60)
    ]
    reject(service, rejected)
    settings, preview = settings_of(service), RejectionPreview(BundledSchemas())
    for expected in (20, 0):
        work = Replay(settings, preview=preview, batch_events=7)
        assert sum(work.run().sent.values()) == expected
        assert work.replayed.held == {("unknown_schema", "unknown_schema"): 40}
    assert sum(Replay(settings, batch_events=7).run().sent.values()) == 40
    found = replayed(service, 60)
    assert sorted(found, key=repr) == sorted((event for event, _ in rejected), key=repr)


def test_a_partition_a_span_and_a_single_one_can_be_selected(deploy: Callable[..., Any]) -> None:
    """What is not selected stays due."""
    service = deploy(partitions=2)
    reject(service, events_of(30))
    settings = settings_of(service)
    assert Replay(settings, selected={0: (12, 13)}).run().sent == {KINDS[0]: 1}
    assert not Replay(settings, selected={0: (12, 13)}).run().sent
    assert sum(Replay(settings, selected={0: (25, 30)}).run().sent.values()) == 5
    assert not Replay(settings, selected={0: (3, 3)}).run().sent
    assert sum(Replay(settings).run().sent.values()) == 24
    replayed(service, 30)


def test_a_rate_is_kept(deploy: Callable[..., Any]) -> None:
    """Sixty events at 30 a second take two seconds."""
    service = deploy(partitions=1)
    reject(service, [((0, b"k", b"v", []), Code.MODEL_FAILED)] * 60)
    began_s = time.monotonic()
    assert sum(Replay(settings_of(service), rate=30).run().sent.values()) == 60
    assert 1.8 < time.monotonic() - began_s < 20


def test_an_event_that_a_newer_one_supersedes_can_be_skipped(deploy: Callable[..., Any]) -> None:
    """Skipped ones count as handled."""
    service = deploy(partitions=1)
    service.produce([(b"old", b"1", 0), (b"new", b"2", 0), (b"old", b"3", 0)])
    reject(service, [((0, b"old", b"1", []), Code.UNDECODABLE), ((0, b"new", b"2", []), Code.UNDECODABLE)])
    settings = settings_of(service)
    work = Replay(settings, is_stale=NewestEvents(settings).supersede)
    assert (work.run().sent, work.replayed.stale) == ({Code.UNDECODABLE: 1}, {Code.UNDECODABLE: 1})
    assert replayed(service, 4)[-1] == (0, b"new", b"2", [])
    assert not Replay(settings).run().sent


def test_repairs_that_are_killed_send_each_event_once(deploy: Callable[..., Any]) -> None:
    """And the two replays that follow send only what the repair left."""
    service = deploy(partitions=2)
    bad: list[Event] = [
        (n % 2, b"k-%d" % n, good(event_id=f"e-{n}", minutes_watched=-1.0), []) for n in range(8000)
    ]
    rejected_now(service, bad)
    topic, command = service.topics["DEAD_LETTERS"], ("dlq", "repair", "--set", "minutes_watched=1.5")
    for _ in range(2):
        process, seen = service.start(*command), _progress(service, topic)
        deadline_s = time.monotonic() + 60
        while process.poll() is None and _progress(service, topic) == seen and time.monotonic() < deadline_s:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert service.start(*command).wait(90) == 0, service.logs()
    assert service.start("dlq", "replay").wait(90) == 0, service.logs()
    found = replayed(service, 8000)
    expected = {(n % 2, b"k-%d" % n, good(event_id=f"e-{n}", minutes_watched=1.5)) for n in range(8000)}
    assert {event[:3] for event in found} == expected


def rejected_now(service: Any, events: list[Event]) -> None:
    """Write the dead letters that a scorer would write for events."""
    producer = Producer({"bootstrap.servers": service.servers})
    raw = raw_batch(
        [event[2] for event in events],
        keys=[event[1] for event in events],
        headers=[event[3] for event in events],
        partitions=[event[0] for event in events],
    )
    decoded, undecodable = Decoder(engagement_event(), BundledSchemas()).decode(raw.values)
    rejections = Rejections.merged([undecodable, validate(decoded)[1]])
    for item in dead_letters(
        rejections,
        dataclasses.replace(raw, topic=service.topics["EVENTS"]),
        group="g",
        rejected_at_ms=1_790_000_000_000,
        max_bytes=1_000_000,
    ):
        producer.produce(service.topics["DEAD_LETTERS"], item.value, item.key, 0, headers=[*item.headers])
    assert producer.flush(20) == 0


def _set_max_message_bytes(service: Any, limit: int) -> None:
    change = ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(
        ConfigResource.Type.TOPIC, service.topics["EVENTS"], incremental_configs=[change]
    )
    admin = AdminClient({"bootstrap.servers": service.servers})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(10)
