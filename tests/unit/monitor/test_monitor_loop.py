"""The monitor's loop with a topic in memory and a real audit log."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from consumer.errors import Condition, Unavailable
from consumer.kafka.reader import PolledRecords
from consumer.monitor import loop
from consumer.monitor.audit.log import AuditLog
from consumer.monitor.loop import BatchStats, CommittedBatch, Monitor
from consumer.pipeline.decode import Decoder
from consumer.runtime.readiness import Readiness
from consumer.settings import TopicSettings
from model_store import files
from schemas.avro import AvroSchema
from schemas.repository import CONFLUENT_MARKER, SINGLE_OBJECT_HEADER_BYTES, RegistryId, purchase_prediction
from tests.support.events import prediction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Topic:
    """Stands in for the topic: one partition of predictions, two records per poll."""

    def __init__(self, values: list[bytes]) -> None:
        self.values = values
        self.at = 0
        self.closed = False

    def poll(self, max_records: int, max_wait_s: float) -> PolledRecords | None:  # noqa: ARG002 - the port's
        """Return the next two records."""
        values = self.values[self.at : self.at + 2]
        if not values:
            return None
        offsets = list(range(self.at, self.at + len(values)))
        self.at += len(values)
        return PolledRecords(np.zeros(len(values), np.int64), np.array(offsets), values, {0: self.at})

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class Registry:
    """A schema registry that can be down; every id is the prediction schema."""

    reads_confluent = True
    is_up = True

    def by_fingerprint(self, fingerprint: bytes) -> AvroSchema | None:
        """Know none."""

    def by_id(self, schema_id: RegistryId) -> AvroSchema | None:  # noqa: ARG002 - the port's
        """Know one schema, if up."""
        if not self.is_up:
            raise Unavailable("the registry is down", Condition.SCHEMA_REGISTRY)
        return purchase_prediction()


class LogLengths:
    """A view that notes the length of the log with every batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[tuple[int, int]] = []

    def observe(self, batch: CommittedBatch) -> None:
        """Note the first offset of the batch and the number of lines in the log."""
        self.seen.append((batch.records.offsets[0], self.path.read_bytes().count(b"\n")))


class Bench:
    """A monitor with its surroundings in memory."""

    def __init__(
        self, path: Path, values: list[bytes], on_batch: Callable[[BatchStats], None] | None = None
    ) -> None:
        self.path = path
        self.topic = Topic(values)
        self.registry = Registry()
        self.readiness = Readiness(lambda: 12.0)
        self.view = LogLengths(path)
        self.batches: list[BatchStats] = []
        self.pauses_s: list[float] = []
        self.monitor = Monitor(
            tail=self.topic,  # type: ignore[arg-type]  # what the monitor uses of it
            audit_log=AuditLog.open(path, rotate_bytes=1 << 20, source={}),
            decoder=Decoder(purchase_prediction(), self.registry),
            topics=TopicSettings(events="events", predictions="predictions"),
            readiness=self.readiness,
            views=[self.view],
            on_batch=on_batch or self.batches.append,
            sleep=self.pauses_s.append,
        )

    def event_ids(self) -> list[Any]:
        """Return the event ids in the log."""
        return [orjson.loads(line)["event_id"] for line in self.path.read_bytes().splitlines()]


@pytest.fixture(params=[False, True], ids=["keeping up", "behind"])
def behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether polls are full, so that a batch is written while the next one is read."""
    if request.param:
        monkeypatch.setattr(loop, "MAX_RECORDS", 2)
    return bool(request.param)


@pytest.mark.usefixtures("behind")
def test_each_batch_is_logged_shown_and_counted(tmp_path: Path) -> None:
    """A view gets a batch once it is in the log; the stats count records, lines and undecodable records."""
    bench = Bench(tmp_path / "log.jsonl", [prediction(event_id="a"), b"foreign", prediction(event_id="b")])
    for _ in range(3):
        bench.monitor.run_once()
    assert bench.event_ids() == ["a", "b"]
    assert [at for at, _ in bench.view.seen] == [0, 2]
    assert bench.view.seen[0][1] >= 1, "the next batch may be in the log already, this one must be"
    assert bench.view.seen[1][1] == 2
    size = bench.path.stat().st_size
    assert bench.batches == [BatchStats(2, 1, 1, size // 2), BatchStats(1, 1, 0, size // 2)]


def test_foreign_bytes_are_named_by_their_coordinates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records that have no line are logged with partition, offset and reason."""
    bench = Bench(tmp_path / "log.jsonl", [prediction(event_id="a"), b"foreign"])
    for _ in range(2):
        bench.monitor.run_once()
    told = capsys.readouterr().out
    assert "(0, 1)" in told
    assert "unknown_framing" in told


def test_a_prediction_is_in_the_log_and_shown_when_its_round_ends(tmp_path: Path) -> None:
    """Without a backlog nothing waits for the next poll."""
    bench = Bench(tmp_path / "log.jsonl", [prediction(event_id="a")])
    bench.monitor.run_once()
    assert bench.view.seen == [(0, 1)]


def test_a_failing_disk_holds_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, behind: bool
) -> None:
    """While the disk refuses, the monitor is not ready, reads at most one batch ahead and loses nothing."""
    bench = Bench(tmp_path / "log.jsonl", [prediction(event_id=event_id) for event_id in "abcdef"])

    class FullDisk:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, _descriptor: int, _data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "os", FullDisk())
        for _ in range(4):
            bench.monitor.run_once()
        assert "No space left on device" in bench.readiness.active()[Condition.AUDIT_LOG].reason
    assert (bench.topic.at, bench.view.seen, bench.batches, len(bench.pauses_s)) == (
        4,
        [],
        [],
        3 if behind else 4,
    )
    while len(bench.batches) < 3:
        bench.monitor.run_once()
    assert not bench.readiness.active()
    assert bench.event_ids() == list("abcdef")
    assert [at for at, _ in bench.view.seen] == [0, 2, 4]


def test_a_registry_outage_holds_the_batch(tmp_path: Path) -> None:
    """While a schema cannot be fetched, no record counts as undecodable."""
    confluent = CONFLUENT_MARKER + (7).to_bytes(4, "big")
    bench = Bench(tmp_path / "log.jsonl", [confluent + prediction(event_id="a")[SINGLE_OBJECT_HEADER_BYTES:]])
    bench.registry.is_up = False
    bench.monitor.run_once()
    assert Condition.SCHEMA_REGISTRY in bench.readiness.active()
    bench.registry.is_up = True
    for _ in range(2):
        bench.monitor.run_once()
    assert not bench.readiness.active()
    assert bench.event_ids() == ["a"]


def test_stop_ends_the_run_and_releases_everything(tmp_path: Path, *, behind: bool) -> None:
    """After stop, run returns once everything read is logged and shown; topic and log are closed."""

    def stop(stats: BatchStats) -> None:
        bench.batches.append(stats)
        bench.monitor.stop()

    bench = Bench(tmp_path / "log.jsonl", [prediction(event_id=event_id) for event_id in "abc"], stop)
    bench.monitor.run()
    assert bench.topic.closed
    assert bench.event_ids() == (["a", "b", "c"] if behind else ["a", "b"])
    assert [stats.lines for stats in bench.batches] == ([2, 1] if behind else [2])
    AuditLog.open(bench.path, rotate_bytes=1, source={}).close()
