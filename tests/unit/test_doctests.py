"""Examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import consumer
import model_store
import schemas

MODULES = [
    ".".join(file.relative_to(root.parent).with_suffix("").parts)
    for root in (Path(package.__path__[0]) for package in (consumer, model_store, schemas))
    for file in sorted(root.rglob("*.py"))
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_are_true(module: str) -> None:
    """Each example gives what it shows."""
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted
    assert not result.failed
