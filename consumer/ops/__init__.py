"""Tools for the operator: verify, why, dlq, doctor, bench."""
