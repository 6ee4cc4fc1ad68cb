"""The in-process Grid: the same apps, no network."""
