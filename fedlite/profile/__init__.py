"""What a model costs on this device, and which model is best within what the device has."""
