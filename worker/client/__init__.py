"""The worker's client of the bandit server: calls, journal, and what happens during an outage."""
