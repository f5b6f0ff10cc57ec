"""Render the monitor's dashboard and the drift report: one set of templates over ``/monitoring/*``."""
