"""The gRPC link between a server and its devices, behind Flower's Grid."""
