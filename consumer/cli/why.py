"""``why``: explain what happened to an event, as lines for people or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any

import typer

from consumer import timestamps
from consumer.cli.context import Context
from consumer.cli.formatting import parse_partition_offset, parse_time
from consumer.errors import BadInputError, UsageError
from consumer.kafka.schema_registry import writer_schemas
from consumer.ops.why.lookup import FoundLine, find_events
from consumer.ops.why.trace import EventTrace, EventTracer, FoundEvent, Scoring
from consumer.pipeline.dead_letter import summarize_detail
from consumer.pipeline.framing import WriterSchemas
from consumer.printable import printable
from consumer.settings import Settings
from model_store.inputs import INPUT_NAMES
from model_store.reasons import UNKNOWN


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(
        epilog="Example: purchase-stream why 0:1234, or: purchase-stream why --event-id 1a2b3c --since 7d"
    )(why)


def why(
    context: typer.Context,
    event: Annotated[
        str | None,
        typer.Argument(
            help="The event's position in the events topic.",
            metavar="PARTITION:OFFSET",
            show_default=False,
        ),
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option(
            "--event-id", help="The event's id instead; this reads the topic to find it.", metavar="ID"
        ),
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            help="For --event-id: the oldest event to search: a time, or an age such as 24h, 7d, 30m.",
            metavar="T",
        ),
    ] = "24h",
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer in JSON: a list with one object per event.")
    ] = False,
) -> None:
    """Explain what happened to an event: its prediction or its rejection."""
    if (event is None) == (event_id is None):
        raise UsageError("name the event, by PARTITION:OFFSET or by --event-id")
    given: Context = context.obj
    settings = given.settings()
    writers = writer_schemas(settings)
    if event is not None:
        positions = [parse_partition_offset(event)]
    else:
        positions = _find_by_id(settings, writers, str(event_id), since)
    tracer = EventTracer(settings, writers)
    traces = [tracer.trace(*position) for position in positions]
    if as_json:
        typer.echo(json.dumps([trace_json(trace) for trace in traces], indent=2))
    else:
        if len(traces) > 1:
            typer.echo(f"{len(traces)} events have this id; each is decided on its own")
        for trace in traces:
            for line in trace_lines(trace):
                typer.echo(printable(line))
    for trace in traces:
        if trace.problem:
            raise BadInputError(f"{trace.partition}:{trace.offset}: {trace.problem}")


def _find_by_id(
    settings: Settings, writers: WriterSchemas, event_id: str, since: str
) -> list[tuple[int, int]]:
    oldest = parse_time(since, datetime.now(UTC), "--since")
    assert oldest is not None  # noqa: S101 - the option has a default
    found = find_events(settings, writers, event_id, int(oldest.timestamp() * 1000))
    if not found:
        raise BadInputError(
            f"{settings.topics.events} has no event with id {event_id} since {oldest:%Y-%m-%dT%H:%M:%SZ};"
            " search further back with --since"
        )
    return found


def trace_json(trace: EventTrace) -> dict[str, Any]:
    """Return a trace as JSON values."""
    return {
        "source": {"topic": trace.topic, "partition": trace.partition, "offset": trace.offset},
        "outcome": trace.outcome,
        "problem": trace.problem,
        "event": None if trace.event is None else _event_json(trace.event),
        "predictions": trace.predictions,
        "scoring": None if trace.scoring is None else trace.scoring.as_json(),
        "audit_line": None if trace.audit_line is None else _line_json(trace.audit_line),
        "audit_line_missing": trace.audit_line_problem,
        "dead_letters": [
            dead_letter.as_json() | {"replayed": replayed}
            for dead_letter, replayed in zip(trace.dead_letters, trace.replayed, strict=True)
        ],
        "events_before_it": trace.events_before,
    }


def _line_json(line: FoundLine) -> dict[str, Any]:
    return {"file": str(line.path), "byte": line.at_byte, "line": line.fields}


def _event_json(event: FoundEvent) -> dict[str, Any]:
    rejection = event.rejection
    return {
        "timestamp": event.timestamp_ms,
        "key": None if event.key is None else event.key.decode(errors="backslashreplace"),
        "bytes": event.n_bytes,
        "fields": None if event.fields is None else {n: _json(value) for n, value in event.fields.items()},
        "would_be_rejected_as": None if rejection is None else rejection.code.value,
    }


def _json(value: Any) -> Any:
    """Return a field as a JSON value; NaN and infinities become text."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def trace_lines(trace: EventTrace) -> Iterator[str]:
    """Format a trace, one fact per line. The caller must escape unprintable characters."""
    yield from _event_lines(trace)
    for prediction in trace.predictions:
        yield from _prediction_lines(prediction)
    if trace.predictions:
        yield from _log_lines(trace)
    if trace.scoring is not None:
        yield from _scoring_lines(trace.scoring, trace.predictions[0])
    for dead_letter, replayed in zip(trace.dead_letters, trace.replayed, strict=True):
        yield f"rejected: dead letter {dead_letter.position}, {dead_letter.written_at}: {dead_letter.code}"
        for part in dead_letter.reason.split("; "):
            yield f"  {part}"
        yield (
            "  handled by dlq replay"
            if replayed
            else f"  not replayed; see: purchase-stream dlq show {dead_letter.position}"
        )
    if trace.dead_letters and trace.event is not None:
        again = trace.event.rejection
        yield (
            "  it would be accepted now"
            if again is None
            else f"  it would be rejected now as {again.code}: {summarize_detail(again.detail)}"
        )
    if trace.outcome == "waiting":
        yield f"not decided yet: {trace.events_before} offsets of its partition come before it"
    elif trace.outcome == "expired":
        yield "decided, but the retention of its prediction or dead letter is over"


