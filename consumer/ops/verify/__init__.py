"""Verify the guarantees: every event decided exactly once, every prediction logged exactly once.

The verifier shares only the schemas, the settings and the Kafka client with the stream.
"""
