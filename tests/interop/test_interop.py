"""Platforms and CRMs in four languages, with their own Kafka and Avro libraries, on a real Kafka."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.ops.asyncapi import asyncapi
from consumer.settings import Settings
from tests.interop.clients import CLIENTS, HERE, Client
from tests.support.events import decoded_prediction, good

pytestmark = [pytest.mark.broker, pytest.mark.interop]

EXAMPLES = Path(__file__).parents[2] / "examples"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
EVENTS = 200
"""Per run. Each client has a run per codec and a transactional one."""


@pytest.fixture(scope="module", params=CLIENTS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    """A client that is built and ready; skipped by name where its tools are missing."""
    client: Client = request.param
    if client.missing:
        pytest.skip(f"needs {' and '.join(client.missing)}")
    client.compile()
    return client


def test_events_are_read_and_predictions_are_readable(client: Client, deploy: Callable[..., Any]) -> None:
    """Every committed event is scored once, no aborted one is, and the CRM decodes what we published."""
    service = deploy(partitions=2)
    events, predictions = service.topics["EVENTS"], service.topics["PREDICTIONS"]
    for codec in CODECS:
        client.send_events(service.servers, events, EVENTS, codec, "idempotent")
    client.send_events(service.servers, events, EVENTS, "lz4", "transactional")
    total = EVENTS * (len(CODECS) + 1)
    service.start("score")

    records = service.read(predictions, total, timeout_s=60)

    published = [decoded_prediction(record.value()) for record in records]
    times_sent = len(CODECS) + 1
    assert Counter(fields["event_id"] for fields in published) == {
        f"{client.name}-{i}": times_sent for i in range(EVENTS)
    }
    key_of = {fields["event_id"]: record.key() for fields, record in zip(published, records, strict=True)}
    assert key_of == {
        f"{client.name}-{i}": None if i % 10 == 9 else f"student-{i % 97}".encode() for i in range(EVENTS)
    }
    read = client.read_predictions(service.servers, predictions, total)
    assert _in_source_order(read) == _in_source_order(published)
    assert total >= 1000


def _in_source_order(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return predictions in the order of their events; times as milliseconds since the epoch."""
    return sorted(
        (
            fields | {name: _milliseconds(fields[name]) for name in ("occurred_at", "scored_at")}
            for fields in predictions
        ),
        key=lambda fields: (fields["source_partition"], fields["source_offset"]),
    )


def _milliseconds(time: Any) -> int:
    return time if isinstance(time, int) else round(time.timestamp() * 1000)


@pytest.mark.parametrize(
    ("folder", "needs", "build", "run"),
    [
        ("java", "mvn", CLIENTS[0].build, ("java", "-cp", "target/*:target/dependency/*", "Predictions")),
        ("node", "npm", CLIENTS[1].build, ("node", "predictions.js")),
    ],
    ids=["java", "node"],
)
def test_the_examples_read_predictions(
    deploy: Callable[..., Any], folder: str, needs: str, build: tuple[str, ...], run: tuple[str, ...]
) -> None:
    """Started as their README says, they list every likely buyer."""
    if shutil.which(needs) is None:
        pytest.skip(f"needs {needs}")
    service = deploy(partitions=1)
    topic = service.topics["PREDICTIONS"]
    values = [good(student_id=f"s{i}", minutes_watched=500.0 * i) for i in range(6)]
    service.produce([(b"k", value, 0) for value in values])
    service.start("score")
    published = [decoded_prediction(record.value()) for record in service.read(topic, len(values))]
    environment = {"BOOTSTRAP_SERVERS": service.servers, "TOPIC": topic, "COUNT": str(len(values))}
    for command in (build, run):
        done = subprocess.run(  # noqa: S603 - every word is ours
            command,
            cwd=EXAMPLES / folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    assert done.stdout.splitlines() == [
        f"{fields['student_id']} {fields['predicted_purchase_probability']:.4f}"
        for fields in published
        if fields["predicted_purchase"]
    ]


def test_the_asyncapi_document_is_valid() -> None:
    """AsyncAPI's own parser, with its Avro plug-in, finds no error."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    node = CLIENTS[1]
    node.compile()
    document = json.dumps(asyncapi(Settings(), "0.1.0"))
    done = subprocess.run(
        ["node", "validate_asyncapi.js"],  # noqa: S607 - the program that was just looked up
        cwd=HERE / node.folder,
        input=document,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
