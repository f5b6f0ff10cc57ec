"""What every role needs around its loop: HTTP, readiness, watchdog, supervisor, logging."""
