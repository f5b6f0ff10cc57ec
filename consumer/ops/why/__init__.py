"""Explain what happened to an event: its prediction, or its rejection."""
