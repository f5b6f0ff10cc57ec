"""``python -m consumer`` is ``purchase-stream``."""

from consumer.cli import main

main()
