"""Purchase Stream: what runs."""
