"""Detect drift: compare live students with those of the training data."""
