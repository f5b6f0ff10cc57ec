"""``dlq …``."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from consumer.cli.context import Context, Json
from consumer.cli.formatting import parse_partition_offset, parse_time, shortened
from consumer.errors import BadInputError, UsageError
from consumer.kafka import client_config
from consumer.kafka.admin import Ranges
from consumer.kafka.schema_registry import writer_schemas
from consumer.ops.dlq.dead_letter import (
    CODES,
    DeadLetterRecord,
    NotReplayable,
    collect_signatures,
    original_event,
)
from consumer.ops.dlq.plan import RejectionPreview, Replayed, ReplayItem, accept_all
from consumer.ops.dlq.repair import Repair
from consumer.ops.dlq.replay import NewestEvents, Replay
from consumer.ops.dlq.topic import list_dead_letters, ranges_since, read_dead_letter, read_dead_letters
from consumer.printable import hex_lines, printable
from consumer.settings import Settings

dlq = typer.Typer(
    help="Inspect dead letters, and replay their events.",
    epilog="Example: purchase-stream dlq list --since 24h",
    no_args_is_help=True,
)

_REASON_CHARACTERS: Final = 110
_MAX_REASONS: Final = 10

Codes = Annotated[
    list[str] | None,
    typer.Option("--code", help="Only dead letters with this code. Repeatable.", metavar="CODE"),
]
Since = Annotated[
    str | None,
    typer.Option(
        help="Only dead letters since then: a time such as 2026-01-31T12:00Z, or an age: 24h, 7d, 30m.",
        metavar="T",
    ),
]
Partition = Annotated[
    int | None, typer.Option(help="Only this partition of the dead-letter topic.", min=0, metavar="N")
]
Position = Annotated[
    str | None,
    typer.Argument(
        help="Only the dead letter at this position.", metavar="PARTITION:OFFSET", show_default=False
    ),
]
Limit = Annotated[int | None, typer.Option(help="The largest number of events to send.", min=1, metavar="N")]
Rate = Annotated[
    float | None,
    typer.Option(help="The largest number of events per second.", min=0.1, metavar="EVENTS/S"),
]
SkipStale = Annotated[
    bool, typer.Option("--skip-stale", help="Skip events whose student has sent a newer one since.")
]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(dlq, name="dlq")


@dlq.command("list", epilog="Example: purchase-stream dlq list --since 24h --code field_invalid --limit 5")
def list_newest(
    context: typer.Context,
    code: Codes = None,
    since: Since = None,
    partition: Partition = None,
    limit: Annotated[
        int, typer.Option(help="The number of dead letters to print, newest first.", min=0, metavar="N")
    ] = 20,
    as_json: Json = False,
) -> None:
    """Count the dead letters by code, and print the newest."""
    codes, settings = _codes(code), _settings(context)
    topic = settings.topics.dead_letters
    listing = list_dead_letters(_read(settings, since, partition), codes, limit)
    if as_json:
        newest = [dead_letter.as_json() for dead_letter in listing.newest]
        typer.echo(json.dumps({"topic": topic, "counts": listing.counts, "newest": newest}, indent=2))
        return
    total = sum(listing.counts.values())
    typer.echo(f"{topic}: {total} dead letter{'' if total == 1 else 's'}")
    for name, count in listing.counts.items():
        typer.echo(f"  {name:<16} {count:>9}")
    for dead_letter in listing.newest:
        reason = shortened(dead_letter.reason, _REASON_CHARACTERS)
        position, written_at = dead_letter.position, dead_letter.written_at
        typer.echo(f"{position}  {written_at}  {dead_letter.code}  event {dead_letter.source}  {reason}")


@dlq.command(epilog="Example: purchase-stream dlq stats --since 7d")
def stats(
    context: typer.Context,
    since: Since = None,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Count the dead letters by signature: code, field, schema and producer.

    The producer is the event's header `ce_source`, or `producer`.
    """
    settings = _settings(context)
    topic = settings.topics.dead_letters
    found = collect_signatures(_read(settings, since, partition))
    if as_json:
        entries = [{**signature._asdict(), **asdict(stats)} for signature, stats in found.items()]
        typer.echo(json.dumps({"topic": topic, "signatures": entries}, indent=2))
        return
    total = sum(stats.count for stats in found.values())
    typer.echo(f"{topic}: {total} dead letter{'' if total == 1 else 's'}, {len(found)} signatures")
    for signature, stats in found.items():
        code, field, schema, producer = map(printable, signature)
        typer.echo(f"{stats.count:>9}  {code}  field {field}  schema {schema}  producer {producer}")
        typer.echo(f"{'':>9}  first {stats.first} {stats.first_at}, last {stats.last} {stats.last_at}")


