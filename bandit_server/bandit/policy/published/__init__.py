"""Policies from the literature, for comparison in simulations and benchmarks. A server does not offer them."""
