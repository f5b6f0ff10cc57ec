"""Ports and ``server.properties`` of an embedded broker. Pure except for ``free_port``.

Every node is both broker and controller and has three loopback listeners: CLIENT for clients, INTERNAL for
the other brokers, CONTROLLER for the quorum. A proxy in front of CLIENT therefore never comes between the
nodes.
"""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LOOPBACK: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)
"""Below the ephemeral ports of Linux (32768) and macOS (49152). While a node is down, no outgoing connection
can take its port, and no client's retry can connect to itself."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A broker's id and ports, which stay the same across restarts."""

    node_id: int
    client_port: int
    internal_port: int
    controller_port: int
    extra_ports: Mapping[str, int] = field(default_factory=dict)
    """The ports of further listeners, by listener name."""

    @property
    def client_address(self) -> str:
        """The address where the broker listens for clients."""
        return f"{LOOPBACK}:{self.client_port}"


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port


def choose_nodes(brokers: int, listeners: Sequence[str] = ()) -> list[Node]:
    """Return nodes, numbered from 1, with free ports for the three listeners and for further ones."""
    ports: set[int] = set()
    while len(ports) < (3 + len(listeners)) * brokers:
        ports.add(free_port())
    return [
        Node(
            node_id=n,
            client_port=ports.pop(),
            internal_port=ports.pop(),
            controller_port=ports.pop(),
            extra_ports={name: ports.pop() for name in listeners},
        )
        for n in range(1, brokers + 1)
    ]


def server_properties(
    node: Node,
    nodes: Sequence[Node],
    *,
    log_dir: Path,
    advertised: str,
    extra: Mapping[str, str],
    protocols: Mapping[str, str] | None = None,
) -> str:
    """Return the node's ``server.properties``.

    Args:
        node: The node.
        nodes: All nodes of the cluster, including this one.
        log_dir: The folder for the topics' data.
        advertised: The ``host:port`` that clients connect to.
        extra: Properties to add or override.
        protocols: The security protocol of each further listener, by listener name.
    """
    protocols = protocols or {}
    further = "".join(f",{name}://{LOOPBACK}:{node.extra_ports[name]}" for name in protocols)
    mapped = "".join(f",{name}:{protocol}" for name, protocol in protocols.items())
    replicas = str(min(3, len(nodes)))
    in_sync = str(min(2, len(nodes)))
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(node.node_id),
        "controller.quorum.voters": ",".join(f"{n.node_id}@{LOOPBACK}:{n.controller_port}" for n in nodes),
        "listeners": (
            f"CLIENT://{node.client_address},INTERNAL://{LOOPBACK}:{node.internal_port},"
            f"CONTROLLER://{LOOPBACK}:{node.controller_port}{further}"
        ),
        "advertised.listeners": f"CLIENT://{advertised},INTERNAL://{LOOPBACK}:{node.internal_port}{further}",
        "listener.security.protocol.map": (
            f"CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT{mapped}"
        ),
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(log_dir),
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # Assign partitions to a consumer at once instead of after 3 s.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # With the protocol of KIP-848 the broker sets these times. Its default session is 45 s.
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.session.timeout.ms": "6000",
        "group.consumer.min.heartbeat.interval.ms": "500",
        "group.consumer.heartbeat.interval.ms": "1000",
        # A killed broker cannot restart before its old registration expires (9 s by default).
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "400",
        # Fewer and smaller files make the first use of groups and transactions quick.
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.num.partitions": "5",
        "log.segment.bytes": str(128 * 1024 * 1024),
        "log.index.size.max.bytes": str(1024 * 1024),
        # The default of 128 MiB is a quarter of the heap.
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
        "num.network.threads": "2",
        "num.io.threads": "4",
        **extra,
    }
    return "".join(f"{key}={value}\n" for key, value in properties.items())
