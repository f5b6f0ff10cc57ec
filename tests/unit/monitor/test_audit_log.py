"""The audit log: appends, rotation, refusals and full disks. Crashes are in test_audit_log_crashes."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.errors import InvariantError, StartupError, Unavailable
from consumer.monitor.audit.log import AuditLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = {"cluster_id": "c", "topic": "purchase-predictions", "topic_id": "t"}


def open_log(path: Path, rotate_bytes: int = 1 << 30, **source: str) -> AuditLog:
    """Open the log like a monitor of the usual topic."""
    return AuditLog.open(path, rotate_bytes=rotate_bytes, source=SOURCE | source)


def whole(path: Path) -> bytes:
    """Return the content of all segments and the log."""
    segments = sorted(path.parent.glob(f"{path.name}.0*"))
    return b"".join(part.read_bytes() for part in [*segments, path])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a path in a folder that does not exist yet."""
    return tmp_path / "folder" / "log.jsonl"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603 - fixed words
        pytest.skip("this machine lets nobody mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607 - fixed words


def test_a_new_log_begins_empty_and_private(path: Path) -> None:
    """A new log has no offsets, and others cannot read its files."""
    log = open_log(path)
    log.append(b"one\n", {0: 1})
    log.close()
    assert path.read_bytes() == b"one\n"
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o137 == 0, file


def test_a_restart_goes_on_where_the_log_was(path: Path) -> None:
    """Reopening gives the offsets after the last append, and the lines follow each other."""
    first = open_log(path)
    first.append(b"one\n", {0: 1})
    first.append(b"two\n", {1: 7})
    first.close()
    second = open_log(path)
    assert second.next_offsets == {0: 1, 1: 7}
    second.append(b"three\n", {0: 2})
    second.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(tail=st.binary(min_size=1, max_size=300))
def test_whatever_lies_beyond_the_checkpoint_is_cut(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    """Bytes after the checkpointed length are removed when the log is opened again."""
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    log = open_log(path)
    log.append(b"one\n", {0: 1})
    log.close()
    with path.open("ab") as file:
        file.write(tail)
    open_log(path).close()
    assert path.read_bytes() == b"one\n"


def test_a_repeated_append_adds_nothing(path: Path) -> None:
    """Repeating an append whose offsets the log already has adds no lines."""
    log = open_log(path)
    log.append(b"one\n", {0: 1})
    log.append(b"one\n", {0: 1})
    log.close()
    assert path.read_bytes() == b"one\n"


def test_offsets_never_go_back(path: Path) -> None:
    """An append that would go back in the topic is refused and leaves the log as it was."""
    log = open_log(path)
    log.append(b"one\n", {0: 5})
    with pytest.raises(InvariantError, match="partition 0 would go back from offset 5 to 4"):
        log.append(b"two\n", {0: 4})
    log.close()
    assert path.read_bytes() == b"one\n"


def test_a_full_log_is_set_aside(path: Path) -> None:
    """Segments are numbered from 1 across restarts, and together with the log hold every line in order."""
    expected = b""
    for start in range(0, 30, 10):
        log = open_log(path, rotate_bytes=20)
        for i in range(start, start + 10):
            line = b"line %d\n" % i
            log.append(line, {0: i + 1})
            expected += line
        log.close()
    names = sorted(file.name for file in path.parent.glob("log.jsonl.0*"))
    assert names == [f"log.jsonl.{n:06d}" for n in range(1, len(names) + 1)]
    assert len(names) > 5
    assert whole(path) == expected


def test_closed_segments_may_be_moved_away(path: Path) -> None:
    """A closed segment can be moved away, and its number is not used again."""
    log = open_log(path, rotate_bytes=1)
    log.append(b"one\n", {0: 1})
    log.append(b"two\n", {0: 2})
    log.close()
    path.with_name("log.jsonl.000001").unlink()
    log = open_log(path, rotate_bytes=1)
    log.append(b"three\n", {0: 3})
    log.close()
    assert path.with_name("log.jsonl.000002").read_bytes() == b"two\n"
    assert path.read_bytes() == b"three\n"


def test_a_second_monitor_is_refused(path: Path) -> None:
    """Opening a log that is being written names the writing process, even through a link."""
    log = open_log(path)
    alias = path.with_name("alias.jsonl")
    alias.symlink_to(path)
    code = (
        "import sys; from pathlib import Path; from consumer.monitor.audit.log import AuditLog;"
        "from consumer.errors import StartupError\n"
        "try: AuditLog.open(Path(sys.argv[1]), rotate_bytes=1, source={})\n"
        "except StartupError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(alias)]
    rival = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own code
    assert f"already written by process {os.getpid()};" in rival.stdout
    log.append(b"one\n", {0: 1})
    log.close()
    open_log(path).close()


def test_a_shortened_log_is_refused(path: Path) -> None:
    """A truncated or removed log is refused, not continued."""
    log = open_log(path)
    log.append(b"one\n", {0: 1})
    log.close()
    os.truncate(path, 2)
    with pytest.raises(StartupError, match="has 2 bytes, but 4 bytes were written; restore it"):
        open_log(path)
    path.unlink()
    with pytest.raises(StartupError, match="is missing, but 4 bytes were written"):
        open_log(path)


def test_a_log_shortened_while_it_is_written_is_refused(path: Path) -> None:
    """The next append notices that the log was truncated or replaced meanwhile."""
    log = open_log(path)
    log.append(b"one\n", {0: 1})
    os.truncate(path, 0)
    with pytest.raises(StartupError, match="has 0 bytes, but 4 bytes were written"):
        log.append(b"two\n", {0: 2})
    path.unlink()
    with pytest.raises(StartupError, match="is missing"):
        log.append(b"two\n", {0: 2})
    path.with_name("log.jsonl.checkpoint").unlink()
    with pytest.raises(StartupError, match="lost its checkpoint"):
        log.append(b"two\n", {0: 2})
    log.close()


def test_lines_without_a_checkpoint_are_refused(path: Path) -> None:
    """A file with lines but without a checkpoint is refused; an empty file is used."""
    path.parent.mkdir()
    path.write_bytes(b"somebody else's\n")
    with pytest.raises(StartupError, match="the checkpoint is missing; restore the checkpoint"):
        open_log(path)
    path.write_bytes(b"")
    open_log(path).close()


def test_a_foreign_segment_is_not_overwritten(path: Path) -> None:
    """A file with the name of the next segment is not overwritten."""
    log = open_log(path, rotate_bytes=1)
    log.append(b"one\n", {0: 1})
    stranger = path.with_name("log.jsonl.000001")
    stranger.write_bytes(b"somebody else's\n")
    with pytest.raises(StartupError, match=r"become the segment log\.jsonl\.000001, which exists already"):
        log.append(b"two\n", {0: 2})
    log.close()
    with pytest.raises(StartupError, match=r"does not match the segment log\.jsonl\.000001"):
        open_log(path)
    assert stranger.read_bytes() == b"somebody else's\n"


def test_another_source_is_refused(path: Path) -> None:
    """A log is not continued from another topic, nor from a new topic with the same name."""
    open_log(path).close()
    with pytest.raises(StartupError, match=r"another source \(topic_id t, now other\)"):
        open_log(path, topic_id="other")


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"format": 2, "source": {}}', b"\xff"])
def test_a_damaged_checkpoint_is_refused(path: Path, content: bytes) -> None:
    """An invalid checkpoint is an error that names the file, not a new start."""
    open_log(path).close()
    path.with_name("log.jsonl.checkpoint").write_bytes(content)
    with pytest.raises(StartupError, match=r"log\.jsonl\.checkpoint is not a valid checkpoint"):
        open_log(path)


def test_a_path_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """A path below a file is a configuration error with a message of one line."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match="cannot be opened: Not a directory"):
        open_log(tmp_path / "file" / "folder" / "log.jsonl")


def test_a_full_disk_is_waited_out(small_disk: Path) -> None:
    """On a full disk every append fails as a whole; with space, the lines are added once."""
    path, ballast = small_disk / "log.jsonl", small_disk / "ballast"
    log = open_log(path)
    log.append(b"one\n", {0: 1})
    ballast.write_bytes(b"x" * 36_000)
    lines = b"0123456789\n" * 2000
    for _ in range(3):
        with pytest.raises(Unavailable, match="No space left on device"):
            log.append(lines, {0: 2})
        assert path.read_bytes() == b"one\n"
    ballast.unlink()
    log.append(lines, {0: 2})
    log.close()
    assert path.read_bytes() == b"one\n" + lines


def test_a_file_size_limit_is_waited_out(path: Path) -> None:
    """If a file-size limit cuts an append short, none of its lines stays; later all are added."""
    log = open_log(path)
    log.append(b"one\n", {0: 1})
    lines = b"0123456789\n" * 200
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(Unavailable, match="File too large"):
            log.append(lines, {0: 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"one\n"
    log.append(lines, {0: 2})
    log.close()
    assert path.read_bytes() == b"one\n" + lines
