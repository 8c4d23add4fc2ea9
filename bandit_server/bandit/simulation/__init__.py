"""Bandit problems with a known best player, and a player for any policy."""
