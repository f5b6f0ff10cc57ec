"""A real Apache Kafka on this machine, for `demo` and the tests."""
