"""A sample upstream: the events that a learning platform would send, and broken ones among them."""
