"""Speed, scale and faults of the bandit server (docs/server-speed.md, docs/scale.md)."""
