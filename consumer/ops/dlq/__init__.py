"""What an operator does with dead letters: look at them, and send their events in again."""
