"""Columns over one buffer: Avro records, text, dictionaries and JSON. Pure."""
