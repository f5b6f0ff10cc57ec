"""A span per committed batch, with links to the trace contexts of its events."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client import CollectorRegistry

pytest.importorskip("opentelemetry.sdk")  # the extra otel

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from consumer.errors import BatchAborted, StartupError
from consumer.ops.bench import pipeline_of
from consumer.pipeline.batch import Headers
from consumer.roles.scorer import batch_tracer
from consumer.runtime.readiness import Readiness
from consumer.scorer.commit import Committer
from consumer.scorer.metrics import ScorerTelemetry
from consumer.scorer.outputs import OutputTopics
from consumer.scorer.processing import BatchProcessor
from consumer.scorer.tracing import BatchTracer
from consumer.settings import Settings, TracingSettings
from tests.support.events import good, raw_batch
from tests.unit.scorer.test_commit import Model, Session

PROCESSOR = BatchProcessor(pipeline_of(Model()))


def context(n: int, flags: str = "01") -> tuple[str, bytes | None]:
    """Return a ``traceparent`` header of trace n."""
    return "traceparent", f"00-{n:032x}-00000000000000aa-{flags}".encode()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """What a tracer has exported."""
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Iterator[BatchTracer]:
    """A tracer that exports to memory."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    made = BatchTracer(provider, "engagement-events", "group")
    yield made
    made.stop()


def the_span(spans: InMemorySpanExporter) -> ReadableSpan:
    """Return the only span."""
    (span,) = spans.get_finished_spans()
    return span


def test_a_batch_is_a_consumer_span_with_links_to_its_events(
    tracer: BatchTracer, spans: InMemorySpanExporter
) -> None:
    """Names and attributes are those of the messaging conventions. Only sampled contexts are linked."""
    headers: list[Headers] = [
        [],
        [context(1, "00")],
        [context(7), ("tracestate", b"vendor=x"), ("ce_id", b"1")],
        [("traceparent", b"nonsense-1"), ("tracestate", b"\xff")],
        [("traceparent", None)],
    ]
    values = [good(), good(), good(), good(minutes_watched=-1.0), None]
    before_ns = time.time_ns()
    tracer.batch_committed(PROCESSOR.process(raw_batch(values, headers=headers, first_offset=40)))
    span = the_span(spans)
    assert (span.name, span.kind, span.parent) == ("process engagement-events", SpanKind.CONSUMER, None)
    assert span.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "engagement-events",
        "messaging.consumer.group.name": "group",
        "messaging.batch.message_count": 5,
        "purchase_stream.predictions": 3,
        "purchase_stream.dead_letters": 2,
        "purchase_stream.model_version": "v",
    }
    (link,) = span.links
    assert (link.context.trace_id, link.context.span_id) == (7, 0xAA)
    assert link.context.trace_state == {"vendor": "x"}
    assert link.attributes == {"messaging.destination.partition.id": "0", "messaging.kafka.offset": 42}
    assert span.start_time is not None
    assert span.end_time is not None
    # The clock of the start is a double, which is exact to a few hundred nanoseconds.
    assert before_ns - 1000 <= span.start_time <= span.end_time


def test_a_large_batch_has_as_many_links_as_a_span_may_have(
    tracer: BatchTracer, spans: InMemorySpanExporter
) -> None:
    """The specification's limit is 128."""
    headers: list[Headers] = [[context(n)] for n in range(1, 501)]
    tracer.batch_committed(PROCESSOR.process(raw_batch([good()] * 500, headers=headers)))
    assert [link.context.trace_id for link in the_span(spans).links] == list(range(1, 129))


def test_only_a_committed_batch_has_a_span(tracer: BatchTracer, spans: InMemorySpanExporter) -> None:
    """An attempt that was aborted has none."""
    committer = Committer(
        session=Session(BatchAborted("x"), BatchAborted("x")),  # type: ignore[arg-type]  # a stand-in
        processor=PROCESSOR,
        topics=OutputTopics("predictions", "letters", {"predictions": 1, "letters": 1}, "group"),
        max_dead_letter_bytes=10_000,
        telemetry=ScorerTelemetry(CollectorRegistry()),
        readiness=Readiness(lambda: 0.0),
        heartbeat=lambda: None,
        on_committed=tracer.batch_committed,
    )
    committer.commit_with_retry(raw_batch([good()] * 3))
    assert the_span(spans).attributes is not None


def test_without_the_extra_the_setting_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exit code of a wrong configuration; without the setting nothing is asked of it."""
    monkeypatch.delitem(sys.modules, "consumer.scorer.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    assert batch_tracer(Settings()) is None
    with pytest.raises(StartupError, match=r"needs: pip install 'purchase-stream\[otel\]'") as refused:
        batch_tracer(Settings(tracing=TracingSettings(exporter="otlp")))
    assert refused.value.exit_code == 78


def test_nothing_is_imported_for_a_role_without_it() -> None:
    """Nothing of OpenTelemetry, in a fresh interpreter."""
    program = "import sys, consumer.roles.scorer; sys.exit(any(m.startswith('opentel') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0  # noqa: S603


def test_spans_are_sent_to_the_collector_that_the_standard_variables_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last ones when the role stops."""
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        tracer = batch_tracer(Settings(tracing=TracingSettings(exporter="otlp")))
        assert tracer is not None
        tracer.batch_committed(PROCESSOR.process(raw_batch([good()])))
        tracer.stop()
        server.shutdown()
        thread.join()
    ((path, body),) = received
    assert path == "/v1/traces"
    for text in (
        b"process engagement-events",
        b"service.name\x12\x11\n\x0fpurchase-stream",
        b"environment.name",
    ):
        assert text in body


def test_a_collector_that_is_away_does_not_delay_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop gives up after two seconds."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracer = BatchTracer.over_otlp("engagement-events", "group", "a")
    tracer.batch_committed(PROCESSOR.process(raw_batch([good()])))
    started_s = time.monotonic()
    tracer.stop()
    assert time.monotonic() - started_s < 20  # the SDK's own limit is 30
