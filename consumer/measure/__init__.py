"""How fast the decision is on this machine."""
