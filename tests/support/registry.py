"""A real schema registry: Apicurio Registry, which speaks the API of Confluent's."""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest

_VERSION: Final = "2.6.13.Final"
"""The last that runs on Java 17."""
_ARTIFACT: Final = f"io.apicurio:apicurio-registry-app:{_VERSION}:tar.gz:all"
_CACHE: Final = Path.home() / ".cache" / "purchase-stream" / f"apicurio-{_VERSION}"
_READY_S: Final = 120


class Apicurio:
    """A running registry.

    Args:
        url: The URL of its Confluent-compatible API.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def register(self, subject: str, schema: Any, references: list[dict[str, Any]] | None = None) -> int:
        """Register a schema and return its id."""
        body = {"schema": json.dumps(schema), "schemaType": "AVRO", "references": references or []}
        request = urllib.request.Request(  # noqa: S310 - our own registry
            f"{self.url}/subjects/{subject}/versions",
            json.dumps(body).encode(),
            {"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own registry
            return int(json.load(answer)["id"])


def _unpacked() -> Path:
    """Return the folder of the registry; download it once. Skip the test where that is impossible."""
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None:
        pytest.skip("Apicurio Registry needs Java 17")
    _CACHE.parent.mkdir(parents=True, exist_ok=True)
    with (_CACHE.parent / "apicurio.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _CACHE.is_dir():
            return _CACHE
        if maven is None:
            pytest.skip("Apicurio Registry is not cached, and there is no Maven to download it")
        with tempfile.TemporaryDirectory(dir=_CACHE.parent) as folder:
            copied = subprocess.run(  # noqa: S603 - fixed words
                [
                    maven,
                    "--quiet",
                    "--batch-mode",
                    "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy",
                    f"-Dartifact={_ARTIFACT}",
                    f"-DoutputDirectory={folder}",
                ],
                capture_output=True,
                check=False,
            )
            archives = list(Path(folder).glob("*.tar.gz"))
            if copied.returncode != 0 or not archives:
                pytest.skip("Maven could not download Apicurio Registry")
            with tarfile.open(archives[0]) as archive:
                archive.extractall(Path(folder) / "unpacked", filter="data")
            (Path(folder) / "unpacked").rename(_CACHE)
    return _CACHE


@contextmanager
def apicurio(log: Path) -> Iterator[Apicurio]:
    """Run a registry with an empty store in memory.

    Args:
        log: Where its output goes.
    """
    folder = _unpacked()
    (runner,) = folder.rglob("apicurio-registry-app-*-runner.jar")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        cast("str", shutil.which("java")),
        "-Xmx400m",
        "-XX:TieredStopAtLevel=1",
        "-Dquarkus.http.host=127.0.0.1",
        f"-Dquarkus.http.port={port}",
        "-jar",
        str(runner),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - fixed words and our own paths
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
            _await(f"{url}/subjects", process, log)
            yield Apicurio(url)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + _READY_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            pytest.fail(f"the registry ended: {log.read_text()[-1000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own registry
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"the registry is not ready: {log.read_text()[-1000:]}")
