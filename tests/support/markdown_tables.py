"""The tables of the documentation, so that tests can hold what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[2] / "docs"


def rows(page: str, first_column: str) -> list[list[str]]:
    """Return the cells of a table's rows, without backticks.

    Args:
        page: The file, below ``docs``.
        first_column: The heading of the table's first column.
    """
    lines = iter((DOCS / page).read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            break
    next(lines)  # the line below the headings
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return found
