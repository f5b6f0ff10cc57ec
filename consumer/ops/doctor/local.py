"""Check what this machine provides: settings, model, schema registry, ports and the audit log."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson

from consumer.errors import StartupError, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import ClusterAdmin
from consumer.kafka.schema_registry import writer_schemas
from consumer.monitor.audit.log import Checkpoint, audit_log_lines, read_checkpoint
from consumer.ops.doctor.check import OUTAGE, Check, fail, guarded, ok, warn
from consumer.settings import Settings, masked

_HTTP_TIMEOUT_S: Final = 2.0
_UNSAFE_CLIENT_SETTINGS: Final = {
    "isolation.level": ("read_uncommitted",),
    "enable.auto.commit": ("true", "True", "1"),
    "enable.idempotence": ("false", "False", "0"),
    "acks": ("0", "1"),
    "auto.offset.reset": ("earliest", "latest", "smallest", "largest", "beginning", "end"),
}
"""Values of client properties that break exactly-once delivery."""

_CONNECT_TO: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address to look up, not to bind
"""The address at which a socket bound to all interfaces is reached."""


def examine_settings(settings: Settings) -> Iterator[Check]:
    """Yield the effective Kafka settings, and each property that breaks a guarantee."""
    kafka = settings.kafka
    for key, unsafe in _UNSAFE_CLIENT_SETTINGS.items():
        if str(kafka.client.get(key, "")) in unsafe:
            what = f"kafka.client sets {key} to {kafka.client[key]}, which breaks the guarantees"
            yield fail("settings", what, "remove it")
    shown = masked(settings)["kafka"]["client"]
    client = f", client {orjson.dumps(shown).decode()}" if shown else ""
    yield ok("settings", f"group {kafka.group_id} on {kafka.bootstrap_servers}, {kafka.delivery}{client}")


def examine_model(settings: Settings) -> Iterator[Check]:
    """Load the champion as a scorer would, including its self-test."""
    where = settings.model_store
    model = where.open().load("champion")
    created = model.manifest.created_at
    yield ok("model", f"champion {model.version} of {created:%Y-%m-%d} loads, and its self-test passes")


def examine_registry(settings: Settings) -> Iterator[Check]:
    """Ask the schema registry for an id, if a registry is set."""
    if settings.schema_registry.url is None:
        yield ok("schema registry", "none is set: Avro single-object encoding")
        return
    try:
        writer_schemas(settings).by_id(1)
    except Unavailable as error:
        yield fail("schema registry", str(error), "scorers wait until it is back", OUTAGE)
    else:
        yield ok("schema registry", "it answers")


def examine_ports(settings: Settings) -> Iterator[Check]:
    """Check for each role that its port is free or that the role answers on it."""
    http = settings.http
    ports = {"score": http.score_port, "monitor": http.monitor_port, "serve": http.serve_port}
    for role, port in ports.items():
        yield examine_port(role, http.host, port)


def examine_port(role: str, host: str, port: int) -> Check:
    """Check that a role's port is free or that the role answers on it."""
    if port == 0:
        return ok("ports", f"{role}: any free port")
    where = f"{role} {host}:{port}"
    target = _CONNECT_TO.get(host, host)
    with contextlib.suppress(OSError), socket.create_connection((target, port), _HTTP_TIMEOUT_S):
        return _check_listener(role, where, f"[{target}]:{port}" if ":" in target else f"{target}:{port}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        return fail("ports", f"{where} cannot be listened on: {reason}", f"set http.{role}_port")
    return ok("ports", f"{where} is free: no {role} runs here")


def _check_listener(role: str, where: str, address: str) -> Check:
    """Ask the program that listens on a port for its readiness."""
    try:
        with urllib.request.urlopen(f"http://{address}/health/ready", timeout=_HTTP_TIMEOUT_S) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except OSError:
        body = b""
    try:
        readiness = orjson.loads(body)
        status = readiness["status"]
        reasons = "; ".join(f"{item['condition']}: {item['reason']}" for item in readiness["conditions"])
        # The monitor also answers with the health of the stream.
        causes = " ".join(cause["text"] for cause in readiness.get("stream", {}).get("causes", []))
    except (ValueError, KeyError, TypeError):
        return fail("ports", f"{where} is taken by another program", f"set http.{role}_port")
    if status == "not ready":
        return warn("ports", f"{where} answers: not ready: {reasons}")
    if causes:
        return warn("ports", f"{where} answers: {readiness['stream']['headline']}: {causes}")
    return ok("ports", f"{where} answers: ready")


_MIB: Final = 1024 * 1024
_DISK_FAIL_BYTES: Final = 64 * _MIB
_DISK_WARN_BYTES: Final = 1024 * _MIB
_SCAN_LIMIT_S: Final = 10.0


def examine_audit_log(settings: Settings) -> Iterator[Check]:
    """Check the audit log's folder, its disk, and the checkpoint beside the log."""
    path = settings.audit.path
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"{folder} cannot be written to: {error.strerror}"
        yield fail("audit log", what, "correct its permissions, or set audit.path")
        return
    yield judge_disk(folder, shutil.disk_usage(folder).free, settings.audit.rotate_bytes)
    yield from guarded("checkpoint", _check_checkpoint(settings, path))
    if path.exists():
        yield from guarded("audit log", _check_lines(path))


def judge_disk(folder: Path, free_bytes: int, rotate_bytes: int) -> Check:
    """Judge the free space on the log's disk."""
    what = f"{folder}: {free_bytes / _MIB:.0f} MiB free"
    if free_bytes < _DISK_FAIL_BYTES:
        return fail("audit log", what, "make room: the monitor waits while the disk is full", OUTAGE)
    if free_bytes < max(_DISK_WARN_BYTES, 2 * rotate_bytes):
        return warn("audit log", what, "make room, or move closed segments away")
    return ok("audit log", what)


def _check_lines(path: Path) -> Iterator[Check]:
    """Search for damaged lines, for a limited time."""
    deadline_s, lines_read, damaged = time.monotonic() + _SCAN_LIMIT_S, 0, list[str]()
    for name, number, lines in audit_log_lines(path):
        damaged += [f"{name}, line {number + i}" for i, line in enumerate(lines) if not _is_audit_line(line)]
        lines_read += len(lines)
        if time.monotonic() > deadline_s:
            break
    if damaged:
        what = f"{len(damaged)} damaged lines among {lines_read}, the first: {damaged[0]}"
        advice = "find them with audit verify; audit rebuild writes a new log from the topic"
        yield fail("audit log", what, advice)
    else:
        yield ok("audit log", f"no damaged lines among the first {lines_read}")


def _is_audit_line(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line)["output"]["offset"], int)
    except (ValueError, KeyError, TypeError):
        return False


