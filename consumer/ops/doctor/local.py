"""Looks at what is on this machine: settings, the model, the audit log, ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from consumer.errors import StartupError, Unavailable
from consumer.kafka import client_config
from consumer.kafka.admin import TopicProbe
from consumer.monitor.audit.checkpoint import Checkpoint, read_checkpoint
from consumer.ops.doctor.check import OUTAGE, Check, fail, ok, warn
from consumer.settings import masked
from model_store.errors import ModelStoreError
from model_store.store import ModelStore

if TYPE_CHECKING:
    from consumer.settings import Settings

_HTTP_TIMEOUT_S: Final = 2.0
_MIB: Final = 1024 * 1024
_DISK_FAIL_BYTES: Final = 64 * _MIB
_DISK_WARN_BYTES: Final = 1024 * _MIB
_AGAINST_THE_PROMISE: Final = {
    "isolation.level": ("read_uncommitted",),
    "enable.auto.commit": ("true", "True", "1"),
    "enable.idempotence": ("false", "False", "0"),
    "acks": ("0", "1"),
    "auto.offset.reset": ("earliest", "latest", "smallest", "largest", "beginning", "end"),
}
"""Client properties that override what exactly once rests on."""


def examine_settings(settings: Settings) -> Iterator[Check]:
    """Yield what the settings say, and what in them breaks a promise."""
    kafka = settings.kafka
    for key, wrong in _AGAINST_THE_PROMISE.items():
        if str(kafka.client.get(key, "")) in wrong:
            what = f"kafka.client sets {key} to {kafka.client[key]}, which costs the guarantees"
            yield fail("settings", what, "leave it out")
    shown = masked(settings)["kafka"]["client"]
    client = f", client {orjson.dumps(shown).decode()}" if shown else ""
    yield ok("settings", f"group {kafka.group_id} on {kafka.bootstrap_servers}, {kafka.delivery}{client}")


def examine_model(settings: Settings) -> Iterator[Check]:
    """Load the champion as a scorer would, its self-test included."""
    where = settings.model_store
    try:
        model = ModelStore(where.path, where.model).load("champion")
    except ModelStoreError as error:
        yield fail("model", str(error))
        return
    made = model.manifest.created_at
    yield ok("model", f"champion {model.version} of {made:%Y-%m-%d} loads, and its self-test passes")


def examine_registry(settings: Settings) -> Iterator[Check]:
    """Ask the schema registry, if one is set."""
    url = settings.schema_registry.url
    if url is None:
        yield ok("schema registry", "none is set: Avro single-object encoding")
        return
    try:
        from consumer.kafka.schema_registry import RegistrySchemas  # noqa: PLC0415 - an extra

        RegistrySchemas(url, settings.schema_registry.client).by_id(1)
    except ImportError:
        yield fail(
            "schema registry", "its client is not installed", "pip install 'purchase-stream[registry]'"
        )
    except StartupError as error:
        yield fail("schema registry", str(error))
    except Unavailable as error:
        yield fail("schema registry", str(error), "scorers wait until it is back", OUTAGE)
    else:
        yield ok("schema registry", "it answers")


def examine_audit_log(settings: Settings) -> Iterator[Check]:
    """Look at the audit log's folder, the disk, and the checkpoint beside the log."""
    path = settings.audit.path
    folder = path.parent
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        what = f"{existing} cannot be written to: {error.strerror}"
        yield fail("audit log", what, "correct its rights, or set audit.path")
        return
    yield judge_disk(existing, shutil.disk_usage(existing).free, settings.audit.rotate_bytes)
    try:
        checkpoint = read_checkpoint(path.with_name(path.name + ".checkpoint"))
    except (StartupError, OSError) as error:
        yield fail("checkpoint", str(error))
        return
    if checkpoint is None:
        if path.exists() and path.stat().st_size:
            yield fail(
                "checkpoint", f"{path} has lines and no checkpoint", "restore it, or set the log aside"
            )
        else:
            yield ok("checkpoint", "there is no audit log yet; the monitor begins one")
        return
    yield from _examine_checkpoint(settings, path, checkpoint)


