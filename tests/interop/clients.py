"""Builds the programs in other languages and runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas.repository import FOLDER, purchase_prediction

HERE: Final = Path(__file__).parent
BUILD_TIMEOUT_S: Final = 900
RUN_TIMEOUT_S: Final = 120


@dataclass(frozen=True)
class Client:
    """A program in another language.

    Attributes:
        name: What its events' ids start with.
        libraries: Of Kafka and of Avro, as the table in the docs has them.
        folder: Its sources, below this one.
        needs: The programs that build and run it.
        build: The command that builds it, in its folder.
        run: The command that runs it, in its folder.
    """

    name: str
    libraries: str
    folder: str
    needs: tuple[str, ...]
    build: tuple[str, ...]
    run: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """The programs that this machine lacks."""
        return [program for program in self.needs if shutil.which(program) is None]

    def _call(self, *command: str, timeout_s: float) -> str:
        fingerprint = f"{int.from_bytes(purchase_prediction().fingerprint, 'little'):016x}"
        environment = os.environ | {"SCHEMAS": str(FOLDER), "PREDICTION_FINGERPRINT": fingerprint}
        done = subprocess.run(  # noqa: S603 - every word is ours
            command,
            cwd=HERE / self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def compile(self) -> None:
        """Build the program; what is built already is built again only where sources changed."""
        self._call(*self.build, timeout_s=BUILD_TIMEOUT_S)

    def send_events(self, servers: str, topic: str, count: int, codec: str, mode: str) -> None:
        """Send events as a platform does."""
        self._call(*self.run, "platform", servers, topic, str(count), codec, mode, timeout_s=RUN_TIMEOUT_S)

    def read_predictions(self, servers: str, topic: str, count: int) -> list[dict[str, Any]]:
        """Read committed predictions as a CRM does."""
        lines = self._call(*self.run, "crm", servers, topic, str(count), timeout_s=RUN_TIMEOUT_S)
        return [json.loads(line) for line in lines.splitlines()]


_GO = ("go", "build", "-o", "target/interop", ".")

CLIENTS: Final = (
    Client(
        "java",
        "kafka-clients 4.1, Apache Avro 1.12",
        "java",
        ("java", "mvn"),
        ("mvn", "-q", "-B", "package"),
        ("java", "-cp", "target/interop-1.jar:target/dependency/*", "Interop"),
    ),
    Client(
        "node",
        "kafkajs 2.2, avsc 5.7",
        "node",
        ("node", "npm"),
        ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock"),
        ("node", "interop.js"),
    ),
    Client("goavro", "franz-go 1.22, goavro 2.15", "go", ("go",), _GO, ("target/interop", "goavro")),
    Client("hamba", "franz-go 1.22, hamba/avro 2.31", "go", ("go",), _GO, ("target/interop", "hamba")),
    Client(
        "rust",
        "rdkafka 0.39, apache-avro 0.22",
        "rust",
        ("cargo", "cmake"),
        ("cargo", "build", "--quiet", "--release"),
        ("target/release/interop",),
    ),
)
