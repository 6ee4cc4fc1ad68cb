"""The simulator program: python -m simulations."""