def _check_checkpoint(settings: Settings, path: Path) -> Iterator[Check]:
    """Check that the checkpoint is readable, and fits the log and the predictions topic."""
    checkpoint = read_checkpoint(path.with_name(path.name + ".checkpoint"))
    length_bytes = path.stat().st_size if path.exists() else 0
    if checkpoint is None and length_bytes == 0:
        yield ok("checkpoint", "there is no audit log yet; the monitor starts one")
    elif checkpoint is None:
        yield fail("checkpoint", f"{path} has lines and no checkpoint", "restore it, or move the log away")
    elif length_bytes < checkpoint.length_bytes:
        what = f"{path} has {length_bytes} bytes, but {checkpoint.length_bytes} were written"
        yield fail("checkpoint", what, "it was truncated; restore it")
    else:
        try:
            yield _check_position(settings, path, checkpoint)
        except (Unavailable, StartupError) as error:
            yield warn("checkpoint", f"it fits the log; whether it fits the topic is unknown: {error}")


def _check_position(settings: Settings, path: Path, checkpoint: Checkpoint) -> Check:
    """Check that the predictions topic still has the offsets where the log continues.

    Raises:
        StartupError: There is no such topic.
        Unavailable: The broker is away.
    """
    topic, admin = settings.topics.predictions, ClusterAdmin(client_config.common(settings.kafka))
    identity, partitions = admin.topic_identity(topic), range(admin.describe_topic(topic).partitions)
    starts, stops = admin.first_offsets(topic, partitions), admin.end_offsets(topic, partitions)
    if identity != checkpoint.source:
        what = f"{path} is the log of another topic: {checkpoint.source}"
        return fail("checkpoint", what, "move the log away, or set audit.path")
    for partition, next_offset in checkpoint.next_offsets.items():
        if not starts.get(partition, 0) <= next_offset <= stops.get(partition, 0):
            kept = f"{starts.get(partition)} to {stops.get(partition)}"
            what = f"the log continues at offset {next_offset} of partition {partition}, which has {kept}"
            return fail("checkpoint", what, "the log misses predictions; move it away to start a new one")
    behind = sum(stops[partition] - checkpoint.next_offsets.get(partition, 0) for partition in partitions)
    return ok("checkpoint", f"it fits the log and the topic; {behind} offsets are not logged yet")
