"""Data sets, a user's own data, and how samples are divided among clients."""
