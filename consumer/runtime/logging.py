"""Log lines on standard error: text on a terminal, one JSON object per line elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from consumer import timestamps

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]


def configure(level: Level = "info", format_: Format = "auto") -> None:
    """Configure our own logging and that of the libraries. May be called again.

    Args:
        level: The lowest level of our own lines. Libraries log errors only, unless it is ``debug``.
        format_: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
    """
    logging.basicConfig(
        level=logging.DEBUG if level == "debug" else logging.ERROR,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    if level == "debug":
        logging.getLogger().setLevel(logging.DEBUG)
    terminal = sys.stderr.isatty()
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal)
        if format_ == "console" or (format_ == "auto" and terminal)
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_timestamp,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _add_timestamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = timestamps.format_s(time.time())
    return event
