"""Check Kafka: brokers, topics, transactions, clock, group, and records behind open transactions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

from consumer.errors import StartupError, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, GroupLag, TopicSetup
from consumer.kafka.lag import LagReader
from consumer.kafka.schema_registry import writer_schemas
from consumer.kafka.starting_offsets import CommittedOffset
from consumer.kafka.trial import Trial, try_commit
from consumer.ops.acls import Grant, Operation, Resource, User, grants
from consumer.ops.doctor.check import OUTAGE, Check, fail, guarded, ok, warn
from consumer.scorer.resume import OffsetMarker, start_resolver
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

_PROTOCOL_NAMES: Final[Mapping[Operation, str]] = {
    "Create": "CREATE",
    "Delete": "DELETE",
    "Describe": "DESCRIBE",
    "DescribeConfigs": "DESCRIBE_CONFIGS",
    "Read": "READ",
    "Write": "WRITE",
}
"""The operations in the words of Kafka's protocol."""


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
    yield from guarded("topics", _check_topics(settings.topics, admin, n_brokers))
    examinations: dict[str, Callable[[Settings, ClusterAdmin], Iterator[Check]]] = {
        # First, because on a new cluster it creates the topics that the coordinators need.
        "transactions": _check_commit,
        "rights": _check_rights,
        "group": _check_group,
        "start": _check_start,
        "open transactions": _check_open_transactions,
    }
    for name, examination in examinations.items():
        yield from guarded(name, examination(settings, admin))


# Topics


def _check_topics(names: TopicSettings, admin: ClusterAdmin, n_brokers: int) -> Iterator[Check]:
    found: dict[str, TopicSetup] = {}
    unknown: set[str] = set()
    for name in names.model_dump().values():
        try:
            found |= admin.topic_setups([name])
        except StartupError as error:
            yield fail("topics", str(error))
            unknown.add(name)
    yield from judge_topics(names, found, n_brokers, unknown)


def judge_topics(
    names: TopicSettings,
    found: Mapping[str, TopicSetup],
    n_brokers: int,
    unknown: Collection[str] = (),
) -> Iterator[Check]:
    """Judge each topic, and then the topics together.

    Args:
        names: The topics' names.
        found: The existing topics.
        n_brokers: The number of brokers that are up.
        unknown: The topics that could not be described.
    """
    required = (names.events, names.predictions, names.dead_letters)
    for role, name in names.model_dump().items():
        setup = found.get(name)
        if name in unknown:
            continue
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


# Rights


def _check_rights(settings: Settings, admin: ClusterAdmin) -> Iterator[Check]:
    """Compare what the brokers let this user do with the topics and the group with what each role does.

    The rights on transactional ids cannot be asked for; the trial transaction shows them.
    """
    allowed: dict[tuple[Resource, str], frozenset[str]] = {}
    for name in settings.topics.model_dump().values():
        with contextlib.suppress(StartupError):  # reported with the topics
            allowed |= {
                ("topic", name): topic.operations for name, topic in admin.describe_topics([name]).items()
            }
    group = settings.kafka.group_id
    with contextlib.suppress(StartupError, Unavailable):  # reported with the group
        allowed["group", group] = admin.describe_group(group).operations
    for role in (User.SCORE, User.MONITOR, User.SERVE):
        yield judge_rights(role, grants(settings, role), allowed)


def judge_rights(
    role: User, needed: Iterable[Grant], allowed: Mapping[tuple[Resource, str], Collection[str]]
) -> Check:
    """Judge whether the user of these settings may run a role.

    Args:
        role: The role.
        needed: Its rights.
        allowed: The operations that are allowed on each topic and group, in the words of Kafka's protocol. A
            resource without any is unknown.
    """
    missing = [
        f"{grant.operation} on {grant.resource} {grant.name}"
        for grant in needed
        if (operations := allowed.get((grant.resource, grant.name)))
        and _PROTOCOL_NAMES[grant.operation] not in operations
    ]
    if missing:
        what = f"the user of these settings cannot run {role.value}: it lacks {', '.join(missing)}"
        return warn("rights", what, f"if it is to, see: purchase-stream acls --role {role.value}")
    return ok("rights", f"{role.value}: no right is missing, as far as the broker reports")


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
        if trial.not_deleted is not None:
            advice = "allow Delete on it, or let it expire"
            yield warn("transactions", f"the group {name} is left: {trial.not_deleted}", advice)
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
    state, members, _ = admin.describe_group(group)
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


# Where a scorer resumes


def _check_start(settings: Settings, admin: ClusterAdmin) -> Iterator[Check]:
    """Find out where a scorer would start, as it does; it reads outputs only if offsets are missing."""
    kafka, topic = settings.kafka, settings.topics.events
    description = admin.describe_topics([topic]).get(topic)
    if description is None:
        return  # reported with the topics
    marker = OffsetMarker(description.topic_id, description.partitions)
    partitions = range(description.partitions)
    found = admin.committed_offsets(kafka.group_id, topic, partitions)
    committed = {
        p: CommittedOffset(found[p][0], found[p][1] or "") if p in found else None for p in partitions
    }
    config = client_config.common(kafka)
    resolve = start_resolver(settings, config, marker, writer_schemas(settings), lambda: None, None)
    starts, first = resolve(committed), admin.first_offsets(topic, partitions)
    resumed = {p: start for p, start in starts.items() if p not in found and start > first[p]}
    if resumed:
        where = ", ".join(f"{topic}[{partition}] at {start}" for partition, start in resumed.items())
        what = (
            f"{kafka.group_id} has no offset for these partitions: a scorer resumes behind the last outputs"
        )
        yield warn("start", f"{what}, {where}", "nothing to do, if this is the group that made them")


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
