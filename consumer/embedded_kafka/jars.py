"""Download Apache Kafka's jars once with Maven and keep them in a cache folder.

The download goes to a temporary folder that is renamed at the end, so an interrupted download never looks
complete. A file lock makes a second process wait instead of downloading too.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import consumer
from consumer.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

BROKER_FOLDER: Final = Path(consumer.__file__).parent.parent / "deploy" / "embedded-broker"
"""Next to the package, both in a clone and in an installed wheel."""
POM: Final = BROKER_FOLDER / "pom.xml"
INSTALL_ADVICE: Final = (
    "install Java 17 and Maven (Debian: apt install openjdk-17-jre-headless maven), or start Docker, "
    "or set PURCHASE_STREAM_KAFKA__BOOTSTRAP_SERVERS to your own Kafka"
)


def kafka_version(pom: Path = POM) -> str:
    """Return the Kafka version that the pom pins."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", pom.read_text(encoding="utf-8"))
    if found is None:
        raise StartupError(f"{pom} pins no kafka.version; restore the file")
    return found[1]


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the cache folder of the pinned version (in ``XDG_CACHE_HOME``, else ``~/.cache``)."""
    configured = environment.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore relative paths.
    caches = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    return caches / "purchase-stream" / f"kafka-{kafka_version()}"


def kafka_jars() -> Path:
    """Return the folder of the jars; download them first if necessary.

    Raises:
        StartupError: They are not cached, and Maven is missing or fails.
    """
    folder = cache_folder(os.environ)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _fetch(folder)
    except OSError as error:
        raise StartupError(f"Kafka's jars cannot be stored in {folder}: {error}") from error
    return folder


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise StartupError(
            f"Kafka's jars are not in {folder}, and there is no mvn to download them: {INSTALL_ADVICE}"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="incomplete-") as parent:
        incomplete = Path(parent) / folder.name
        command = [
            maven,
            "--quiet",
            "--batch-mode",
            f"--file={POM}",
            "dependency:copy-dependencies",
            f"-DoutputDirectory={incomplete}",
        ]
        fetched = subprocess.run(  # noqa: S603 - fixed words and our own paths
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if fetched.returncode != 0 or not any(incomplete.glob("kafka_*.jar")):
            raise StartupError(
                f"mvn could not download Kafka's jars: {_reason(fetched.stdout + fetched.stderr)}"
            )
        incomplete.rename(folder)


def _reason(maven_output: str) -> str:
    errors = [line for line in maven_output.splitlines() if line.startswith("[ERROR]")]
    return errors[0].removeprefix("[ERROR]").strip() if errors else f"it printed nothing; {INSTALL_ADVICE}"
