"""Check Kafka: brokers, topics, transactions, clock, group, and records behind open transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from consumer.errors import StartupError, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, GroupLag, TopicSetup
from consumer.kafka.lag import LagReader
from consumer.kafka.trial import Trial, try_commit
from consumer.ops.doctor.check import OUTAGE, Check, fail, guarded, ok, warn
from consumer.settings import Settings, TopicSettings

_CLOCK_WARN_S: Final = 1.0
_CLOCK_FAIL_S: Final = 3600.0
"""Brokers refuse a record whose timestamp is more than this ahead (message.timestamp.after.max.ms)."""

_RECHECK_AFTER_S: Final = 1.5
_DAY_MS: Final = 24 * 3_600_000
_CREATE: Final = "create it with: purchase-stream topics create"
_WITHOUT: Final = {
    "outcomes": "live precision and recall stay unknown",
    "control": "nobody learns that retraining is recommended",
}
"""The consequence if an optional topic is missing."""

_PREDICTION_MAX_BYTES: Final = 4096


def examine_broker(settings: Settings) -> Iterator[Check]:
    """Yield every check of Kafka. If no broker answers, yield only that."""
    try:
        admin = ClusterAdmin(client_config.common(settings.kafka))
        cluster_id, broker_ids = admin.cluster()
    except Unavailable as error:
        advice = "check kafka.bootstrap_servers, kafka.client (TLS, SASL) and whether it runs"
        yield fail("broker", f"{error}: topics and groups were not checked", advice, OUTAGE)
        return
    n_brokers, version = len(broker_ids), client_config.LIBRDKAFKA_VERSION
    yield ok("broker", f"cluster {cluster_id}, brokers up: {n_brokers}, librdkafka {version}")
    topics = settings.topics
    yield from guarded("topics", _check_topics(topics, admin, n_brokers))
    examinations: dict[str, Callable[[Settings, ClusterAdmin], Iterator[Check]]] = {
        "transactions": _check_commit,
        "group": _check_group,
        "open transactions": _check_open_transactions,
    }
    for name, examination in examinations.items():
        yield from guarded(name, examination(settings, admin))


# Topics


def _check_topics(names: TopicSettings, admin: ClusterAdmin, n_brokers: int) -> Iterator[Check]:
    yield from judge_topics(names, admin.topic_setups(names.model_dump().values()), n_brokers)


def judge_topics(names: TopicSettings, found: Mapping[str, TopicSetup], n_brokers: int) -> Iterator[Check]:
    """Judge each topic, and then the topics together.

    Args:
        names: The topics' names.
        found: The existing topics.
        n_brokers: The number of brokers that are up.
    """
    required = (names.events, names.predictions, names.dead_letters)
    for role, name in names.model_dump().items():
        setup = found.get(name)
        if setup is not None:
            problems = list(_topic_problems(name, setup, n_brokers, keeps_all=name in required))
            yield from problems or [ok("topics", _describe_topic(name, setup))]
        elif name in required:
            yield fail("topics", f"no topic {name}, where {role.replace('_', ' ')} go", _CREATE)
        else:
            yield warn("topics", f"no topic {name}: {_WITHOUT[role]}", _CREATE)
    events, dead_letters = found.get(names.events), found.get(names.dead_letters)
    if events is not None and dead_letters is not None:
        yield from _dead_letter_problems(names, events, dead_letters)
    predictions = found.get(names.predictions)
    if predictions is not None and predictions.max_message_bytes < _PREDICTION_MAX_BYTES:
        what = f"{names.predictions}: takes {predictions.max_message_bytes} bytes, less than predictions need"
        yield fail("topics", what, "raise its max.message.bytes")


def _describe_topic(name: str, setup: TopicSetup) -> str:
    kept = "forever" if setup.retention_ms < 0 else f"{setup.retention_ms / _DAY_MS:g} days"
    if "delete" not in setup.cleanup_policy:
        kept = "compacted"
    return f"{name}: {setup.partitions} partitions, {setup.replicas} replicas, kept {kept}"


def _topic_problems(name: str, setup: TopicSetup, n_brokers: int, *, keeps_all: bool) -> Iterator[Check]:
    if setup.without_leader:
        what = f"{name}: {setup.without_leader} of {setup.partitions} partitions have no leader"
        yield fail("topics", what, "bring their brokers back", OUTAGE)
    if setup.min_insync_replicas > setup.replicas:
        what = (
            f"{name}: min.insync.replicas is {setup.min_insync_replicas}, above its {setup.replicas} replicas"
        )
        # KIP-966: since Kafka 4.0 the effective value is at most the number of replicas.
        advice = "lower it or add replicas: Kafka before 4.0 refuses all writes; since then it is capped"
        yield warn("topics", what, advice)
    if setup.under_replicated:
        what = f"{name}: {setup.under_replicated} of {setup.partitions} partitions miss a replica"
        yield warn("topics", what, "bring their brokers back")
    if keeps_all and "compact" in setup.cleanup_policy:
        what = f"{name}: cleanup.policy {setup.cleanup_policy} keeps only the last record of each key"
        yield fail("topics", what, "set it to delete")
    if keeps_all and 0 <= setup.retention_ms < _DAY_MS and "delete" in setup.cleanup_policy:
        hours = setup.retention_ms / 3_600_000
        advice = "an outage of one night loses some; raise its retention.ms"
        yield warn("topics", f"{name}: records are kept for {hours:g} hours", advice)
    if setup.replicas == 1 and n_brokers > 1:
        what = f"{name}: one replica on {n_brokers} brokers"
        yield warn("topics", what, "losing one broker loses it; add replicas")


def _dead_letter_problems(
    names: TopicSettings, events: TopicSetup, dead_letters: TopicSetup
) -> Iterator[Check]:
    """Yield the problems of the dead-letter topic compared with the events topic."""
    if dead_letters.max_message_bytes < events.max_message_bytes:
        what = (
            f"{names.dead_letters}: takes {dead_letters.max_message_bytes} bytes, {names.events}"
            f" {events.max_message_bytes}: dead letters of large events are truncated"
        )
        yield warn("topics", what, "raise its max.message.bytes to 1.5 times that of the events")
    kept_ms = events.retention_ms if events.retention_ms >= 0 else 2**63
    if 0 <= dead_letters.retention_ms < kept_ms:
        what = f"{names.dead_letters}: keeps its records for less long than {names.events}"
        yield warn("topics", what, "raise its retention.ms, so that there is time to replay them")


# Transactions and clock


def _check_commit(settings: Settings, admin: ClusterAdmin) -> Iterator[Check]:
    """Commit as a scorer would, under the doctor's own group and transactional id."""
    topic = settings.topics.events
    if topic not in admin.describe_topics([topic]):
        return  # reported with the topics
    exactly_once = settings.kafka.delivery == "exactly_once"
    what, ids = ("a transaction", "group and transactional id") if exactly_once else ("a commit", "group")
    name = f"{settings.kafka.group_id}-doctor"
    config = client_config.transactional_producer if exactly_once else client_config.producer
    try:
        trial = try_commit(config(settings.kafka), topic, name, exactly_once=exactly_once)
    except StartupError as error:
        advice = f"allow the {ids} {name}; see: purchase-stream acls"
        yield fail("transactions", f"{what} is refused: {error}", advice)
    except Unavailable as error:
        yield fail("transactions", f"{what} does not complete: {error}", "check the brokers", OUTAGE)
    else:
        yield ok("transactions", f"{what} was committed in {trial.took_s * 1000:.0f} ms")
        yield judge_clock(trial)


