"""Check a page against the rules of WCAG with axe-core, fetched from npm once and cached."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.browser import Chromium

VERSION: Final = "4.14.1"
_TAGS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def axe_script(folder: Path) -> str:
    """Return the script; skips the test where npm is missing or cannot fetch it.

    Args:
        folder: A folder that is kept between runs.
    """
    script = folder / VERSION / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        _fetch(script.parents[2])
    if not script.exists():
        pytest.skip("needs axe-core from npm")
    return script.read_text("utf-8")


@cache
def _fetch(folder: Path) -> None:
    """Install axe-core into a folder, if npm can. Tried once: npm takes a minute to give up."""
    npm = shutil.which("npm")
    if npm is None:
        return
    options = ("--silent", "--no-audit", "--no-fund", "--prefix", str(folder))
    command = [npm, "install", *options, f"axe-core@{VERSION}"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, check=False, timeout=60, capture_output=True)  # noqa: S603


def violations(browser: Chromium, script: str) -> list[Any]:
    """Return the broken rules of levels A and AA on the open page, each with its elements."""
    if not browser.ask("typeof axe !== 'undefined'"):
        browser.ask(f"{script}; 0")
    options = {"runOnly": {"type": "tag", "values": _TAGS}, "resultTypes": ["violations"]}
    found = browser.ask(f"axe.run(document, {options}).then(found => found.violations)")
    return [(rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in found]
