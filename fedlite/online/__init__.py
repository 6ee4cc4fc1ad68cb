"""Learning from samples as they arrive."""
