"""The contract between worker and bandit server, and its generated stubs."""