def judge_disk(folder: Path, free_bytes: int, rotate_bytes: int) -> Check:
    """Say whether there is room for the log."""
    told = f"{folder}: {free_bytes / _MIB:.0f} MiB free"
    if free_bytes < _DISK_FAIL_BYTES:
        return fail("audit log", told, "make room: the monitor waits while the disk is full", OUTAGE)
    if free_bytes < max(_DISK_WARN_BYTES, 2 * rotate_bytes):
        return warn("audit log", told, "make room, or move closed segments away")
    return ok("audit log", told)


def _examine_checkpoint(settings: Settings, path: Path, checkpoint: Checkpoint) -> Iterator[Check]:
    length = path.stat().st_size if path.exists() else 0
    if length < checkpoint.length_bytes:
        what = f"{path} has {length} bytes, and {checkpoint.length_bytes} were written"
        yield fail("checkpoint", what, "somebody cut it; restore it")
        return
    probe = TopicProbe(client_config.common(settings.kafka), settings.topics.predictions)
    try:
        identity, parts = probe.identity(), probe.facts().partitions
        firsts, ends = probe.first_offsets(parts), probe.end_offsets(parts)
    except (Unavailable, StartupError):
        yield warn("checkpoint", "it fits the log; the topic cannot be asked whether it fits that, too")
        return
    if identity != checkpoint.source:
        yield fail(
            "checkpoint",
            f"{path} is the log of another topic: {checkpoint.source}",
            "set it aside, or audit.path",
        )
        return
    for part, at in checkpoint.next_offsets.items():
        if not firsts.get(part, 0) <= at <= ends.get(part, 0):
            has = f"{firsts.get(part)} to {ends.get(part)}"
            what = f"the log would go on at {at} of partition {part}, which has {has}"
            yield fail("checkpoint", what, "predictions are lost to it; set the log aside to begin anew")
            return
    behind = sum(ends[part] - checkpoint.next_offsets.get(part, 0) for part in parts)
    yield ok("checkpoint", f"it fits the log and the topic, whose end is {behind} offsets further on")


def examine_ports(settings: Settings) -> Iterator[Check]:
    """Look whether each role's port is free, or answers as the role would."""
    http = settings.http
    for role, port in (
        ("score", http.score_port), ("monitor", http.monitor_port), ("serve", http.serve_port),
    ):  # fmt: skip
        yield examine_port(role, http.host, port)


def examine_port(role: str, host: str, port: int) -> Check:
    """Look at one role's port."""
    name, where = "ports", f"{role} {host}:{port}"
    if port == 0:
        return ok(name, f"{role}: any free port")
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is looked for, not bound
    with contextlib.suppress(OSError), socket.create_connection((reach, port), _HTTP_TIMEOUT_S):
        return _answering(role, where, f"[{reach}]:{port}" if ":" in reach else f"{reach}:{port}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        return fail(
            name, f"{where} cannot be listened on: {os.strerror(error.errno or 0)}", f"set http.{role}_port"
        )
    return ok(name, f"{where} is free: no {role} runs here")


def _answering(role: str, where: str, address: str) -> Check:
    """Tell what listens there."""
    try:
        with urllib.request.urlopen(f"http://{address}/health/ready", timeout=_HTTP_TIMEOUT_S) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except OSError:
        body = b""
    try:
        told = orjson.loads(body)
        status = told["status"]
        reasons = "; ".join(f"{one['condition']}: {one['reason']}" for one in told["conditions"])
    except (ValueError, KeyError, TypeError):
        return fail("ports", f"{where} is taken by another program", f"set http.{role}_port")
    if status == "ok":
        return ok("ports", f"{where} answers: ready")
    return warn("ports", f"{where} answers: not ready: {reasons}")
