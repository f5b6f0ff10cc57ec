"""The monitor's trained model and its predictions, for what is drawn from them."""

from tests.unit.monitor.conftest import empty_store, predict, trained

__all__ = ["empty_store", "predict", "trained"]
