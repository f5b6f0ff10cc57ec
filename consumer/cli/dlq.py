"""``dlq …``."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from consumer.cli.context import Context
from consumer.cli.formatting import parse_partition_offset, parse_time, shortened
from consumer.errors import BadInputError, UsageError
from consumer.kafka import client_config
from consumer.kafka.writer_schemas import writer_schemas
from consumer.ops.dlq.dead_letter import CODES, DeadLetterRecord, Unreplayable, original
from consumer.ops.dlq.plan import ReplayItem
from consumer.ops.dlq.preview import Preview
from consumer.ops.dlq.replay import Replay
from consumer.ops.dlq.topic import letters_between, listing, ranges_since, read_letter
from consumer.printable import hex_lines, printable
from consumer.settings import Settings

dlq = typer.Typer(
    help="Inspect dead letters, and replay their events.",
    epilog="Example: purchase-stream dlq list --since 24h",
    no_args_is_help=True,
)

_REASON_CHARACTERS: Final = 110

Codes = Annotated[
    list[str] | None,
    typer.Option("--code", help="Only dead letters of this code; may be repeated.", metavar="CODE"),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(dlq, name="dlq")


@dlq.command("list", epilog="Example: purchase-stream dlq list --since 24h --code field_invalid --limit 5")
def list_letters(
    context: typer.Context,
    code: Codes = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only newer ones: a time such as 2026-01-31T12:00Z, or 24h, 7d, 30m ago.", metavar="T"
        ),
    ] = None,
    partition: Annotated[int | None, typer.Option(help="Only this partition of the topic.", min=0)] = None,
    limit: Annotated[int, typer.Option(help="How many of the newest to print.", min=0)] = 20,
    as_json: Json = False,
) -> None:
    """Count the dead letters by code, and print the newest."""
    codes = _codes(code)
    settings = _settings(context)
    client, topic = client_config.common(settings.kafka), settings.topics.dead_letters
    moment = parse_time(since, datetime.now(UTC), "--since")
    since_ms = None if moment is None else int(moment.timestamp() * 1000)
    ranges = ranges_since(client, topic, since_ms, partition)
    letters = (letter for batch in letters_between(client, topic, ranges) for letter in batch)
    found = listing(letters, codes, limit)
    if as_json:
        newest = [letter.as_json() for letter in found.newest]
        typer.echo(json.dumps({"topic": topic, "counts": found.counts, "newest": newest}, indent=2))
        return
    total = sum(found.counts.values())
    typer.echo(f"{topic}: {total} dead letter{'' if total == 1 else 's'}")
    for name, count in found.counts.items():
        typer.echo(f"  {name:<16} {count:>9}")
    for letter in found.newest:
        reason = shortened(letter.reason, _REASON_CHARACTERS)
        typer.echo(f"{letter.place}  {letter.written_at}  {letter.code}  event {letter.source}  {reason}")


@dlq.command(epilog="Example: purchase-stream dlq show 0:1234")
def show(
    context: typer.Context,
    place: Annotated[
        str, typer.Argument(help="Where it is in the dead-letter topic.", metavar="PARTITION:OFFSET")
    ],
    as_json: Json = False,
) -> None:
    """Print one dead letter: the reason, the decoded event, the headers, the raw bytes."""
    at = parse_partition_offset(place)
    settings = _settings(context)
    letter = read_letter(client_config.common(settings.kafka), settings.topics.dead_letters, *at)
    if as_json:
        typer.echo(json.dumps(letter.as_json(), indent=2))
        return
    for line in _described(letter, settings):
        typer.echo(line)


@dlq.command(epilog="Example: purchase-stream dlq replay --code unknown_schema --dry-run")
def replay(
    context: typer.Context,
    code: Codes = None,
    limit: Annotated[int | None, typer.Option(help="At most so many events.", min=1)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; say what would be sent, and become of it.")
    ] = False,
) -> None:
    """Send the events of dead letters to the events topic again, byte for byte and exactly once.

    What was replayed before is not replayed again, also when a run was interrupted. Dead letters that do
    not hold the whole event are named, and the command then ends with exit code 65.
    """
    codes = _codes(code)
    settings = _settings(context)

    def on_refused(letter: DeadLetterRecord, why: str) -> None:
        typer.echo(f"not replayed: {letter.place}  {letter.code}  {printable(why)}", err=True)

    work = Replay(settings, codes=codes, limit=limit, on_refused=on_refused)
    try:
        if dry_run:
            _try_out(work, settings)
        else:
            work.run()
    except KeyboardInterrupt:
        raise typer.Abort from None  # what was committed stays, and the next run goes on behind it
    done = work.replayed
    sent = sum(done.sent.values())
    kinds = f" ({_counted(done.sent)})" if sent else ""
    verb = "would be sent" if dry_run else "sent"
    typer.echo(f"{sent} event{'' if sent == 1 else 's'} {verb} to {settings.topics.events}{kinds}")
    for gone in done.expired:
        typer.echo(f"expired before they were replayed: dead letters {gone}", err=True)
    if refused := sum(done.refused.values()):
        what = "dead letter does" if refused == 1 else "dead letters do"
        raise BadInputError(
            f"{refused} {what} not hold the event as it was ({_counted(done.refused)}), named above;"
            " have the platform send these again"
        )


def _try_out(work: Replay, settings: Settings) -> None:
    """Say what would become of the events now: they are decoded and validated, and not scored."""
    forecast = Preview(writer_schemas(settings))
    batch: list[ReplayItem] = []
    for due in work.dry_run():
        batch.append(due)
        if len(batch) == forecast.BATCH_EVENTS:
            forecast.add(batch)
            batch = []
    forecast.add(batch)
    for line in forecast.lines():
        typer.echo(line)


def _described(letter: DeadLetterRecord, settings: Settings) -> Iterable[str]:
    """Say everything about a dead letter, a fact a line."""
    yield f"dead letter {letter.place} of {settings.topics.dead_letters}, written {letter.written_at}"
    yield f"key: {'none' if letter.key is None else printable(letter.key.decode(errors='backslashreplace'))}"
    body = letter.body
    if body is None:
        yield "no dead letter of Purchase Stream; the value is"
        yield from hex_lines(letter.value or b"")
        return
    source = body["source"]
    yield f"event: {letter.source} of {printable(source['topic'])}"
    yield f"code: {printable(body['code'])} ({body.get('status')}), rejected {body.get('rejected_at')}"
    if isinstance(body["detail"], list):
        yield "detail:"
        for problem in body["detail"]:
            yield f"  {printable(json.dumps(problem, ensure_ascii=False))}"
    else:
        yield f"detail: {printable(str(body['detail']))}"
    if body.get("event") is not None:
        yield "decoded:"
        for name, value in body["event"].items():
            yield f"  {name}: {printable(json.dumps(value, ensure_ascii=False))}"
    yield "headers:"
    for name, header in letter.headers:
        text = "null" if header is None else header.decode(errors="backslashreplace")
        yield f"  {printable(name)}: {printable(text)}"
    try:
        value = original(letter, source["topic"]).value
    except Unreplayable as why:
        yield f"cannot be replayed: {printable(str(why))}"
        value = _raw_of(body)
    if value is None:
        yield "raw: null, a tombstone"
    else:
        yield f"raw: {len(value)} bytes"
        yield from hex_lines(value)


def _raw_of(body: dict[str, object]) -> bytes:
    """Return what there is of the event's value."""
    try:
        return b64decode(str(body.get("raw") or ""))
    except ValueError:
        return b""


def _codes(given: list[str] | None) -> list[str]:
    """Return the codes that were asked for.

    Raises:
        UsageError: one of them is none.
    """
    for code in given or []:
        if code not in CODES:
            raise UsageError(f"--code {code}: one of {', '.join(CODES)}")
    return given or []


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{code} {n}" for code, n in counts.most_common())


def _settings(context: typer.Context) -> Settings:
    given: Context = context.obj
    return given.settings()
