"""With a key, the monitor's files name no student, and everything that joins by id still works."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import orjson
import pytest

from consumer.errors import StartupError
from consumer.monitor.audit.hashed_ids import IdHasher, id_hasher, is_hashed
from consumer.monitor.audit.lines import audit_lines
from consumer.monitor.drift.window import student_hashes
from consumer.settings import AuditSettings
from tests.unit.monitor.conftest import Predict

KEY = b"0123456789abcdef"


def test_a_hashed_id_is_an_hmac_that_names_its_key() -> None:
    """The hash depends on the key and the id alone; ids hashed with another key have another prefix."""
    hasher = IdHasher(KEY)
    hashed = hasher.hashed(b"student-1")
    assert hashed.removeprefix(hasher.prefix) == hmac.new(KEY, b"student-1", hashlib.sha256).hexdigest()
    assert is_hashed(hashed)
    assert not is_hashed("hmac-1")
    assert IdHasher(KEY + b"!").prefix != hasher.prefix
    assert KEY.decode() not in hashed


def test_lines_have_hashed_ids_and_are_otherwise_the_same(predict: Predict) -> None:
    """Only the two ids differ."""
    batch, hasher = predict(range(5)), IdHasher(KEY)

    def lines(hasher: IdHasher | None) -> list[dict[str, object]]:
        text = audit_lines(
            batch, source_topic="e", output_topic="p", partitions=[0] * 5, offsets=range(5), hasher=hasher
        )
        return [orjson.loads(line) for line in text.splitlines()]

    for plain, hashed in zip(lines(None), lines(hasher), strict=True):
        ids = {name: hasher.hashed(str(plain[name]).encode()) for name in ("event_id", "student_id")}
        assert hashed == plain | ids


def test_students_are_told_apart_by_keyed_hashes(predict: Predict) -> None:
    """The saved state has other numbers with the key, and as many different ones."""
    batch = predict(range(100))
    keyed = student_hashes(batch, IdHasher(KEY))
    assert len(set(keyed.tolist())) == 100
    assert not set(keyed.tolist()) & set(student_hashes(batch).tolist())
    assert (keyed == student_hashes(batch, IdHasher(KEY))).all()


def test_the_key_must_be_there_and_long_enough(tmp_path: Path) -> None:
    """A missing or short key is an error, not a log with plain ids."""
    assert id_hasher(AuditSettings()) is None
    path = tmp_path / "key"
    settings = AuditSettings(hash_ids_key_file=path)
    with pytest.raises(StartupError, match="cannot be read"):
        id_hasher(settings)
    path.write_bytes(b"short\n")
    with pytest.raises(StartupError, match="openssl rand"):
        id_hasher(settings)
    path.write_bytes(KEY + b"\n")
    found = id_hasher(settings)
    assert found is not None
    assert found.prefix == IdHasher(KEY).prefix
