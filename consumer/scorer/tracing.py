"""OpenTelemetry spans of the scorer's batches (docs/tracing.md). Needs the extra ``otel``.

A batch is one span, whatever the number of its events. It links to the trace contexts that its events carry
in ``traceparent`` and ``tracestate``, as OpenTelemetry's conventions for messaging ask of a consumer that
processes messages in batches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from consumer.pipeline.batch import Headers
from consumer.scorer.processing import ProcessedBatch

STOP_WITHIN_S: Final = 2.0
"""How long a stop waits for the last spans to be sent. A collector that is away must not delay it."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACE: Final = ("traceparent", "tracestate")
_SAMPLED: Final = frozenset("13579bdf")
"""The last digits of the flags of a sampled context (W3C Trace Context, "trace-flags")."""


class BatchTracer:
    """Makes a span of every committed batch.

    Args:
        provider: Makes and sends the spans.
        topic: The events topic.
        group: The consumer group.
    """

    def __init__(self, provider: TracerProvider, topic: str, group: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("purchase-stream", version("purchase-stream"))
        self._name = f"process {topic}"
        self._attributes = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": group,
        }
        self._max_links = SpanLimits().max_links or 0

    @classmethod
    def over_otlp(cls, topic: str, group: str, instance_id: str) -> BatchTracer:
        """Return a tracer that sends its spans over OTLP, as the variables ``OTEL_…`` say."""
        own = {
            "service.name": "purchase-stream",
            "service.version": version("purchase-stream"),
            "service.instance.id": instance_id,
        }
        resource = Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())
        # A flush at exit would wait for a collector that is away; see stop().
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider, topic, group)

    def start(self) -> None:
        """Do nothing: the provider has its thread already."""

    def stop(self) -> None:
        """Send the last spans, or give up after :data:`STOP_WITHIN_S`."""
        flush = threading.Thread(target=self._provider.shutdown, name="tracing-shutdown", daemon=True)
        flush.start()
        flush.join(STOP_WITHIN_S)

    def batch_committed(self, processed: ProcessedBatch) -> None:
        """Make the span of a batch, from the start of its processing to now."""
        raw = processed.raw
        links = []
        for row, context in sampled_contexts(raw.headers(range(len(raw))), self._max_links):
            source: dict[str, AttributeValue] = {
                "messaging.destination.partition.id": str(raw.partitions[row]),
                "messaging.kafka.offset": raw.offsets[row],
            }
            links.append(Link(context, source))
        span = self._tracer.start_span(
            self._name,
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=links,
            start_time=int(processed.processed_at_s * 1e9),
            attributes={
                **self._attributes,
                "messaging.batch.message_count": len(raw),
                "purchase_stream.predictions": len(processed.rows),
                "purchase_stream.dead_letters": len(processed.rejections),
                "purchase_stream.model_version": processed.scored.model_version,
            },
        )
        span.end(time.time_ns())


def sampled_contexts(headers: Sequence[Headers], limit: int) -> Iterator[tuple[int, SpanContext]]:
    """Yield the first trace contexts that were sampled, each with the row of the event that carries it.

    Args:
        headers: The headers of each event.
        limit: The largest number of contexts.
    """
    n_found = 0
    for row, names in enumerate(headers):
        if n_found == limit:
            return
        if not names:
            continue
        carrier = {
            name: value.decode("ascii", "replace") for name, value in names if value and name in _TRACE
        }
        if carrier.get("traceparent", "")[-1:] not in _SAMPLED:
            continue
        context = get_current_span(_PROPAGATOR.extract(carrier, Context())).get_span_context()
        if context.is_valid and context.trace_flags.sampled:
            n_found += 1
            yield row, context
