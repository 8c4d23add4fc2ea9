"""The worker's step and start-up beside hand-written loops and torchdistill (docs/worker-speed.md)."""
