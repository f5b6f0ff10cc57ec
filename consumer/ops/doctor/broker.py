"""Looks at Kafka: brokers, transactions, clock, topics, the group."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from consumer.errors import StartupError, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin, GroupLag
from consumer.kafka.trial import Trial, try_commit
from consumer.ops.doctor.check import OUTAGE, Check, fail, ok, warn
from consumer.ops.doctor.topics import judge_topics

if TYPE_CHECKING:
    from consumer.settings import Settings

_CLOCK_WARN_S: Final = 1.0
_CLOCK_FAIL_S: Final = 3600.0
"""Brokers refuse records that are further ahead of them than this (message.timestamp.after.max.ms)."""

_LOOK_AGAIN_S: Final = 1.5


def examine_broker(settings: Settings) -> Iterator[Check]:
    """Yield a check for everything there is to look at on the broker's side.

    Where no broker answers that is all that can be said.
    """
    try:
        admin = ClusterAdmin(client_config.common(settings.kafka))
        cluster_id, broker_ids = admin.cluster()
    except Unavailable as error:
        yield fail(
            "broker", f"{error}: topics and groups were not looked at", "check kafka.bootstrap_servers, "
            "kafka.client (TLS, SASL) and whether it runs", OUTAGE,
        )  # fmt: skip
        return
    except StartupError as error:
        yield fail("broker", str(error))
        return
    brokers = len(broker_ids)
    yield ok(
        "broker",
        f"cluster {cluster_id}, brokers up: {brokers}, librdkafka {client_config.LIBRDKAFKA_VERSION}",
    )
    for look in (_topics, _trial, _group, _open_transactions):
        try:
            yield from look(settings, admin, brokers)
        except Unavailable as error:
            yield fail(look.__name__.strip("_").replace("_", " "), str(error), "try again", OUTAGE)
        except StartupError as error:
            yield fail(look.__name__.strip("_").replace("_", " "), str(error))


def _topics(settings: Settings, admin: ClusterAdmin, brokers: int) -> Iterator[Check]:
    names = settings.topics
    yield from judge_topics(names, admin.topic_setups(names.model_dump().values()), brokers)


def _trial(settings: Settings, admin: ClusterAdmin, _brokers: int) -> Iterator[Check]:
    """Commit as a scorer would, under a name of our own."""
    exactly_once = settings.kafka.delivery == "exactly_once"
    what = "a transaction" if exactly_once else "a commit"
    if settings.topics.events not in admin.describe_topics([settings.topics.events]):
        return  # said already
    name = f"{settings.kafka.group_id}-doctor"
    config = client_config.transactional_producer if exactly_once else client_config.producer
    try:
        trial = try_commit(config(settings.kafka), settings.topics.events, name, exactly_once=exactly_once)
    except StartupError as error:
        grant = (
            f"grant the group{' and the transactional id' if exactly_once else ''} {name}, or what begins so"
        )
        yield fail("transactions", f"{what} is refused: {error}", grant)
        return
    except Unavailable as error:
        yield fail("transactions", f"{what} does not come to an end: {error}", "look at the brokers", OUTAGE)
        return
    yield ok("transactions", f"{what} was committed in {trial.took_s * 1000:.0f} ms")
    yield judge_clock(trial)


def judge_clock(trial: Trial) -> Check:
    """Say how far the clocks are apart."""
    ahead_s = trial.broker_ahead_s
    if ahead_s is None:
        return warn("clock", "the broker's clock cannot be read", "allow Describe on __consumer_offsets")
    told = f"the broker's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
    if ahead_s <= -_CLOCK_FAIL_S:
        return fail("clock", f"{told}: it refuses our records", "set the clocks (NTP)")
    if abs(ahead_s) >= _CLOCK_WARN_S:
        return warn("clock", f"{told}: ages and times in the log are wrong by that", "set the clocks (NTP)")
    return ok("clock", "the broker's clock and ours are less than a second apart")


def _group(settings: Settings, admin: ClusterAdmin, _brokers: int) -> Iterator[Check]:
    topic, group = settings.topics.events, settings.kafka.group_id
    if topic not in admin.describe_topics([topic]):
        return  # said already
    state, members = admin.describe_group(group)
    progress = admin.lag(group, topic)
    firsts = admin.first_offsets(topic, progress.end_offsets)
    yield from judge_group(group, topic, state, members, progress, firsts)


def judge_group(
    group: str, topic: str, state: str, members: int, progress: GroupLag, firsts: dict[int, int]
) -> Iterator[Check]:
    """Say where a group stands.

    Args:
        group: its name.
        topic: the events topic.
        state: Kafka's word for its state.
        members: how many it has.
        progress: what it has committed.
        firsts: first offset of each partition.
    """
    for partition, at in progress.next_offsets.items():
        first, end = firsts[partition], progress.end_offsets[partition]
        if at < first:
            yield fail(
                "group",
                f"{group} would go on at {at} of {topic}[{partition}], which begins at {first}: "
                f"{first - at} events expired before they were decided",
                "decide to go on without them, and reset the group's offset",
            )
        elif at > end:
            yield fail(
                "group",
                f"{group} would go on at {at} of {topic}[{partition}], which ends at {end}; was it"
                " created anew?",
                "reset the group's offset",
            )
    mood = state.lower().replace("_", " ")
    told = f"{group}: {mood}, {members} members, {progress.lag_events} events to decide"
    if members == 0 and progress.lag_events:
        yield warn("group", told, "nobody scores; start a scorer: purchase-stream score")
    elif state not in {"STABLE", "EMPTY", "DEAD"}:
        yield warn(
            "group", told, "look again in half a minute; a group that never settles has a member that hangs"
        )
    else:
        yield ok("group", told)


def _open_transactions(settings: Settings, admin: ClusterAdmin, _brokers: int) -> Iterator[Check]:
    """Notice records that committed readers cannot get at, as a transaction before them does not end."""
    names = [settings.topics.events, settings.topics.predictions, settings.topics.dead_letters]
    there = list(admin.describe_topics(names))

    def held_back() -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        for name in there:
            ranges = admin.committed_ranges(name)
            ends = admin.end_offsets(name, ranges)
            found |= {(name, part): stable for part, (_, stable) in ranges.items() if stable < ends[part]}
        return found

    before = held_back()
    if before:
        time.sleep(_LOOK_AGAIN_S)
        after = held_back()
        stuck = [
            f"{name}[{part}] at {at}" for (name, part), at in before.items() if after.get((name, part)) == at
        ]
        if stuck:
            yield warn(
                "transactions",
                f"readers wait for an open transaction in {', '.join(stuck)}",
                "if that stays for a minute, find its producer: kafka-transactions.sh find-hanging",
            )