def judge_clock(trial: Trial) -> Check:
    """Judge the difference between the broker's clock and this machine's."""
    ahead_s = trial.broker_ahead_s
    if ahead_s is None:
        return warn("clock", "the broker's clock cannot be read", "allow Describe on __consumer_offsets")
    direction = "ahead of" if ahead_s > 0 else "behind"
    difference = f"the broker's clock is {abs(ahead_s):.1f} s {direction} this machine's"
    if ahead_s <= -_CLOCK_FAIL_S:
        return fail("clock", f"{difference}: it refuses our records", "set the clocks (NTP)")
    if abs(ahead_s) >= _CLOCK_WARN_S:
        return warn(
            "clock", f"{difference}: ages and times in the log are off by that", "set the clocks (NTP)"
        )
    return ok("clock", "the broker's clock and this machine's differ by less than a second")


# The group


def _check_group(settings: Settings, admin: ClusterAdmin) -> Iterator[Check]:
    topic, group = settings.topics.events, settings.kafka.group_id
    if topic not in admin.describe_topics([topic]):
        return  # reported with the topics
    state, members = admin.describe_group(group)
    lag = LagReader(client_config.common(settings.kafka), group, topic, admin).read()
    starts = admin.first_offsets(topic, lag.end_offsets)
    has_committed = bool(admin.committed_offsets(group, topic, lag.end_offsets))
    yield from judge_group(group, topic, state, len(members), lag, starts, has_committed=has_committed)


