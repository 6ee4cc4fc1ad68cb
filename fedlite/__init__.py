"""fedlite: federated learning of small, int8 models on many edge devices, without moving their data."""
