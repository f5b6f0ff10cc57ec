"""Outcomes: predictions joined to purchases."""
