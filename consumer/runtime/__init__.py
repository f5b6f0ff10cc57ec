"""The parts around a role's main loop: HTTP, readiness, watchdog, supervisor, lifeline, logging."""
