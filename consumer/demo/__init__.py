"""Run the whole stream on one machine: a Kafka, generated students, progress, a verified result."""
