"""The audit log: one JSON line for each committed prediction."""
