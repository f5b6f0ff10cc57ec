"""A CRM: read committed predictions and act on the likely buyers."""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path

import fastavro
from confluent_kafka import Consumer

SCHEMA = Path(__file__).parent.parent / "schemas" / "purchase_prediction.avsc"
HEADER_BYTES = 10  # Avro single-object encoding: C3 01 and the schema's fingerprint


def main() -> None:
    """Print a line for every student who is likely to buy."""
    schema = fastavro.parse_schema(json.loads(SCHEMA.read_text()))
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("BOOTSTRAP_SERVERS", "localhost:9092"),
            "group.id": os.environ.get("GROUP_ID", "crm"),
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([os.environ.get("TOPIC", "purchase-predictions")])
    remaining = int(os.environ.get("COUNT", "-1"))
    while remaining != 0:
        record = consumer.poll(1.0)
        if record is None:
            continue
        if record.error() is not None:
            raise SystemExit(str(record.error()))
        value = record.value() or b""
        prediction = fastavro.schemaless_reader(BytesIO(value[HEADER_BYTES:]), schema)
        if prediction["predicted_purchase"]:
            print(
                prediction["student_id"], round(prediction["predicted_purchase_probability"], 4), flush=True
            )
        remaining -= 1
    consumer.close()


if __name__ == "__main__":
    main()
