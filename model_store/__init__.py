"""From data to a verified model: reading, features, training, versions and aliases.

Knows nothing of Kafka or of the command line, and imports nothing of ``consumer``.
"""
