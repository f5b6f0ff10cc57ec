"""Halving finds what reading everything through would find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import StartupError
from consumer.ops.why.lookup import find_line, narrow


def probe_of(numbers: list[int | None]) -> Any:
    """Return what looks at a list, in which ``None`` is a record of something else."""

    def probe(begin: int, end: int) -> tuple[int, int] | None:
        for at in range(begin, end):
            if (number := numbers[at]) is not None:
                return at, number
        return None

    return probe


@given(
    steps=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), max_size=60),
    wanted=st.integers(-1, 100),
    enough=st.integers(1, 5),
)
def test_a_number_is_in_the_part_if_it_is_anywhere(
    steps: list[tuple[int, int]], wanted: int, enough: int
) -> None:
    """Numbers may leave some out, and lie among records of other things."""
    numbers: list[int | None] = []
    number = 0
    for step, others in steps:
        numbers += [*[None] * others, number]
        number += step
    begin, end = narrow(probe_of(numbers), 0, len(numbers), wanted, enough)
    assert end - begin <= max(enough, 0) or end - begin <= 1
    assert (wanted in numbers[begin:end]) == (wanted in numbers)


@given(
    runs=st.lists(st.integers(0, 8), min_size=1, max_size=6),
    wanted=st.integers(0, 40),
)
def test_a_number_that_is_repeated_is_found_at_least_once(runs: list[int], wanted: int) -> None:
    """An at-least-once writer goes back and writes the same numbers again."""
    numbers: list[int | None] = [0]
    for back in runs:
        begin = max(0, (numbers[-1] or 0) - back)
        numbers += range(begin, (numbers[-1] or 0) + 4)
    begin, end = narrow(probe_of(numbers), 0, len(numbers), wanted, 1)
    assert (wanted in numbers[begin:end]) == (wanted in numbers)


def line(partition: int, offset: int, topic: str = "p") -> bytes:
    """Return something like an audit line, of a length that varies."""
    output = {"topic": topic, "partition": partition, "offset": offset}
    return json.dumps({"event_id": "x" * (offset * 37 % 211), "output": output}).encode() + b"\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """An audit log of three files, with lines of two partitions and a torn tail."""
    path = tmp_path / "log.jsonl"
    lines = [line(n % 3 % 2, n) for n in range(0, 6000, 2)]
    (tmp_path / "log.jsonl.000001").write_bytes(b"".join(lines[:1000]))
    (tmp_path / "log.jsonl.000002").write_bytes(b"".join(lines[1000:2000]))
    path.write_bytes(b"".join([*lines[2000:2500], b"garbage\n", *lines[2500:], line(0, 6000)[:-5]]))
    return path


@pytest.mark.parametrize("offset", [0, 2, 1996, 1998, 2000, 3000, 4000, 5004, 5998])
def test_a_line_is_found_in_whichever_file_it_is(log: Path, offset: int) -> None:
    """At the ends of files, too, and it is where it is said to be."""
    found = find_line(log, "p", offset % 3 % 2, offset)
    assert found is not None
    assert found.fields["output"]["offset"] == offset
    content = found.path.read_bytes()[found.at_byte :]
    assert content.startswith(line(offset % 3 % 2, offset))


@pytest.mark.parametrize(
    ("topic", "partition", "offset"), [("p", 0, 1), ("p", 0, 6000), ("q", 0, 0), ("p", 7, 0), ("p", 1, 0)]
)
def test_a_line_that_is_not_there_is_not_found(log: Path, topic: str, partition: int, offset: int) -> None:
    """Another topic's, another partition's, one that is being written."""
    assert find_line(log, topic, partition, offset) is None


def test_without_a_log_it_says_so(tmp_path: Path) -> None:
    """And names the setting."""
    with pytest.raises(StartupError, match=r"audit\.path"):
        find_line(tmp_path / "none.jsonl", "p", 0, 0)
