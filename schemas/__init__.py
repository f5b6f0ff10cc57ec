"""The Avro contract: what events, predictions and outcomes look like on the wire.

Every published version of a schema stays in this folder, so that a record written with an older
one can still be read. See :mod:`schemas.repository` and :mod:`schemas.framing`.
"""
