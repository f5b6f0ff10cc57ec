"""Train models, store their versions, and load them verified.

Independent of Kafka and the command line: nothing here imports ``consumer``.
"""
