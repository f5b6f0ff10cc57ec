"""Run the whole stream on one machine: Kafka, generated students, live progress and a verified result."""
