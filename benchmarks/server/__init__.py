"""The speed of the bandit server, the workers it can carry, and its faults (docs/server-speed.md, docs/scale.md)."""
