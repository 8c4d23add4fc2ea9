"""The store: the histories of runs, behind the Redis protocol. base.py has what callers may assume."""
