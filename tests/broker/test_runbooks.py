"""Every command of the runbooks runs, on a stream with a dead letter and a model to roll back."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import schemas
from model_store.store import ModelStore
from model_store.synthetic import generate_students
from model_store.training import train
from tests.support.events import good

pytestmark = pytest.mark.broker

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
_COMMAND = re.compile(r"`purchase-stream ([^`\n]+)`|^\s*purchase-stream (.+)$", re.MULTILINE)
_PAGES = "\n".join(page.read_text() for page in RUNBOOKS.glob("*.md"))
COMMANDS = sorted({(inline or block).strip() for inline, block in _COMMAND.findall(_PAGES)})
ROLES = {command for command in COMMANDS if command.split()[0] in {"score", "monitor", "serve"}}


def students_csv(path: Path) -> None:
    """Write training data."""
    table = generate_students(1500, seed=4)
    names = "days_on_platform,minutes_watched,courses_started,practice_exams_started,practice_exams_passed"
    header = f"student_country,{names},minutes_spent_on_exams,purchased"
    rows = (
        ",".join([country, *(f"{value:g}" for value in inputs), str(bought)])
        for country, inputs, bought in zip(table.countries, table.inputs[:, 1:], table.purchased, strict=True)
    )
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.faults
def test_every_command_of_the_runbooks_runs(deploy: Callable[..., Any]) -> None:
    """With its placeholders filled in; roles start and do their work."""
    assert len(COMMANDS) > 10
    service = deploy(partitions=2)
    folder = service.folder
    shutil.copytree(service.environment["PURCHASE_STREAM_MODEL_STORE__PATH"], folder / "models")
    service.environment |= {
        "PURCHASE_STREAM_MODEL_STORE__PATH": str(folder / "models"),
        "PURCHASE_STREAM_AUDIT__PATH": str(folder / "log.jsonl"),
        "PURCHASE_STREAM_HTTP__SERVE_PORT": "0",
    }
    store = ModelStore(folder / "models", "purchase")
    version = store.add(train(generate_students(1000, seed=9)))
    students_csv(folder / "students.csv")
    shutil.copy(next(Path(schemas.__file__).parent.rglob("engagement_event*.avsc")), folder / "platform.avsc")
    fill = {
        "CODE": "field_invalid",
        "PARTITION:OFFSET": "0:0",
        "VERSION": version,
        "FIELD=VALUE": "minutes_watched=0",
        "FILE.csv": "students.csv",
        "FILE.avsc": "platform.avsc",
    }
    service.produce([(b"k", good(minutes_watched=float(n % 9 - 1)), n % 2) for n in range(200)])
    roles = [service.start(*shlex.split(command)) for command in ROLES]
    service.read(service.topics["PREDICTIONS"], 177)
    deadline_s = time.monotonic() + 30
    while (folder / "log.jsonl").read_bytes().count(b"\n") < 177 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert all(process.poll() is None for process in roles), service.logs()
    # The first promotion makes a version to roll back to.
    for command in sorted(set(COMMANDS) - ROLES, key=lambda command: "rollback" in command):
        words = [fill.get(word, word) for word in shlex.split(command)]
        done = subprocess.run(  # noqa: S603 - of the runbooks
            [sys.executable, "-m", "consumer", *words],
            env=os.environ | service.environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if "rollback" in command:
            store.promote(version, reason="again")
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert done.stdout.strip(), command
