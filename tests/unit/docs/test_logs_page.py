"""docs/logs.md lists log events that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import consumer
from consumer.errors import Condition

PAGE = Path(__file__).parents[3] / "docs" / "logs.md"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def logged_events() -> dict[str, set[str]]:
    """Return every event in the code with its fields."""
    events: dict[str, set[str]] = {}
    for file in Path(consumer.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and ast.unparse(node.func.value) == "log"
            ):
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                if node.func.attr == "exception":
                    fields.add("exception")
                event = node.args[1 if node.func.attr == "log" else 0]
                for text in [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]:
                    where = f"{file}:{node.lineno}"
                    assert isinstance(text, ast.Constant), f"{where}: the event is not constant"
                    assert isinstance(text.value, str), where
                    events.setdefault(text.value, set()).update(fields)
    return events


def test_the_page_lists_every_event_with_its_fields() -> None:
    """An event that was added or renamed is on the page."""
    rows = re.findall(r"^\| `([^`]+)` \| \w+ \|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    listed = {event: set(re.findall(r"`(\w+)`", fields)) for event, fields in rows}
    assert listed == logged_events()
    assert len(listed) == len(rows)


def test_the_page_lists_every_condition() -> None:
    """The closed set of the code."""
    last = PAGE.read_text().rsplit("A condition is one of", 1)[1]
    assert re.findall(r"`(\w+)`", last) == list(Condition)
