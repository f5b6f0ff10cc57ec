"""The AsyncAPI document of the topics."""

from __future__ import annotations

import json

from consumer.ops.asyncapi import asyncapi
from consumer.pipeline.rejections import Code
from consumer.settings import Settings, TopicSettings
from schemas.repository import purchase_prediction


def test_every_code_has_an_example_that_the_stream_would_write() -> None:
    """Each example is a dead letter with the code that it is named after."""
    document = asyncapi(Settings(), "1.2.3")
    examples = document["components"]["messages"]["DeadLetter"]["examples"]
    assert {example["name"] for example in examples} == {code.value for code in Code}
    assert all(example["payload"]["code"] == example["name"] for example in examples)
    by_code = {example["name"]: example["payload"] for example in examples}
    assert by_code["rule_violated"]["detail"] == "practice_exams_passed cannot exceed practice_exams_started."
    assert by_code["model_failed"]["status"] == 500


def test_addresses_are_the_settings() -> None:
    """A platform finds the topics and brokers that are in force."""
    document = asyncapi(Settings(topics=TopicSettings(events="e", dead_letters="d")), "1.2.3")
    channels = document["channels"]
    assert (channels["events"]["address"], channels["deadLetters"]["address"]) == ("e", "d")
    assert document["servers"]["kafka1"]["host"] == "localhost:9092"


def test_payloads_are_the_published_schemas() -> None:
    """A generator of code reads the very schema, with its documentation."""
    document = asyncapi(Settings(), "1.2.3")
    payload = document["components"]["messages"]["PurchasePrediction"]["payload"]
    assert payload["schema"] == purchase_prediction().definition
    assert json.loads(json.dumps(document)) == document