def judge_group(
    group: str,
    topic: str,
    state: str,
    members: int,
    lag: GroupLag,
    starts: Mapping[int, int],
    *,
    has_committed: bool = True,
) -> Iterator[Check]:
    """Judge a group's position and state.

    Args:
        group: The group's name.
        topic: The events topic.
        state: The group's state, as Kafka names it.
        members: The number of members.
        lag: The group's progress.
        starts: The first offset of each partition.
        has_committed: Whether the group has committed an offset.
    """
    for partition, next_offset in lag.next_offsets.items():
        start, stop = starts[partition], lag.end_offsets[partition]
        where = f"{group} would resume at {next_offset} of {topic}[{partition}]"
        if next_offset < start:
            lost = f"{start - next_offset} events expired before they were decided"
            advice = "decide to resume without them, and reset the group's offset"
            yield fail("group", f"{where}, which starts at {start}: {lost}", advice)
        elif next_offset > stop:
            what = f"{where}, which ends at {stop}; was the topic created again?"
            yield fail("group", what, "reset the group's offset")
    described = state.lower().replace("_", " ")
    what = f"{group}: {described}, {members} members, {lag.lag_events} events to decide"
    if not has_committed and members == 0:
        yield ok("group", f"{group} is new: it has committed nothing; {lag.lag_events} events to decide")
    elif members == 0 and lag.lag_events:
        yield warn("group", what, "no scorer runs; start one: purchase-stream score")
    elif state not in {"STABLE", "EMPTY", "DEAD"}:
        advice = "check again in half a minute; if the group never settles, one of its members hangs"
        yield warn("group", what, advice)
    else:
        yield ok("group", what)


# Open transactions


def _check_open_transactions(settings: Settings, admin: ClusterAdmin) -> Iterator[Check]:
    """Find records that read_committed readers cannot see because an earlier transaction stays open."""
    names = [settings.topics.events, settings.topics.predictions, settings.topics.dead_letters]
    topics = list(admin.describe_topics(names))
    before = _first_hidden_offsets(admin, topics)
    if not before:
        return
    time.sleep(_RECHECK_AFTER_S)
    after = _first_hidden_offsets(admin, topics)
    stuck = [
        f"{topic}[{part}] at {at}" for (topic, part), at in before.items() if after.get((topic, part)) == at
    ]
    if stuck:
        yield warn(
            "transactions",
            f"readers wait for an open transaction in {', '.join(stuck)}",
            "if this lasts a minute, find its producer: kafka-transactions.sh find-hanging",
        )


def _first_hidden_offsets(admin: ClusterAdmin, topics: list[str]) -> dict[tuple[str, int], int]:
    """Return the last stable offset of each partition that has records after it."""
    found: dict[tuple[str, int], int] = {}
    for topic in topics:
        ranges = admin.committed_ranges(topic)
        ends = admin.end_offsets(topic, ranges)
        found |= {(topic, part): stop for part, (_, stop) in ranges.items() if stop < ends[part]}
    return found
