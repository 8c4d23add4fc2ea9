"""The training loop, its state and checkpoints, and where the records of rounds go."""
