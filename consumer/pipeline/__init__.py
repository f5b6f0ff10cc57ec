"""The decision, pure: bytes and arrays in, bytes and arrays out.

Rule 1: no I/O, clock, logging, metrics or randomness in here; whoever owns those calls us.
(`lint-imports` holds it.) What comes from outside, such as a schema look-up or a model, is an argument.

Rule 2: a *row* is a message's index in its poll batch and its identity all the way. Every stage
answers with rows that go on and rows that are rejected; together they are all rows, and no row is
in both. Later stages carry rows, never copies of bytes.

Rule 3: a data fault is a value (:class:`~consumer.pipeline.batch.Rejection`). An exception means that
the batch as a whole could not run.

The walk, in file order::

    RawBatch ─ decode ─ RecordBatch ─ validate ─ RecordBatch ─ score ─ Scored ─ encode ─ PipelineResult
                 └────────── Rejection ──┴──────── Rejection ──┘                │
                                     └──────────── dead letters ────────────────┘
"""
