"""What must survive a power cut. Knows bytes, hashes and rows, no models."""
