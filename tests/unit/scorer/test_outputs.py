"""Which headers of an event its prediction takes over."""

from __future__ import annotations

from consumer.pipeline.batch import Headers
from consumer.scorer.outputs import carried_headers


def test_trace_context_and_cloudevents_headers_are_carried() -> None:
    """In their order, repeated names and null values included; other headers are not."""
    headers: Headers = [
        ("ce_id", b"1"),
        ("traceparent", b"00-a-b-01"),
        ("content-type", b"avro"),
        ("tracestate", None),
        ("ce_id", b"2"),
        ("CE_type", b"x"),
    ]
    assert carried_headers([headers, [], [("other", b"")]]) == [
        [("ce_id", b"1"), ("traceparent", b"00-a-b-01"), ("tracestate", None), ("ce_id", b"2")],
        [],
        [],
    ]


def test_without_such_headers_predictions_have_none() -> None:
    """The producer then takes its fast path."""
    assert carried_headers([[], []]) is None
    assert carried_headers([[("other", b"1")], []]) is None
    assert carried_headers([]) is None
