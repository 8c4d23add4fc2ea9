"""The store: histories of runs behind the Redis protocol. base.py says what callers may assume."""