@dlq.command(epilog="Example: purchase-stream dlq show 0:1234")
def show(
    context: typer.Context,
    position: Annotated[
        str, typer.Argument(help="The position in the dead-letter topic.", metavar="PARTITION:OFFSET")
    ],
    as_json: Json = False,
) -> None:
    """Print one dead letter: the reason, the decoded event, the headers, the raw bytes."""
    at, settings = parse_partition_offset(position), _settings(context)
    topic = settings.topics.dead_letters
    dead_letter = read_dead_letter(client_config.common(settings.kafka), topic, *at)
    if as_json:
        typer.echo(json.dumps(dead_letter.as_json(), indent=2))
        return
    for line in _describe(dead_letter, topic):
        typer.echo(printable(line))


@dlq.command(epilog="Example: purchase-stream dlq replay --code unknown_schema --dry-run")
def replay(
    context: typer.Context,
    position: Position = None,
    code: Codes = None,
    since: Since = None,
    partition: Partition = None,
    limit: Limit = None,
    rate: Rate = None,
    skip_stale: SkipStale = False,
    include_rejected: Annotated[
        bool, typer.Option("--include-rejected", help="Also send events that would be rejected again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; print what would be sent.")
    ] = False,
) -> None:
    """Send the events of dead letters to the events topic again, byte for byte and exactly once.

    Decodes and validates each event first, with the schemas of the scorers' settings, and sends only those
    that would be accepted; the others stay due. A repeated or interrupted run sends nothing twice. Prints
    dead letters that do not hold the whole event, and then ends with exit code 65.
    """
    codes, settings = _codes(code), _settings(context)
    work = Replay(
        settings,
        codes=codes,
        limit=limit,
        selected=_selected(settings, position, since, partition),
        preview=accept_all if include_rejected else RejectionPreview(writer_schemas(settings)),
        is_stale=NewestEvents(settings).supersede if skip_stale else lambda _: False,
        rate=rate,
        on_refused=_print_refused,
    )
    _run(work, settings, dry_run=dry_run)


@dlq.command(
    epilog="Example: purchase-stream dlq repair --code field_invalid --cast courses_started --dry-run"
)
def repair(
    context: typer.Context,
    position: Position = None,
    code: Codes = None,
    since: Since = None,
    partition: Partition = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Give a field a value. Repeatable.", metavar="FIELD=VALUE"),
    ] = None,
    cast: Annotated[
        list[str] | None,
        typer.Option(help="Convert a field to its type, such as '12' to 12. Repeatable.", metavar="FIELD"),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Remove a field. Repeatable.", metavar="FIELD")
    ] = None,
    limit: Limit = None,
    rate: Rate = None,
    skip_stale: SkipStale = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; print each change.")] = False,
) -> None:
    """Change the fields of rejected events, and send those that would be accepted then, exactly once.

    Works on the fields that the scorer decoded, or on values that are JSON. Dead letters that the change
    does not make acceptable stay due. A repaired dead letter counts as replayed.
    """
    codes, settings = _codes(code), _settings(context)
    change = Repair.parse(drop or [], cast or [], assignments or [])
    events_topic, reasons = settings.topics.events, Counter[str]()
    work = Replay(
        settings,
        codes=codes,
        limit=limit,
        selected=_selected(settings, position, since, partition),
        restore=lambda dead_letter: change.restore(dead_letter, events_topic),
        preview=RejectionPreview(writer_schemas(settings)),
        is_stale=NewestEvents(settings).supersede if skip_stale else lambda _: False,
        rate=rate,
        on_refused=lambda _, reason: reasons.update([reason]),
        keep_refused=True,
    )

    def print_change(item: ReplayItem) -> None:
        changes = "; ".join(change.difference(item.dead_letter, events_topic)) or "no change"
        typer.echo(printable(f"{item.dead_letter.position}  {item.dead_letter.code}  {changes}"))

    _execute(work, print_change if dry_run else None)
    for line in _summarize(work.replayed, events_topic, dry_run=dry_run):
        typer.echo(line)
    for reason, count in reasons.most_common(_MAX_REASONS):
        typer.echo(printable(f"{count} not repaired: {reason}"), err=True)


def _execute(work: Replay, on_dry_run: Callable[[ReplayItem], None] | None) -> None:
    """Run a replay. In a dry run, call a function with each event that would be sent."""
    try:
        if on_dry_run is None:
            work.run()
        else:
            for item in work.dry_run():
                on_dry_run(item)
    except KeyboardInterrupt:
        raise typer.Abort from None  # what was committed stays, and the next run resumes after it
    for lost in work.replayed.expired:
        typer.echo(f"expired before they were replayed: dead letters {lost}", err=True)


def _run(work: Replay, settings: Settings, *, dry_run: bool) -> None:
    """Run a replay, and print what happened to the dead letters."""
    _execute(work, (lambda _: None) if dry_run else None)
    done = work.replayed
    for line in _summarize(done, settings.topics.events, dry_run=dry_run):
        typer.echo(line)
    if refused := done.refused.total():
        what = "dead letter does" if refused == 1 else "dead letters do"
        raise BadInputError(
            f"{refused} {what} not hold the event as it was ({_counted(done.refused)}), named above;"
            " have the platform send these again"
        )


