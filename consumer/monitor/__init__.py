"""Watch the committed predictions: the audit log, drift, outcomes and the health of the stream."""
