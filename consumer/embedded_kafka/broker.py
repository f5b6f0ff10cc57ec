"""Run Apache Kafka on this machine from its jars, for ``demo`` and the tests.

A cluster of one or more nodes uses loopback ports that stay the same across restarts. Each node can be
stopped, killed, paused and restarted on its own. Every Java process runs under runtime/lifeline.py, which
kills it when this process is gone.

Every node is both broker and controller and has three loopback listeners: CLIENT for clients, INTERNAL for
the other brokers, CONTROLLER for the quorum. A proxy in front of CLIENT therefore never comes between the
nodes.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from consumer.embedded_kafka.jars import BROKER_FOLDER, INSTALL_ADVICE, kafka_jars
from consumer.errors import StartupError, Unavailable
from consumer.kafka.admin import ClusterAdmin
from consumer.runtime import lifeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType


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
        # Assign partitions to a consumer at once, not after 3 s.
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
        # Fewer and smaller files speed up the first use of groups and transactions.
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


_START_TIMEOUT_S: Final = 60.0
"""A start usually takes 3 s; a loaded CI machine may take ten times as long."""
_STOP_TIMEOUT_S: Final = 30.0
_RETRY_S: Final = 0.1


class EmbeddedKafka:
    """Apache Kafka in KRaft mode; every node is broker and controller. Nodes are numbered from 1.

    Entering the context starts all nodes; leaving it kills them. No acknowledged record is lost: Kafka
    recovers its log at the next start with the same folder.

    Args:
        data_dir: A folder with one folder per node: its data, ``server.properties`` and ``kafka.log``.
        brokers: 1, or 3 for replication factor 3 and two in-sync replicas.
        heap_mb: The Java heap of each node.
        properties: Broker properties to add or override.
        listeners: The security protocol of further listeners for clients, by listener name.
        remove_data: Remove the data when the context exits or this process dies.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        brokers: int = 1,
        heap_mb: int = 512,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        remove_data: bool = False,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._nodes = {node.node_id: node for node in choose_nodes(brokers, list(listeners or {}))}
        self._advertised = {number: node.client_address for number, node in self._nodes.items()}
        self._heap_mb = heap_mb
        self._properties = dict(properties or {})
        self._listeners = dict(listeners or {})
        self._remove_data = remove_data
        self._cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._java_pids: dict[int, int] = {}

    @property
    def bootstrap_servers(self) -> str:
        """The advertised client addresses, separated by commas."""
        return ",".join(self._advertised.values())

    @property
    def nodes(self) -> list[int]:
        """The ids of all nodes, running or not."""
        return list(self._nodes)

    def client_address(self, node: int) -> str:
        """Return the ``host:port`` where the node listens for clients, whatever it advertises."""
        return self._nodes[node].client_address

    def listener_address(self, listener: str, node: int = 1) -> str:
        """Return the ``host:port`` of a further listener."""
        return f"{LOOPBACK}:{self._nodes[node].extra_ports[listener]}"

    def pid(self, node: int) -> int:
        """Return the process id of the node's java."""
        return self._java_pids[node]

    def advertise(self, node: int, address: str) -> None:
        """Advertise another address, such as a proxy's, from the node's next start on."""
        self._advertised[node] = address

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start every node and wait until each answers.

        Raises:
            StartupError: Java or the jars are missing, or a node exits or does not answer in time.
        """
        self.restart(*self._nodes)

    def restart(self, *nodes: int) -> None:
        """Start the nodes with their data, stopping those that run first, and wait until they answer.

        If a node alone has no quorum, restart all nodes that are down in one call.
        """
        self.stop(*(node for node in nodes if self.is_running(node)))
        try:
            for node in nodes:
                self._launch(node)
            for node in nodes:
                self._await_answer(node)
        except BaseException:
            self.kill(*nodes)
            raise

    def is_running(self, node: int) -> bool:
        """Return whether the node's Java process exists, paused or not."""
        return node in self._processes and self._processes[node].poll() is None

    def stop(self, *nodes: int) -> None:
        """Shut the nodes down cleanly (SIGTERM); kill one that takes more than 30 s."""
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        self._signal(signal.SIGTERM, nodes)
        for node in nodes:
            try:
                self._await_end(node, max(deadline_s - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                self.kill(node)

    def kill(self, *nodes: int) -> None:
        """Kill the nodes (SIGKILL) and return when they are gone."""
        self._signal(signal.SIGKILL, nodes)
        for node in nodes:
            if node in self._processes:
                self._await_end(node)

    def pause(self, *nodes: int) -> None:
        """Pause the nodes (SIGSTOP). Their connections stay open but silent."""
        self._signal(signal.SIGSTOP, nodes)

    def resume(self, *nodes: int) -> None:
        """Resume paused nodes (SIGCONT)."""
        self._signal(signal.SIGCONT, nodes)

    def close(self) -> None:
        """Kill every node, and remove the data if ``remove_data`` is set."""
        self.kill(*self._nodes)
        if self._remove_data:
            shutil.rmtree(self._data_dir, ignore_errors=True)

    def _signal(self, number: signal.Signals, nodes: tuple[int, ...]) -> None:
        for node in nodes:
            if self.is_running(node):
                os.kill(self._java_pids[node], number)

    def _await_end(self, node: int, timeout_s: float | None = None) -> None:
        process = self._processes[node]
        process.wait(timeout_s)
        if process.stdin is not None:
            process.stdin.close()

    def _node_folder(self, node: int) -> Path:
        return self._data_dir / f"node-{node}"

    def _launch(self, number: int) -> None:
        node, folder = self._nodes[number], self._node_folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        properties = folder / "server.properties"
        text = server_properties(
            node,
            list(self._nodes.values()),
            log_dir=folder / "data",
            advertised=self._advertised[number],
            extra=self._properties,
            protocols=self._listeners,
        )
        properties.write_text(text, encoding="utf-8")
        java = self._java()
        if not (folder / "data" / "meta.properties").exists():
            self._format(java, node, properties)
        heap = f"-Xmx{self._heap_mb}m"
        options = ["--remove", str(folder)] if self._remove_data else []
        command = [sys.executable, "-I", "-S", str(Path(lifeline.__file__)), *options, "--"]
        with (folder / "kafka.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - fixed words and our own paths
                [*command, *java, heap, "kafka.Kafka", str(properties)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C in the terminal must not reach the broker. Its owner stops it last.
                start_new_session=True,
            )
        assert process.stdout is not None  # noqa: S101 - stdout=PIPE above
        with process.stdout as pid_line:
            self._java_pids[number] = int(pid_line.readline() or 0)
        self._processes[number] = process

    @staticmethod
    def _java() -> list[str]:
        home = os.environ.get("JAVA_HOME", "")
        java = shutil.which("java", path=f"{home}/bin" if home else None)
        if java is None:
            raise StartupError(f"there is no Java to run Kafka with: {INSTALL_ADVICE}")
        configuration = BROKER_FOLDER / "log4j2.properties"
        # The serial collector has the smallest footprint and no threads of its own.
        return [
            java,
            "-XX:+UseSerialGC",
            f"-Dlog4j2.configurationFile={configuration}",
            "-cp",
            f"{kafka_jars()}/*",
        ]

    def _format(self, java: list[str], node: Node, properties: Path) -> None:
        # Written with "=" because an id may start with a dash.
        formatting = ["kafka.tools.StorageTool", "format", f"--cluster-id={self._cluster_id}"]
        done = subprocess.run(  # noqa: S603 - fixed words and our own paths
            [*java, "-XX:TieredStopAtLevel=1", *formatting, "--config", str(properties)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise _start_failure(node.node_id, done.stdout + done.stderr)

    def _await_answer(self, node: int) -> None:
        log = self._node_folder(node) / "kafka.log"
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        admin = ClusterAdmin({"bootstrap.servers": self.client_address(node)}, timeout_s=1.0)
        while time.monotonic() < deadline_s and self.is_running(node):
            try:
                if node in admin.cluster().broker_ids:
                    return
            except Unavailable:
                pass
            time.sleep(_RETRY_S)
        raise _start_failure(node, log.read_text(encoding="utf-8", errors="replace"))


def _start_failure(node: int, output: str) -> StartupError:
    """Return an error with the lines of the output that give the reason."""
    if "UnsupportedClassVersionError" in output:
        return StartupError(f"this Java is too old for Kafka, which needs 17: {INSTALL_ADVICE}")
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("\tat ")]
    relevant = [
        line for line in lines if " ERROR " in line or " FATAL " in line or "Exception" in line
    ] or lines
    return StartupError(
        f"Kafka node {node} did not start: {' / '.join(relevant[-3:]) or 'it printed nothing'}"
    )
