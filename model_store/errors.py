"""What can go wrong with a model or with the data it is trained on.

Messages are one line: what is wrong, where, and what to do.
"""

from __future__ import annotations


class ModelStoreError(Exception):
    """A store, an alias or a version cannot be used; the message names it and the reason."""


class TrainingDataError(Exception):
    """Training data cannot be used; the message names the file, the line and the column."""
