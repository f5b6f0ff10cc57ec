"""Says what became of an event: for people, a fact a line, and for programs as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

from consumer import timestamps
from consumer.ops.why.scoring import Scoring
from consumer.ops.why.trace import EventTrace, FoundEvent
from consumer.pipeline.dead_letter import summarize_detail
from model_store.inputs import INPUT_NAMES
from model_store.linear import BASE


def as_json(story: EventTrace) -> dict[str, Any]:
    """Return everything as JSON values."""
    return {
        "source": {"topic": story.topic, "partition": story.partition, "offset": story.offset},
        "outcome": story.outcome,
        "problem": story.problem,
        "event": None if story.event is None else _event_json(story.event),
        "predictions": story.predictions,
        "scoring": None if story.scoring is None else story.scoring.as_json(),
        "audit_line": None
        if story.line is None
        else {"file": str(story.line.path), "byte": story.line.at_byte, "line": story.line.fields},
        "audit_line_missing": story.line_missing,
        "dead_letters": [
            letter.as_json() | {"replayed": replayed}
            for letter, replayed in zip(story.letters, story.replayed, strict=True)
        ],
        "events_before_it": story.waiting,
    }


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
    """Return a field as JSON can hold it: NaN and the infinities become text."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def lines(story: EventTrace) -> Iterator[str]:
    """Say everything; texts of others are as they came, to be made printable by the caller."""
    yield from _event_lines(story)
    for prediction in story.predictions:
        yield from _prediction_lines(prediction)
    if story.predictions:
        yield from _log_lines(story)
    if story.scoring is not None:
        yield from _scoring_lines(story.scoring, story.predictions[0])
    for letter, replayed in zip(story.letters, story.replayed, strict=True):
        yield f"rejected: dead letter {letter.place}, {letter.written_at}: {letter.code}"
        for part in letter.reason.split("; "):
            yield f"  {part}"
        yield (
            "  sent again by dlq replay"
            if replayed
            else f"  not replayed; see: purchase-stream dlq show {letter.place}"
        )
    if story.letters and story.event is not None:
        again = story.event.rejection
        yield (
            "  it would be accepted now"
            if again is None
            else f"  it would be rejected now as {again.code}: {summarize_detail(again.detail)}"
        )
    if story.outcome == "waiting":
        yield f"not decided yet: {story.waiting} events of its partition come before it"
    elif story.outcome == "expired":
        yield "decided, and its prediction or dead letter is gone: the topics keep theirs for less long"


def _event_lines(story: EventTrace) -> Iterator[str]:
    where = f"event {story.partition}:{story.offset} of {story.topic}"
    event = story.event
    if event is None:
        yield f"{where}: the topic does not have it any more"
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


def _log_lines(story: EventTrace) -> Iterator[str]:
    if story.line is None:
        yield f"audit log: {story.line_missing}"
        return
    same = (
        "" if story.line.fields == story.predictions[0] else ", WHICH SAYS SOMETHING ELSE THAN THE PREDICTION"
    )
    yield f"audit log: {story.line.path}, the line at byte {story.line.at_byte}{same}"


def _scoring_lines(scoring: Scoring, prediction: dict[str, Any]) -> Iterator[str]:
    if scoring.probability is None:
        yield f"why: {scoring.problem}"
        return
    before = prediction["predicted_purchase_probability"]
    again = "the same to the last bit" if scoring.probability == before else f"NOW {scoring.probability!r}"
    yield f"why: scored again with that version: {again}"
    if scoring.problem:
        yield f"  {scoring.problem}"
        return
    base, country, *numeric = scoring.contributions
    text = prediction["features"][INPUT_NAMES[0]]
    known = f"taken for {scoring.country}" if scoring.country else "no known country: scored as unknown"
    yield f"  {'feature':<30} {'value':>12} {'log-odds':>10}"
    yield f"  {BASE:<30} {'':>12} {base.log_odds:>+10.4f}"
    yield f"  {country.feature:<30} {text:>12.12} {country.log_odds:>+10.4f}  {known}"
    for one in sorted(numeric, key=lambda one: -abs(one.log_odds)):
        yield f"  {one.feature:<30} {one.value:>12.4f} {one.log_odds:>+10.4f}"
    yield f"  {'sum':<30} {'':>12} {scoring.log_odds:>+10.4f}  a probability of {scoring.probability:.4f}"
