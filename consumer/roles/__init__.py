"""The composition root: settings in, a role that is ready to run out."""
