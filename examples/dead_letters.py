"""Read dead letters and group them by what is wrong."""

from __future__ import annotations

import json
import os
from collections import Counter

from confluent_kafka import Consumer


def problem(dead_letter: dict[str, object]) -> str:
    """Return what is wrong in one line: the code, and the field where a field is to blame."""
    detail = dead_letter["detail"]
    if isinstance(detail, str):
        return f"{dead_letter['code']}: {detail}"
    assert isinstance(detail, list)
    return f"{dead_letter['code']}: " + "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in detail)


def main() -> None:
    """Count the dead letters of each kind, and print the counts."""
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("BOOTSTRAP_SERVERS", "localhost:9092"),
            "group.id": os.environ.get("GROUP_ID", "dead-letters"),
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([os.environ.get("TOPIC", "engagement-events.dlq")])
    counts: Counter[str] = Counter()
    remaining = int(os.environ.get("COUNT", "-1"))
    while remaining != 0:
        record = consumer.poll(1.0)
        if record is None:
            continue
        if record.error() is not None:
            raise SystemExit(str(record.error()))
        dead_letter = json.loads(record.value() or b"{}")
        counts[problem(dead_letter)] += 1
        remaining -= 1
    consumer.close()
    for text, count in counts.most_common():
        print(f"{count:8} {text}")


if __name__ == "__main__":
    main()
