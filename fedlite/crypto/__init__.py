"""Identities, sealed envelopes, certificates. Knows bytes, no models."""
