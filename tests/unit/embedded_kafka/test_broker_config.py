"""What an embedded broker is told, and where its jars come from."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from consumer.embedded_kafka import jars as kafka_jars
from consumer.embedded_kafka.broker import LOOPBACK, choose_nodes, free_port, server_properties
from consumer.errors import StartupError


def _properties(brokers: int, **overrides: str) -> list[dict[str, str]]:
    nodes = choose_nodes(brokers)
    texts = [
        server_properties(node, nodes, log_dir=Path("/data"), advertised=node.client_address, extra=overrides)
        for node in nodes
    ]
    return [dict(line.split("=", 1) for line in text.splitlines()) for text in texts]


def test_one_broker_needs_one_replica_of_everything() -> None:
    """A lone broker could never create its internal topics with the default of three replicas."""
    (alone,) = _properties(1)
    factors = {value for key, value in alone.items() if key.endswith("replication.factor")}
    assert factors == {"1"}
    assert alone["transaction.state.log.min.isr"] == alone["min.insync.replicas"] == "1"


def test_three_brokers_share_one_quorum_and_no_port() -> None:
    """All nodes name the same voters; nine listeners have nine ports; two replicas must be in sync."""
    cluster = _properties(3)
    assert len({node["controller.quorum.voters"] for node in cluster}) == 1
    ports = [listener.rsplit(":", 1)[1] for node in cluster for listener in node["listeners"].split(",")]
    assert len(set(ports)) == 9
    assert [node["node.id"] for node in cluster] == ["1", "2", "3"]
    assert {node["min.insync.replicas"] for node in cluster} == {"2"}
    assert {node["offsets.topic.replication.factor"] for node in cluster} == {"3"}


def test_only_the_client_listener_is_advertised_elsewhere() -> None:
    """A proxy's address reaches clients; fellow brokers still connect directly."""
    nodes = choose_nodes(1)
    text = server_properties(nodes[0], nodes, log_dir=Path("/data"), advertised="127.0.0.1:1234", extra={})
    assert (
        f"advertised.listeners=CLIENT://127.0.0.1:1234,INTERNAL://{LOOPBACK}:{nodes[0].internal_port}\n"
        in text
    )
    assert f"listeners=CLIENT://{nodes[0].client_address}," in text


def test_extra_properties_win() -> None:
    """A test that needs another broker setting gets it."""
    (node,) = _properties(1, **{"message.max.bytes": "2000", "num.io.threads": "1"})
    assert (node["message.max.bytes"], node["num.io.threads"]) == ("2000", "1")


def test_a_free_port_can_be_bound_and_is_not_ephemeral() -> None:
    """The port is usable, and out of reach of outgoing connections."""
    port = free_port()
    with socket.socket() as listener:
        listener.bind((LOOPBACK, port))
    assert port < 32_768


def test_jars_are_cached_where_xdg_says() -> None:
    """The folder is named after the pinned version, below XDG_CACHE_HOME if that is absolute."""
    version = kafka_jars.kafka_version()
    assert kafka_jars.cache_folder({"XDG_CACHE_HOME": "/c"}) == Path(f"/c/purchase-stream/kafka-{version}")
    at_home = Path.home() / ".cache" / "purchase-stream" / f"kafka-{version}"
    assert kafka_jars.cache_folder({}) == kafka_jars.cache_folder({"XDG_CACHE_HOME": "relative"}) == at_home


def test_cached_jars_need_no_maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the folder in place nothing on the PATH is looked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    folder = kafka_jars.cache_folder({"XDG_CACHE_HOME": str(tmp_path)})
    folder.mkdir(parents=True)
    assert kafka_jars.kafka_jars() == folder


def test_without_jars_and_maven_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither cache nor Maven: the error names the remedy and nothing is left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StartupError, match=r"install Java 17 and Maven.*or start Docker") as raised:
        kafka_jars.kafka_jars()
    assert "\n" not in str(raised.value)
    assert not kafka_jars.cache_folder({"XDG_CACHE_HOME": str(tmp_path)}).exists()


def test_a_failed_download_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maven fails half-way: its reason is passed on, and the next run starts from nothing."""
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text(
        '#!/bin/sh\nfor a; do case $a in -DoutputDirectory=*) /bin/mkdir -p "${a#*=}";; esac; done\n'
        'echo "[ERROR] Could not resolve kafka"\nexit 1\n'
    )
    maven.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(maven.parent))
    with pytest.raises(StartupError, match="Could not resolve kafka"):
        kafka_jars.kafka_jars()
    assert [path.name for path in (tmp_path / "cache" / "purchase-stream").iterdir()] == ["lock"]
