"""Train models, store their versions, and verify them when they are loaded.

Independent of Kafka and the command line: nothing here imports ``consumer``.
"""