def _summarize(done: Replayed, events_topic: str, *, dry_run: bool) -> Iterator[str]:
    if dry_run:
        for code, count in done.sent.most_common():
            yield f"{code}: {count} would be accepted now"
    for (code, new_code), count in done.held.most_common():
        yield f"{code}: {count} would be rejected again as {new_code}; not sent"
    for code, count in done.stale.most_common():
        yield f"{code}: {count} superseded by a newer event of the same student; skipped"
    sent = done.sent.total()
    codes = f" ({_counted(done.sent)})" if sent else ""
    verb = "would be sent" if dry_run else "sent"
    yield f"{sent} event{'' if sent == 1 else 's'} {verb} to {events_topic}{codes}"


def _print_refused(dead_letter: DeadLetterRecord, reason: str) -> None:
    typer.echo(f"not replayed: {dead_letter.position}  {dead_letter.code}  {printable(reason)}", err=True)


def _describe(dead_letter: DeadLetterRecord, topic: str) -> Iterator[str]:
    """Yield everything about a dead letter, one fact per line. The caller must escape the lines."""
    yield f"dead letter {dead_letter.position} of {topic}, written {dead_letter.written_at}"
    yield f"key: {_text(dead_letter.key, 'none')}"
    body = dead_letter.body
    if body is None:
        yield "not a dead letter of Purchase Stream; the value is"
        yield from hex_lines(dead_letter.value or b"")
        return
    source = body["source"]
    yield f"event: {dead_letter.source} of {source['topic']}"
    yield f"code: {body['code']} ({body.get('status')}), rejected {body.get('rejected_at')}"
    if isinstance(body["detail"], list):
        yield "detail:"
        for problem in body["detail"]:
            yield f"  {json.dumps(problem, ensure_ascii=False)}"
    else:
        yield f"detail: {body['detail']}"
    event = body.get("event")
    if isinstance(event, dict):
        yield "decoded:"
        for name, value in event.items():
            yield f"  {name}: {json.dumps(value, ensure_ascii=False)}"
    elif event is not None:
        yield f"decoded: {json.dumps(event, ensure_ascii=False)}"
    yield "headers:"
    for name, header in dead_letter.headers:
        yield f"  {name}: {_text(header, 'null')}"
    try:
        value = original_event(dead_letter, source["topic"]).value
    except NotReplayable as reason:
        yield f"cannot be replayed: {reason}"
        value = _raw(body)
    if value is None:
        yield "raw: null, a tombstone"
    else:
        yield f"raw: {len(value)} bytes"
        yield from hex_lines(value)


def _text(data: bytes | None, none: str) -> str:
    return none if data is None else data.decode(errors="backslashreplace")


def _raw(body: dict[str, object]) -> bytes:
    """Return what the dead letter holds of the event's value."""
    try:
        return b64decode(str(body.get("raw") or ""))
    except ValueError:
        return b""


def _read(settings: Settings, since: str | None, partition: int | None) -> Iterator[DeadLetterRecord]:
    """Yield the selected dead letters."""
    client, topic = client_config.common(settings.kafka), settings.topics.dead_letters
    for dead_letters in read_dead_letters(client, topic, _ranges(settings, since, partition)):
        yield from dead_letters


def _ranges(settings: Settings, since: str | None, partition: int | None) -> Ranges:
    oldest = parse_time(since, datetime.now(UTC), "--since")
    since_ms = None if oldest is None else int(oldest.timestamp() * 1000)
    client = client_config.common(settings.kafka)
    return ranges_since(client, settings.topics.dead_letters, since_ms, partition)


def _selected(
    settings: Settings, position: str | None, since: str | None, partition: int | None
) -> Ranges | None:
    """Return the ranges that the options select; ``None`` selects all.

    Raises:
        UsageError: A position is given together with another option.
        BadInputError: There is no dead letter at the position.
    """
    if position is None:
        return None if since is None and partition is None else _ranges(settings, since, partition)
    if since is not None or partition is not None:
        raise UsageError("PARTITION:OFFSET selects one dead letter; leave --since and --partition out")
    at = parse_partition_offset(position)
    read_dead_letter(client_config.common(settings.kafka), settings.topics.dead_letters, *at)
    return {at[0]: (at[1], at[1] + 1)}


def _codes(codes: list[str] | None) -> list[str]:
    """Return the selected codes.

    Raises:
        UsageError: One of them is not a code.
    """
    for code in codes or []:
        if code not in CODES:
            raise UsageError(f"--code {code}: one of {', '.join(CODES)}")
    return codes or []


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{code} {n}" for code, n in counts.most_common())


def _settings(context: typer.Context) -> Settings:
    given: Context = context.obj
    return given.settings()
