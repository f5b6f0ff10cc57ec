"""Judges how the topics are set up. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from consumer.kafka.admin import TopicSetup
from consumer.ops.doctor.check import OUTAGE, Check, fail, ok, warn
from consumer.settings import TopicSettings

NAME: Final = "topics"
_DAY_MS: Final = 24 * 3_600_000
_CREATE: Final = "create it with: purchase-stream topics create"


def judge_topics(names: TopicSettings, found: Mapping[str, TopicSetup], brokers: int) -> Iterator[Check]:
    """Yield what there is to say of the topics, first of each, then of all together.

    Args:
        names: what they are called.
        found: those that exist.
        brokers: how many are up.
    """
    needed = (names.events, names.predictions, names.dead_letters)
    for role, name in names.model_dump().items():
        setup = found.get(name)
        if setup is not None:
            yield from _judge(name, setup, brokers, keeps_all=name in needed)
        elif name in needed:
            yield fail(NAME, f"no topic {name}, where {role.replace('_', ' ')} go", _CREATE)
        else:
            yield warn(NAME, f"no topic {name}: {_without(role)}", _CREATE)
    yield from _together(names, found)


def _without(role: str) -> str:
    if role == "outcomes":
        return "live precision and recall stay unknown"
    return "nobody hears that retraining is recommended"


def _judge(name: str, setup: TopicSetup, brokers: int, *, keeps_all: bool) -> Iterator[Check]:
    """Yield what there is to say of one topic."""
    trouble = list(_troubles(name, setup, brokers, keeps_all=keeps_all))
    if trouble:
        yield from trouble
        return
    kept = "for ever" if setup.retention_ms < 0 else f"{setup.retention_ms / _DAY_MS:g} days"
    if "delete" not in setup.cleanup_policy:
        kept = "compacted"
    yield ok(NAME, f"{name}: {setup.partitions} partitions, {setup.replicas} replicas, kept {kept}")


def _troubles(name: str, setup: TopicSetup, brokers: int, *, keeps_all: bool) -> Iterator[Check]:
    if setup.without_leader:
        what = f"{name}: {setup.without_leader} of {setup.partitions} partitions have no leader"
        yield fail(NAME, what, "bring their brokers back", OUTAGE)
    if setup.min_insync_replicas > setup.replicas:
        wants, has = setup.min_insync_replicas, setup.replicas
        what = f"{name}: min.insync.replicas is {wants}, and it has {has} replicas"
        yield fail(NAME, what, "nothing can be written; lower it or add replicas")
    elif setup.under_replicated:
        what = f"{name}: {setup.under_replicated} of {setup.partitions} partitions miss a replica"
        yield warn(NAME, what, "bring their brokers back")
    if keeps_all and "compact" in setup.cleanup_policy:
        what = (
            f"{name}: cleanup.policy is {setup.cleanup_policy}, which drops all but the last record of a key"
        )
        yield fail(NAME, what, "set it to delete")
    if keeps_all and 0 <= setup.retention_ms < _DAY_MS and "delete" in setup.cleanup_policy:
        hours = setup.retention_ms / 3_600_000
        yield warn(NAME, f"{name}: records are kept for {hours:g} hours", "an outage of a night loses some")
    if setup.replicas == 1 and brokers > 1:
        yield warn(
            NAME, f"{name}: one replica on {brokers} brokers", "one broker's loss loses it; add replicas"
        )


def _together(names: TopicSettings, found: Mapping[str, TopicSetup]) -> Iterator[Check]:
    """Yield what there is to say of two topics, each beside the other."""
    events, letters = found.get(names.events), found.get(names.dead_letters)
    predictions = found.get(names.predictions)
    if events is None or letters is None:
        return
    if letters.max_message_bytes < events.max_message_bytes:
        yield warn(
            NAME,
            f"{names.dead_letters}: takes {letters.max_message_bytes} bytes, and {names.events}"
            f" {events.max_message_bytes}: dead letters of large events are truncated",
            "raise its max.message.bytes to half as much again as that of the events",
        )
    if 0 <= letters.retention_ms < (events.retention_ms if events.retention_ms >= 0 else 2**63):
        yield warn(
            NAME,
            f"{names.dead_letters}: keeps its records for less long than {names.events}",
            "raise its retention.ms, so that there is time to replay them",
        )
    if predictions is not None and predictions.max_message_bytes < min(events.max_message_bytes, 4096):
        yield fail(
            NAME,
            f"{names.predictions}: takes {predictions.max_message_bytes} bytes, less than predictions have",
            "raise its max.message.bytes",
        )
