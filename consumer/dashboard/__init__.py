"""The monitor's page and the drift report: one set of templates over the answers of ``/monitoring/*``."""
