"""Kafka, students and the show: everything `demo` needs that a real deployment does not."""
