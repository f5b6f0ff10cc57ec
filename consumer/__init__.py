"""Purchase Stream: the roles and the command line."""
