"""What can be wrong with a schema, as opposed to with a record."""


class SchemaError(Exception):
    """A schema cannot be used; the message names the schema and the reason."""
