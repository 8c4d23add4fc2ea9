"""The content of the pages as plain values, computed from the messages of the bandit server. Pure."""
