"""The synchronous API: the same predictions over HTTP."""
