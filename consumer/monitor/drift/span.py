"""A span of the audit log or the topic, counted and judged as the monitor counts and judges its windows.

The span is one window, however long: every student counts once, with the first prediction in it.

The predictions topic as lines of the audit log, for whoever has no log or only a part of it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson

from consumer import timestamps
from consumer.errors import BadInputError
from consumer.kafka.admin import TopicProbe
from consumer.kafka.client_config import common
from consumer.kafka.reader import committed_ranges, committed_records
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.drift.baselines import Baselines, ModelBaseline
from consumer.monitor.drift.verdict import WindowVerdict, judge
from consumer.monitor.drift.window import SCORE, Window, WindowCounts, sample_of
from consumer.pipeline.decode import Decoder
from consumer.pipeline.framing import WriterSchemas
from consumer.settings import DriftSettings, Settings
from model_store.errors import ModelStoreError
from model_store.inputs import INPUT_NAMES
from schemas.repository import purchase_prediction

_COUNTRY: Final = INPUT_NAMES[0]
_HASH_BYTES: Final = 8

Line = dict[str, Any]


@dataclass(slots=True)
class VersionSpan:
    """What one model version predicted in the span.

    Attributes:
        version: its id.
        predictions: how many.
        first_s: when the first was made, seconds since the epoch.
        last_s: when the last was made.
        verdict: against that version's training; ``None`` without a baseline.
        model: the version; ``None`` without a baseline.
        problem: why there is no baseline; empty if there is one.
    """

    version: str
    predictions: int = 0
    first_s: float = float("inf")
    last_s: float = float("-inf")
    verdict: WindowVerdict | None = None
    model: ModelBaseline | None = field(default=None, repr=False)
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span that was read.

    Attributes:
        since: where it begins, or ``None`` for the beginning.
        until: where it ends (exclusive), or ``None`` for the end.
        source: what was read, in words.
        versions: what each model version predicted, the one with the most predictions first.
    """

    since: datetime | None
    until: datetime | None
    source: str
    versions: Sequence[VersionSpan]

    @property
    def predictions(self) -> int:
        """How many predictions are in it."""
        return sum(version.predictions for version in self.versions)


def read_span(
    chunks: Iterable[tuple[str, int, list[bytes]]],
    source: str,
    since: datetime | None,
    until: datetime | None,
    baselines: Baselines,
    countries: Callable[[str], int],
    settings: DriftSettings,
) -> Span:
    """Read a span and judge it.

    Args:
        chunks: lines of the audit log in batches: a name, the number of the first line, and the lines.
        source: what they are read from, in words.
        since: predictions made at or after this time, which has a time zone.
        until: predictions made before this time.
        baselines: what each version saw in training.
        countries: from a country's text to its number.
        settings: what is tolerated.

    Raises:
        BadInputError: a line is no line of the audit log.
    """
    counters: dict[str, _Counter] = {}
    for by_version in _batches(chunks, since, until):
        for version, lines in by_version.items():
            if version not in counters:
                counters[version] = _Counter(version, baselines, countries)
            counters[version].add(lines)
    found = [counter.result(settings) for counter in counters.values()]
    found.sort(key=lambda version: -version.predictions)
    return Span(since=since, until=until, source=source, versions=found)


