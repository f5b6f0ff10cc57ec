"""The worked examples in the docstrings of the pure packages hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import consumer.columnar
import consumer.pipeline

_MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (consumer.columnar, consumer.pipeline)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", _MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    """Each is run as it stands in the docstring."""
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
