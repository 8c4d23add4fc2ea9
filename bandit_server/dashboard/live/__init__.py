"""The connection to the bandit server, and the feeds that share it among browsers."""
