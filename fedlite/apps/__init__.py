"""The server app and the client app, written once against Flower's public objects, run on any Grid."""
