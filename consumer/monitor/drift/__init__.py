"""Drift: live students against training students."""
