"""Kafka, for the roles: sessions, readers, topics, and what librdkafka's errors mean."""
