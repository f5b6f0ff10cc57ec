"""The admin client against a broker that fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from consumer.embedded_kafka.broker import EmbeddedKafka
from consumer.errors import Unavailable
from consumer.kafka.admin import ClusterAdmin

pytestmark = pytest.mark.broker


def wait_for_group(admin: ClusterAdmin) -> None:
    """Wait until the group's coordinator answers."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            admin.describe_group("scorers")
        except Unavailable:
            assert time.monotonic() < deadline_s, "the coordinator never answers"
        else:
            return


def test_a_restarted_coordinator_is_found_again(tmp_path: Path) -> None:
    """Questions about a group are answered again after its coordinator was killed and restarted."""
    with EmbeddedKafka(tmp_path / "kafka", remove_data=True) as kafka:
        admin = ClusterAdmin({"bootstrap.servers": kafka.bootstrap_servers}, timeout_s=2.0)
        wait_for_group(admin)
        kafka.kill(1)
        with pytest.raises(Unavailable, match="no Kafka answers"):
            admin.describe_group("scorers")
        kafka.restart(1)
        wait_for_group(admin)
        assert admin.committed_offsets("scorers", "events", [0]) == {}
