"""The errors of the model store.

Every message is one line that says what is wrong, where, and what to do.
"""

from __future__ import annotations


class ModelStoreError(Exception):
    """A store, an alias or a version is unusable; the message names it and the reason."""


class TrainingDataError(Exception):
    """Training data is unusable; the message names the file, the line and the column."""
