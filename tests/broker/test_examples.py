"""The examples in Python, on a real broker and as their README starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.events import decoded_prediction, good

pytestmark = pytest.mark.broker

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, service: Any, topic: str, count: int) -> list[str]:
    """Run an example on a topic and return the lines that it prints."""
    environment = {
        "BOOTSTRAP_SERVERS": service.servers,
        "GROUP_ID": f"{topic}.example",
        "TOPIC": topic,
        "COUNT": str(count),
    }
    done = subprocess.run(  # noqa: S603 - every word is ours
        [sys.executable, str(EXAMPLES / name)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_examples_read_what_the_scorer_publishes(deploy: Callable[..., Any]) -> None:
    """The CRM lists every likely buyer, the dead letters are counted by what is wrong."""
    service = deploy(partitions=1)
    minutes = [0.0, 400.0, 3000.0]
    events = [good(event_id=f"e{i}", student_id=f"s{i}", minutes_watched=m) for i, m in enumerate(minutes)]
    broken = [good(minutes_watched=-1.0), None, None]
    service.produce([(b"k", value, 0) for value in [*events, *broken]])
    service.start("score")
    published = service.read(service.topics["PREDICTIONS"], len(events))
    service.read(service.topics["DEAD_LETTERS"], len(broken))

    buyers = run("predictions.py", service, service.topics["PREDICTIONS"], len(events))
    problems = run("dead_letters.py", service, service.topics["DEAD_LETTERS"], len(broken))

    predictions = [decoded_prediction(record.value()) for record in published]
    assert buyers == [
        f"{fields['student_id']} {round(fields['predicted_purchase_probability'], 4)}"
        for fields in predictions
        if fields["predicted_purchase"]
    ]
    assert [line.split(":")[0].split() for line in problems] == [["2", "tombstone"], ["1", "field_invalid"]]
