"""The scorer: poll, process, publish, commit."""
