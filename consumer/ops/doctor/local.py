"""Check what this machine provides: settings, the model, the schema registry's answer, ports."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Final

import orjson

from consumer.errors import Unavailable
from consumer.kafka.writer_schemas import writer_schemas
from consumer.ops.doctor.check import OUTAGE, Check, fail, ok, warn
from consumer.settings import Settings, masked
from model_store.store import ModelStore

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
"""The address that reaches a socket bound to all interfaces."""


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
    model = ModelStore(where.path, where.model).load("champion")
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
        # The monitor also answers with its verdict on the stream.
        causes = " ".join(cause["text"] for cause in readiness.get("stream", {}).get("causes", []))
    except (ValueError, KeyError, TypeError):
        return fail("ports", f"{where} is taken by another program", f"set http.{role}_port")
    if status == "not ready":
        return warn("ports", f"{where} answers: not ready: {reasons}")
    if causes:
        return warn("ports", f"{where} answers: {readiness['stream']['headline']}: {causes}")
    return ok("ports", f"{where} answers: ready")
