"""Looks at everything that the roles need, as an operator would who was just woken up."""
