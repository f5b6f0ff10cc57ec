"""Simulate the learning platform: send its engagement events, some of them broken on purpose."""
