# noqa: INP001 - a script; deploy is no package
"""Ask whatever role runs in this container whether it is alive; exit 0 if so.

The image does not know which role it will run, so every role's port is asked: those where nobody
listens are other roles'. Only the standard library, because it runs every few seconds.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from typing import Final

_PORTS: Final = {"SCORE_PORT": "9101", "MONITOR_PORT": "9100", "SERVE_PORT": "8000"}
"""The last part of each setting's environment variable, and its default."""

_TIMEOUT_S: Final = 2.0


def live(port: int) -> bool | None:
    """Return what ``/health/live`` on a local port says, or None where nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=_TIMEOUT_S):
            return True
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ConnectionRefusedError) else False
    except OSError:  # a response that does not come in time
        return False


def main() -> int:
    """Return 0 if at least one role listens here and all that do are alive, else 1."""
    ports = [
        int(os.environ.get(f"PURCHASE_STREAM_HTTP__{name}", default)) for name, default in _PORTS.items()
    ]
    answers = {port: answer for port in ports if (answer := live(port)) is not None}
    said = [f"port {port} is {'live' if ok else 'not live'}" for port, ok in answers.items()]
    print(", ".join(said) or "nobody listens")  # noqa: T201 - Docker keeps it as the check's output
    return 0 if answers and all(answers.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
