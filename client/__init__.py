"""The device program: python -m client."""
