"""From events to predictions. Pure: bytes and arrays in, bytes and arrays out.

1. No I/O, clock, logging, metrics or randomness; the import contracts enforce this. A schema look-up or
   a model is an argument.
2. A *row* is a record's index in its poll batch and identifies it throughout. Every stage returns the
   rows that continue and the rows that are rejected; together they are all rows, and none is in both.
3. A faulty event is a value (:class:`~consumer.pipeline.rejections.Rejections`). An exception means that
   the batch as a whole could not be processed.

The stages::

    RawBatch ─ decode ─ RecordBatch ─ validate ─ RecordBatch ─ score ─ Scored ─ encode ─ PipelineResult
                 └─────── Rejections ────┴─────── Rejections ────┘                │
                                     └───────────── dead letters ─────────────────┘
"""
