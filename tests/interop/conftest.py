"""The deployment of the broker tests, for clients in other languages."""

from tests.broker.conftest import deploy, trained_store

__all__ = ["deploy", "trained_store"]
