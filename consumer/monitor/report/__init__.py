"""The drift report: any span of the audit log against training, as one HTML file to keep or to mail."""
