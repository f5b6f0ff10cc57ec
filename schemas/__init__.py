"""The Avro schemas of events, predictions and outcomes.

Every published version stays in this folder, so that records written with it can still be read. See
:mod:`schemas.repository`.
"""
