"""Fixtures: the monitor's trained model and its predictions."""

from tests.unit.monitor.conftest import empty_store, predict, trained

__all__ = ["empty_store", "predict", "trained"]
