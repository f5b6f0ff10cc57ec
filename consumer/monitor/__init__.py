"""The monitor: committed predictions in, the views that people look at out."""
