"""Smaller models and smaller updates: pruning, quantization, codecs. Knows no keys and no network."""
