"""The oracle: was every event decided exactly once, and every prediction logged exactly once?

It shares the schemas, the settings and the Kafka client with the stream, and no other code.
"""