class _Counter:
    """Counts the predictions of one version."""

    def __init__(self, version: str, baselines: Baselines, countries: Callable[[str], int]) -> None:
        self._span = VersionSpan(version)
        self._countries = countries
        self._window: Window | None = None
        try:
            model = self._span.model = baselines.of(version)
        except ModelStoreError as error:
            self._span.problem = str(error)
        else:
            self._window = Window(WindowCounts.empty(1, model.baseline), sys.maxsize, float("inf"))

    def add(self, lines: list[tuple[float, Line]]) -> None:
        """Take in lines and their times, seconds since the epoch."""
        times_s = [time_s for time_s, _ in lines]
        self._span.predictions += len(lines)
        self._span.first_s = min(self._span.first_s, *times_s)
        self._span.last_s = max(self._span.last_s, *times_s)
        if self._window is None or self._span.model is None:
            return
        records = [line for _, line in lines]
        columns = {
            name: np.array([line["features"][name] for line in records], np.float64)
            for name in INPUT_NAMES[1:]
        }
        columns[_COUNTRY] = np.array([self._countries(line["features"][_COUNTRY]) for line in records], float)
        columns[SCORE] = np.array([line["predicted_purchase_probability"] for line in records], np.float64)
        sample = sample_of(
            columns,
            np.array([line["predicted_purchase"] != 0 for line in records], np.int64),
            np.array([_student_hash(line["student_id"]) for line in records], np.uint64),
            np.array([int(time_s * 1000) for time_s in times_s], np.int64),
            self._span.model.baseline,
        )
        self._window.add(sample, 0)

    def result(self, settings: DriftSettings) -> VersionSpan:
        """Return the span with its verdict."""
        if self._window is not None and self._span.model is not None:
            baseline = self._span.model.baseline
            self._span.verdict = judge(self._window.counts, baseline, settings, closed=True)
        return self._span


def _batches(
    chunks: Iterable[tuple[str, int, list[bytes]]], since: datetime | None, until: datetime | None
) -> Iterator[dict[str, list[tuple[float, Line]]]]:
    """Yield the lines of the span in batches, by model version."""
    begin_s = since.timestamp() if since else float("-inf")
    end_s = until.timestamp() if until else float("inf")
    for name, first, texts in chunks:
        by_version: dict[str, list[tuple[float, Line]]] = {}
        for n, text in enumerate(texts, first):
            try:
                line = orjson.loads(text)
                time_s = _time_s(line["timestamp_utc"])
                if begin_s <= time_s < end_s:
                    by_version.setdefault(line["model_version"], []).append((time_s, line))
            except (ValueError, KeyError, TypeError) as error:
                raise BadInputError(f"{name}, line {n}: no line of the audit log; see audit.path") from error
        yield by_version


def _time_s(timestamp: str | int) -> float:
    """Return seconds since the epoch; a time beyond all calendars is a number of milliseconds."""
    if isinstance(timestamp, int):
        return timestamp / 1000
    return timestamps.parse(timestamp).timestamp()


def _student_hash(student_id: str) -> int:
    digest = hashlib.blake2b(student_id.encode(), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "little")


_CLOCKS_APART_MS: Final = 60_000
"""A record is made after its prediction; by clocks that may differ by so much."""


def topic_lines(
    settings: Settings, writers: WriterSchemas, since: datetime | None
) -> Iterator[tuple[str, int, list[bytes]]]:
    """Yield, in batches, the line that each committed prediction has, or would have, in the audit log.

    Args:
        settings: the broker and the topics.
        writers: where the schemas of predictions come from.
        since: predictions made before this time need not be among them.

    Returns:
        The topic, the number of the batch's first line (from 1), and the lines. A record that is no
        prediction has none.

    Raises:
        StartupError: there is no such topic.
        Unavailable: the broker does not answer.
    """
    topic, client_config = settings.topics.predictions, common(settings.kafka)
    ranges = committed_ranges(client_config, topic)
    if since is not None:
        begin_ms = int(since.timestamp() * 1000) - _CLOCKS_APART_MS
        begins = TopicProbe(client_config, topic).offsets_since(sorted(ranges), max(begin_ms, 0))
        ranges = {
            partition: (max(first, begins.get(partition, end)), end)
            for partition, (first, end) in ranges.items()
        }
    decoder, number = Decoder(purchase_prediction(), writers), 1
    for messages in committed_records(client_config, topic, ranges):
        predictions, _ = decoder.decode([message.value() for message in messages])
        lines = audit_lines(
            predictions,
            source_topic=settings.topics.events,
            output_topic=topic,
            partitions=np.array([message.partition() for message in messages], np.int64),
            offsets=np.array([message.offset() for message in messages], np.int64),
        ).splitlines()
        yield topic, number, lines
        number += len(lines)
