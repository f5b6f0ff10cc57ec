"""The embedded broker: a real Kafka that keeps its data and never outlives its owner."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consumer.embedded_kafka.available import BOOTSTRAP_VARIABLE, available_kafka
from consumer.embedded_kafka.broker import EmbeddedKafka
from consumer.errors import StartupError, Unavailable
from consumer.kafka.admin import ClusterAdmin, TopicSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker of this module's own, to be killed at will; running again after every test."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka"), heap_mb=256) as kafka:
        yield kafka


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_killed_broker_comes_back_with_its_data_on_the_same_address(embedded: EmbeddedKafka) -> None:
    """SIGKILL loses no topic, and clients need no new address."""
    client_config = {"bootstrap.servers": embedded.bootstrap_servers}
    ClusterAdmin(client_config).create_topics([TopicSpec(name="kept", partitions=2)])
    first_pid = embedded.pid(1)
    embedded.kill(1)
    assert not embedded.is_running(1)
    assert not _is_alive(first_pid)
    embedded.restart(1)
    assert embedded.bootstrap_servers == client_config["bootstrap.servers"]
    assert ClusterAdmin(client_config).describe_topics(["kept"])["kept"].partitions == 2


def test_a_clean_stop_leaves_a_broker_that_starts_again(embedded: EmbeddedKafka) -> None:
    """Stop is not kill: the broker says that it shut down, and restart brings it back."""
    embedded.stop(1)
    assert not embedded.is_running(1)
    embedded.restart(1)
    assert ClusterAdmin({"bootstrap.servers": embedded.bootstrap_servers}).cluster().broker_ids == {1}


def test_a_paused_broker_is_silent_until_resumed(embedded: EmbeddedKafka) -> None:
    """SIGSTOP makes requests time out; SIGCONT brings the answers back."""
    client_config = {"bootstrap.servers": embedded.bootstrap_servers}
    embedded.pause(1)
    try:
        with pytest.raises(Unavailable):
            ClusterAdmin(client_config, timeout_s=1).cluster()
    finally:
        embedded.resume(1)
    assert ClusterAdmin(client_config, timeout_s=15).cluster().broker_ids == {1}


@pytest.mark.parametrize("state", ["running", "paused"])
def test_java_and_data_are_gone_when_the_owner_is_killed(tmp_path: Path, state: str) -> None:
    """SIGKILL of the owner ends java within 2 s and removes the data, even of a paused broker."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from consumer.embedded_kafka.broker import EmbeddedKafka\n"
        f"kafka = EmbeddedKafka(Path({str(tmp_path / 'data')!r}), heap_mb=256, remove_data=True)\n"
        f"kafka.start(); {state!r} == 'paused' and kafka.pause(1)\n"
        "print(kafka.pid(1), flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:  # noqa: S603 - the script above
        assert owner.stdout is not None
        java_pid = int(owner.stdout.readline())
        assert _is_alive(java_pid)
        owner.send_signal(signal.SIGKILL)
    deadline_s = time.monotonic() + 2
    while (_is_alive(java_pid) or (tmp_path / "data").exists()) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not _is_alive(java_pid)
    assert not (tmp_path / "data").exists()


def test_leaving_the_context_ends_java_and_removes_the_data(tmp_path: Path) -> None:
    """Nothing is left of a broker whose data was to be removed."""
    with EmbeddedKafka(tmp_path / "data", heap_mb=256, remove_data=True) as kafka:
        java_pid = kafka.pid(1)
    assert not _is_alive(java_pid)
    assert not (tmp_path / "data").exists()


def test_a_broker_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    """A refused setting: the error quotes Kafka, and neither java nor data stays behind."""
    refused = {"num.io.threads": "none"}
    kafka = EmbeddedKafka(tmp_path / "data", heap_mb=256, properties=refused, remove_data=True)
    with pytest.raises(StartupError, match=r"num\.io\.threads") as raised, kafka:
        pass
    assert "\n" not in str(raised.value)
    assert not kafka.is_running(1)
    assert not (tmp_path / "data").exists()


@pytest.mark.faults
def test_three_brokers_form_a_cluster_that_survives_one(tmp_path: Path) -> None:
    """Three nodes replicate three times; with one killed the other two go on, and it can rejoin."""
    with EmbeddedKafka(tmp_path, brokers=3, heap_mb=192) as kafka:
        client_config = {"bootstrap.servers": kafka.bootstrap_servers}
        ClusterAdmin(client_config, timeout_s=30).create_topics([TopicSpec(name="shared", partitions=3)])
        assert ClusterAdmin(client_config).describe_topics(["shared"])["shared"].replicas == 3
        kafka.kill(1)
        two = {"bootstrap.servers": ",".join(kafka.client_address(node) for node in (2, 3))}
        deadline_s = time.monotonic() + 20
        while 1 in ClusterAdmin(two).cluster().broker_ids and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert ClusterAdmin(two).cluster().broker_ids == {2, 3}
        kafka.restart(1)
        assert ClusterAdmin(two).cluster().broker_ids == {1, 2, 3}


def test_a_configured_kafka_is_used_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable wins over Docker and the jars."""
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, "broker.example:9092")
    monkeypatch.setenv("PATH", "")
    with available_kafka() as servers:
        assert servers == "broker.example:9092"
