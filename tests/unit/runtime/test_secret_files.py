"""A rotated secret ends the role, so that its supervisor restarts it with the new one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from consumer.errors import FatalError
from consumer.runtime.secret_files import SecretFiles


def test_a_changed_secret_stops_the_role_and_names_the_file(tmp_path: Path) -> None:
    """The exit code is 75: start again."""
    secret = tmp_path / "kafka__client"
    secret.write_text("old")
    stopped = threading.Event()
    files = SecretFiles([secret], stopped.set, check_every_s=0.01)
    files.start()
    files.raise_if_changed()
    secret.write_text("new")
    assert stopped.wait(10)
    with pytest.raises(FatalError, match="kafka__client has changed") as raised:
        files.raise_if_changed()
    assert raised.value.exit_code == 75
    files.stop()


def test_a_file_that_is_being_replaced_has_not_changed_yet(tmp_path: Path) -> None:
    """It may be missing for a moment, half written, or written again with the same content."""
    secret, other = tmp_path / "password", tmp_path / "ca.pem"
    secret.write_text("old")
    other.write_text("same")
    files = SecretFiles([secret, other, tmp_path / "never there"], lambda: None)
    other.write_text("same")
    secret.unlink()
    assert files.check() is None
    secret.write_text("ne")
    assert files.check() is None
    secret.write_text("new")
    assert files.check() is None
    assert files.check() == secret


def test_a_mounted_secret_is_a_link_that_is_switched(tmp_path: Path) -> None:
    """Kubernetes replaces the folder behind the link in one step."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "password").write_text(name)
    link, secret = tmp_path / "..data", tmp_path / "password"
    link.symlink_to("one")
    secret.symlink_to("..data/password")
    files = SecretFiles([secret], lambda: None)
    (tmp_path / "new link").symlink_to("two")
    (tmp_path / "new link").replace(link)
    assert files.check() is None
    assert files.check() == secret
