"""``python -m consumer.runtime.lifeline …``: the command as a child that must not outlive its parent.

Standard input is a pipe that the parent holds open and never writes to: its end means that the parent is
gone, however it went, on every Unix. The child then stops as if it had been told to.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from consumer.runtime.supervisor import STOP_TIMEOUT_S


def _watch_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    # Nobody reads what we say any more, and to say it must not fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT_S)
    os._exit(1)


if __name__ == "__main__":
    from consumer.cli import main

    threading.Thread(target=_watch_parent, name="parent-watch", daemon=True).start()
    main()
