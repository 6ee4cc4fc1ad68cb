"""How the mean of updates becomes the next model. Each file states only what differs from FedAvg."""
