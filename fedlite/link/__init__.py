"""The gRPC link behind Flower's Grid: mutual TLS, 4 MiB frames, redelivery, exactly-once counting."""