def _event_lines(trace: EventTrace) -> Iterator[str]:
    where = f"event {trace.partition}:{trace.offset} of {trace.topic}"
    event = trace.event
    if event is None:
        yield f"{where}: its retention is over"
        return
    size = "a tombstone" if event.n_bytes is None else f"{event.n_bytes} bytes"
    key = "no key" if event.key is None else f"key {event.key.decode(errors='backslashreplace')}"
    yield f"{where}: written {timestamps.format_ms(event.timestamp_ms)}, {key}, {size}"
    for name, value in (event.fields or {}).items():
        shown = (
            f"{value} ({timestamps.format_ms(value)})"
            if name == "occurred_at" and 0 <= value < 2**47
            else value
        )
        yield f"  {name}: {shown}"


def _prediction_lines(prediction: dict[str, Any]) -> Iterator[str]:
    probability, threshold = prediction["predicted_purchase_probability"], prediction["threshold"]
    output = prediction["output"]
    bought = prediction["predicted_purchase"]
    sign, verdict = (">=", "will buy") if bought else ("<", "will not buy")
    yield (
        f"scored: prediction {output['partition']}:{output['offset']} of {output['topic']},"
        f" {prediction['timestamp_utc']}, by version {prediction['model_version']}"
    )
    yield f"  {probability:.4f} {sign} threshold {threshold:.4f}: {verdict}"


def _log_lines(trace: EventTrace) -> Iterator[str]:
    if trace.audit_line is None:
        yield f"audit log: {trace.audit_line_problem}"
        return
    same = "" if trace.audit_line_agrees else ", WHICH DIFFERS FROM THE PREDICTION"
    yield f"audit log: {trace.audit_line.path}, the line at byte {trace.audit_line.at_byte}{same}"


def _scoring_lines(scoring: Scoring, prediction: dict[str, Any]) -> Iterator[str]:
    reasons = scoring.reasons
    if reasons is None:
        yield f"why: {scoring.problem}"
        return
    before = prediction["predicted_purchase_probability"]
    again = "the same to the last bit" if reasons.probability == before else f"NOW {reasons.probability!r}"
    yield f"why: scored again with that version: {again}"
    country, *numeric = reasons.contributions
    text = prediction["features"][INPUT_NAMES[0]]
    recognised = (
        "not recognised: scored as unknown" if country.value == UNKNOWN else f"recognised as {country.value}"
    )
    yield f"  {'feature':<30} {'value':>12} {reasons.unit.replace('_', '-'):>12}"
    yield f"  {'reference student':<30} {'':>12} {reasons.base:>+12.4f}"
    yield f"  {country.feature:<30} {text:>12.12} {country.amount:>+12.4f}  {recognised}"
    for item in sorted(numeric, key=lambda item: -abs(item.amount)):
        yield f"  {item.feature:<30} {item.value:>12.4f} {item.amount:>+12.4f}"
    yield f"  {'sum':<30} {'':>12} {reasons.total:>+12.4f}  probability {reasons.probability:.4f}"
    reference = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in reasons.reference.items()
    )
    yield f"  the reference student: {reference}"
