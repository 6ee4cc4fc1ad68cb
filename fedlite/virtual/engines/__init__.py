"""Who trains a block of virtual clients: one interface, and the same numbers to rounding whoever does it."""
