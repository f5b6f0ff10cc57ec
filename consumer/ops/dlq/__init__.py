"""Inspect dead letters, and replay or repair their events."""
