"""A password is changed while two scorers work: they are restarted with the new one, and nothing is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from consumer.ops.acls import User, grants
from tests.faults.service import Service
from tests.support.secured_kafka import SecuredKafka, secured_kafka

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A locked-down Kafka."""
    with secured_kafka(tmp_path_factory.mktemp("secured")) as kafka:
        yield kafka


def write_secret(file: Path, password: str) -> None:
    """Replace a secrets file at once, as container platforms do."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"sasl.password": password}), encoding="utf-8")
    new.rename(file)


def test_a_password_is_rotated_under_load(
    secured: SecuredKafka, store: Path, tmp_path: Path, holds: Callable[..., None]
) -> None:
    """Each scorer commits what is in flight and exits 75; its supervisor starts it with the new password."""
    client = secured.scram("scorer")
    servers, _ = client.pop("bootstrap.servers"), client.pop("sasl.password")
    folder = tmp_path / "secrets"
    folder.mkdir()
    secret = folder / "kafka__client"
    write_secret(secret, "password-0")
    secured.add_user("scorer", "password-0")
    plain = secured.broker.bootstrap_servers
    with Service(plain, tmp_path, store, scorer_servers=servers, client=client) as service:
        rights = grants(service.settings, User.SCORE)
        secured.allow("scorer", *[(g.resource, g.name + "*" * g.prefixed, g.operation) for g in rights])
        codes = [
            service.supervise(service.start("score", instance, SECRETS_DIR=str(folder))) for instance in "ab"
        ]
        flowing = service.flow(30_000, seconds=30)
        recoveries_s = []
        for n_rotations in (1, 2):
            service.await_progress()
            password = f"password-{n_rotations}"
            secured.add_user("scorer", password)
            changed_s = time.monotonic()
            write_secret(secret, password)
            service.await_that(
                partial(lambda n: all(len(found) == n for found in codes), n_rotations), 60, "not restarted"
            )
            service.await_progress()
            recoveries_s.append(time.monotonic() - changed_s)
        flowing.result()
        service.await_decided()
        said = "".join({process.log: process.output() for process in service.processes}.values())
        assert said.count(f"{secret} has changed; start again to use its new content") == 4
        holds("the password is changed", "2 times, under 2 scorers", service.verdict(), recoveries_s)
