"""What became of one event, and why. Reads only."""
