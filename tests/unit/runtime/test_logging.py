"""Log lines: their level and format are settings."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest
import structlog

from consumer.cli.context import Context
from consumer.runtime import logging as logs


def test_lines_are_json_where_no_terminal_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    """One object per line, with the one form of a time."""
    logs.configure()
    structlog.get_logger().info("model activated", version="v1")
    line = orjson.loads(capsys.readouterr().err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {"event": "model activated", "level": "info", "version": "v1"}


def test_a_console_line_has_no_colours_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A file or the parent's log can hold it."""
    logs.configure(format_="console")
    structlog.get_logger().warning("not ready", condition="broker")
    written = capsys.readouterr().err
    assert "not ready" in written
    assert "condition=broker" in written
    assert "\x1b" not in written


def test_the_level_is_a_setting(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes effect as soon as the settings are loaded; ``--debug`` overrides it."""
    monkeypatch.chdir(tmp_path)
    for debug, expected in ((False, ["warning"]), (True, ["debug", "info", "warning"])):
        Context(None, ["log.level=warning", "log.format=json"], debug).settings()
        log = structlog.get_logger()
        log.debug("a")
        log.info("b")
        log.warning("c")
        assert [orjson.loads(line)["level"] for line in capsys.readouterr().err.splitlines()] == expected
