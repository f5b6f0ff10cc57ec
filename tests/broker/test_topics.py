"""Topics on a real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consumer.embedded_kafka.broker import free_port
from consumer.errors import StartupError, Unavailable
from consumer.kafka.admin import ClusterAdmin, TopicSpec

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.broker


def test_creating_twice_leaves_the_topic_and_reports_its_partitions(
    kafka: str, topics: Callable[..., str]
) -> None:
    """The second creation changes nothing and tells how many partitions there are."""
    name = topics(partitions=3)
    again = ClusterAdmin({"bootstrap.servers": kafka}).create_topics([TopicSpec(name=name, partitions=5)])
    assert (again[name].created, again[name].partitions) == (False, 3)
    assert ClusterAdmin({"bootstrap.servers": kafka}).require_topics([name])[name].partitions == 3


def test_topic_settings_are_applied_and_described(kafka: str, topics: Callable[..., str]) -> None:
    """A size limit given at creation is the one that is described."""
    name = topics(max_message_bytes="12345")
    assert ClusterAdmin({"bootstrap.servers": kafka}).max_message_bytes(name) == 12345


def test_missing_topics_are_all_named_with_the_command_that_creates_them(kafka: str) -> None:
    """One line names every missing topic and what to do."""
    with pytest.raises(StartupError, match=r"no-a, no-b .*purchase-stream topics create$"):
        ClusterAdmin({"bootstrap.servers": kafka}).require_topics(["no-a", "no-b"])


def test_a_refused_topic_is_a_startup_error_that_says_why(kafka: str) -> None:
    """A setting the broker does not know is reported in its own words, on one line."""
    spec = TopicSpec(name="refused", partitions=1, config={"no.such.setting": "1"})
    with pytest.raises(StartupError, match=r"Create on topic refused fails.*no\.such\.setting") as raised:
        ClusterAdmin({"bootstrap.servers": kafka}).create_topics([spec])
    assert "\n" not in str(raised.value)


def test_an_unreachable_broker_is_unavailable_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing listens: the error names the address, and librdkafka prints nothing of its own."""
    nowhere = f"127.0.0.1:{free_port()}"
    admin = ClusterAdmin({"bootstrap.servers": nowhere}, timeout_s=1)
    for ask in (
        lambda: admin.require_topics(["a"]),
        admin.cluster,
        lambda: admin.create_topics([TopicSpec(name="a", partitions=1)]),
    ):
        with pytest.raises(Unavailable, match=nowhere):
            ask()
    assert capfd.readouterr() == ("", "")


def test_an_unknown_client_property_is_a_startup_error() -> None:
    """A misspelt librdkafka property is named."""
    with pytest.raises(StartupError, match=r"no\.such\.property"):
        ClusterAdmin({"bootstrap.servers": "127.0.0.1:1", "no.such.property": "x"})
